//! A borrowed device is a device, and a borrowed queue is a queue: a wrapper or a loop may use one
//! for a while, and a device that owns its queues lends them in `split`.

use std::io;

use crate::{
    Buffers, Caps, Counters, Device, Frame, Instant, RxQueue, Selection, SendError, TxMeta,
    TxQueue, Wake,
};

impl<D: Device> Device for &mut D {
    type Rx<'a>
        = D::Rx<'a>
    where
        Self: 'a;
    type Tx<'a>
        = D::Tx<'a>
    where
        Self: 'a;

    fn caps(&self) -> &Caps {
        D::caps(self)
    }

    fn split(&mut self) -> (D::Rx<'_>, D::Tx<'_>) {
        D::split(self)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        D::wake(self)
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        D::select(self, wanted)
    }

    fn counters(&self) -> Counters {
        D::counters(self)
    }

    fn buffers(&self) -> Buffers {
        D::buffers(self)
    }
}

impl<Q: RxQueue + ?Sized> RxQueue for &mut Q {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        Q::fill(self, now)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        Q::next(self)
    }

    fn release(&mut self) {
        Q::release(self);
    }
}

impl<Q: TxQueue> TxQueue for &mut Q {
    fn room(&self) -> usize {
        Q::room(self)
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        Q::send(self, len, meta, write)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        Q::flush(self, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryConfig, MemoryDevice, Trace};

    #[test]
    fn a_wrapper_around_a_borrowed_device_gives_it_back() {
        let (mut device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
        {
            let mut traced = Trace::new(&mut device, "borrowed");
            let (_, mut tx) = traced.split();
            tx.send(60, TxMeta::default(), |frame| frame.fill(1)).unwrap();
            tx.flush(Instant::ZERO).unwrap();
        }
        assert_eq!(device.counters().tx_frames, 1);
        assert_eq!(peer.split().0.fill(Instant::ZERO).unwrap(), 1);
    }
}
