//! A borrowed device is a device: a wrapper or a loop may use one for a while.

use std::io;

use crate::{Buffers, Caps, Counters, Device, Wake};

impl<D: Device> Device for &mut D {
    type Rx = D::Rx;
    type Tx = D::Tx;

    fn caps(&self) -> &Caps {
        D::caps(self)
    }

    fn split(&mut self) -> (&mut Self::Rx, &mut Self::Tx) {
        D::split(self)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        D::wake(self)
    }

    fn counters(&self) -> Counters {
        D::counters(self)
    }

    fn buffers(&self) -> Buffers {
        D::buffers(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Instant, MemoryConfig, MemoryDevice, RxQueue, Trace, TxMeta, TxQueue};

    #[test]
    fn a_wrapper_around_a_borrowed_device_gives_it_back() {
        let (mut device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
        {
            let mut traced = Trace::new(&mut device, "borrowed");
            let (_, tx) = traced.split();
            tx.send(60, TxMeta::default(), |frame| frame.fill(1))
                .unwrap();
            tx.flush(Instant::ZERO).unwrap();
        }
        assert_eq!(device.counters().tx_frames, 1);
        assert_eq!(peer.split().0.fill(Instant::ZERO).unwrap(), 1);
    }
}
