use std::io;

use underpass_devices::{
    Buffers, Caps, Counters, Device, Frame, Instant, MemoryConfig, MemoryDevice, RxQueue,
    SendError, TxMeta, TxQueue, Wake,
};

#[cfg(feature = "packet")]
use crate::packet::{PacketDevice, PacketRx, PacketTx};
#[cfg(feature = "tap")]
use crate::tap::{TapDevice, TapRx, TapTx};
use crate::{OpenError, Spec};

/// A device of any driver that this program was built with, chosen at run time by its [`Spec`].
///
/// ```no_run
/// use underpass_drivers::AnyDevice;
///
/// let device = AnyDevice::open(&"tap:tap0,host=10.7.0.1/24".parse()?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AnyDevice {
    caps: Caps,
    rx: AnyRx,
    tx: AnyTx,
}

/// The receive half of an [`AnyDevice`].
#[derive(Debug)]
pub struct AnyRx(Rx);

/// The transmit half of an [`AnyDevice`].
#[derive(Debug)]
pub struct AnyTx(Tx);

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per queue pair")]
enum Rx {
    #[cfg(feature = "tap")]
    Tap(TapRx),
    #[cfg(feature = "packet")]
    Packet(PacketRx),
    Memory(MemoryDevice),
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per queue pair")]
enum Tx {
    #[cfg(feature = "tap")]
    Tap(TapTx),
    #[cfg(feature = "packet")]
    Packet(PacketTx),
    Memory(MemoryDevice),
}

impl AnyDevice {
    /// Opens a device.
    ///
    /// # Errors
    /// Those of the driver, and always for `memory:`, which needs two ends: see
    /// [`memory_pair`](Self::memory_pair).
    pub fn open(spec: &Spec) -> Result<Self, OpenError> {
        match spec {
            #[cfg(feature = "tap")]
            Spec::Tap { name, config } => TapDevice::open(name, config).map(Self::from),
            #[cfg(feature = "packet")]
            Spec::Packet { name, config } => PacketDevice::open(name, config).map(Self::from),
            Spec::Memory(_) => Err(OpenError::Unsuitable {
                device: spec.to_string(),
                reason: "a memory link has two ends, both in one process: a program makes them \
                         with AnyDevice::memory_pair; to reach anything else use tap: or packet:"
                    .to_owned(),
            }),
        }
    }

    /// Both ends of a link in memory.
    pub fn memory_pair(config: MemoryConfig) -> (Self, Self) {
        // A link of its own for each direction, so that an end can own its halves apart.
        let (there, there_end) = MemoryDevice::pair(config);
        let (back_end, back) = MemoryDevice::pair(config);
        let end = |rx: MemoryDevice, tx: MemoryDevice| Self {
            caps: tx.caps().clone(),
            rx: AnyRx(Rx::Memory(rx)),
            tx: AnyTx(Tx::Memory(tx)),
        };
        (end(back_end, there), end(there_end, back))
    }
}

#[cfg(feature = "tap")]
impl From<TapDevice> for AnyDevice {
    fn from(device: TapDevice) -> Self {
        let caps = device.caps().clone();
        let (rx, tx) = device.into_halves();
        Self {
            caps,
            rx: AnyRx(Rx::Tap(rx)),
            tx: AnyTx(Tx::Tap(tx)),
        }
    }
}

#[cfg(feature = "packet")]
impl From<PacketDevice> for AnyDevice {
    fn from(device: PacketDevice) -> Self {
        let caps = device.caps().clone();
        let (rx, tx) = device.into_halves();
        Self {
            caps,
            rx: AnyRx(Rx::Packet(rx)),
            tx: AnyTx(Tx::Packet(tx)),
        }
    }
}

impl Device for AnyDevice {
    type Rx = AnyRx;
    type Tx = AnyTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut AnyRx, &mut AnyTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        let stalled = match &self.tx.0 {
            #[cfg(feature = "tap")]
            Tx::Tap(tx) => tx.is_stalled(),
            #[cfg(feature = "packet")]
            Tx::Packet(tx) => tx.is_stalled(),
            Tx::Memory(_) => false,
        };
        if stalled {
            return Ok(Wake::Ready);
        }
        match &mut self.rx.0 {
            #[cfg(feature = "tap")]
            Rx::Tap(rx) => Ok(rx.wake()),
            #[cfg(feature = "packet")]
            Rx::Packet(rx) => rx.wake(),
            Rx::Memory(link) => link.wake(),
        }
    }

    fn counters(&self) -> Counters {
        let mut counters = match &self.tx.0 {
            #[cfg(feature = "tap")]
            Tx::Tap(tx) => filled(|counters| tx.count(counters)),
            #[cfg(feature = "packet")]
            Tx::Packet(tx) => filled(|counters| tx.count(counters)),
            Tx::Memory(link) => link.counters(),
        };
        match &self.rx.0 {
            #[cfg(feature = "tap")]
            Rx::Tap(rx) => rx.count(&mut counters),
            #[cfg(feature = "packet")]
            Rx::Packet(rx) => rx.count(&mut counters),
            Rx::Memory(link) => {
                let received = link.counters();
                counters.rx_frames = received.rx_frames;
                counters.rx_bytes = received.rx_bytes;
                counters.rx_overruns = received.rx_overruns;
                counters.rx_errors = received.rx_errors;
            }
        }
        counters
    }

    fn buffers(&self) -> Buffers {
        let mut buffers = match &self.tx.0 {
            #[cfg(feature = "tap")]
            Tx::Tap(tx) => filled(|buffers| tx.account(buffers)),
            #[cfg(feature = "packet")]
            Tx::Packet(tx) => filled(|buffers| tx.account(buffers)),
            Tx::Memory(link) => link.buffers(),
        };
        match &self.rx.0 {
            #[cfg(feature = "tap")]
            Rx::Tap(rx) => rx.account(&mut buffers),
            #[cfg(feature = "packet")]
            Rx::Packet(rx) => rx.account(&mut buffers),
            Rx::Memory(link) => {
                let received = link.buffers();
                buffers.rx_total = received.rx_total;
                buffers.rx_free = received.rx_free;
                buffers.rx_ready = received.rx_ready;
                buffers.rx_lent = received.rx_lent;
            }
        }
        buffers
    }
}

impl RxQueue for AnyRx {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        match &mut self.0 {
            #[cfg(feature = "tap")]
            Rx::Tap(rx) => rx.fill(now),
            #[cfg(feature = "packet")]
            Rx::Packet(rx) => rx.fill(now),
            Rx::Memory(link) => link.split().0.fill(now),
        }
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        match &mut self.0 {
            #[cfg(feature = "tap")]
            Rx::Tap(rx) => rx.next(),
            #[cfg(feature = "packet")]
            Rx::Packet(rx) => rx.next(),
            Rx::Memory(link) => link.split().0.next(),
        }
    }

    fn release(&mut self) {
        match &mut self.0 {
            #[cfg(feature = "tap")]
            Rx::Tap(rx) => rx.release(),
            #[cfg(feature = "packet")]
            Rx::Packet(rx) => rx.release(),
            Rx::Memory(link) => link.split().0.release(),
        }
    }
}

impl TxQueue for AnyTx {
    fn room(&self) -> usize {
        match &self.0 {
            #[cfg(feature = "tap")]
            Tx::Tap(tx) => tx.room(),
            #[cfg(feature = "packet")]
            Tx::Packet(tx) => tx.room(),
            Tx::Memory(link) => link.buffers().tx_free,
        }
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        match &mut self.0 {
            #[cfg(feature = "tap")]
            Tx::Tap(tx) => tx.send(len, meta, write),
            #[cfg(feature = "packet")]
            Tx::Packet(tx) => tx.send(len, meta, write),
            Tx::Memory(link) => link.split().1.send(len, meta, write),
        }
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        match &mut self.0 {
            #[cfg(feature = "tap")]
            Tx::Tap(tx) => tx.flush(now),
            #[cfg(feature = "packet")]
            Tx::Packet(tx) => tx.flush(now),
            Tx::Memory(link) => link.split().1.flush(now),
        }
    }
}

#[cfg(any(feature = "tap", feature = "packet"))]
fn filled<T: Default>(fill: impl FnOnce(&mut T)) -> T {
    let mut value = T::default();
    fill(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use underpass_devices::conformance::{self, DevicePeer, Harness};

    use super::*;

    struct Memory {
        device: AnyDevice,
        peer: DevicePeer<AnyDevice>,
    }

    impl Memory {
        fn open() -> Self {
            let (device, peer) = AnyDevice::memory_pair(MemoryConfig {
                slots: 16,
                offloads: true,
                ..MemoryConfig::default()
            });
            Self {
                device,
                peer: DevicePeer::new(peer),
            }
        }
    }

    impl Harness for Memory {
        type Device = AnyDevice;
        type Peer = DevicePeer<AnyDevice>;

        fn parts(&mut self) -> (&mut AnyDevice, &mut DevicePeer<AnyDevice>) {
            (&mut self.device, &mut self.peer)
        }

        fn reopen(&mut self) -> io::Result<()> {
            *self = Self::open();
            Ok(())
        }
    }

    #[test]
    fn a_memory_pair_conforms() {
        println!("{}", conformance::run(&mut Memory::open()).unwrap());
    }

    #[test]
    fn one_end_of_a_memory_link_is_refused_with_the_reason() {
        let error = AnyDevice::open(&"memory:".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("two ends"), "{error}");
    }
}
