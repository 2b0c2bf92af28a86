use std::io;

use underpass_devices::{
    Buffers, Caps, Counters, Device, Frame, Instant, MemoryConfig, MemoryDevice, MemoryRx,
    MemoryTx, RxQueue, Selection, SendError, TxMeta, TxQueue, Wake,
};
#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "xdp",
    feature = "dpdk",
    feature = "kring",
    feature = "rdma"
))]
use underpass_devices::{Vlan, VlanRx, VlanTx};

#[cfg(feature = "dpdk")]
use crate::dpdk::{DpdkDevice, DpdkRx, DpdkTx};
#[cfg(feature = "kring")]
use crate::kring::{KringDevice, KringRx, KringTx};
#[cfg(feature = "packet")]
use crate::packet::{PacketDevice, PacketRx, PacketTx};
#[cfg(feature = "rdma")]
use crate::rdma::{RdmaDevice, RdmaRx, RdmaTx};
#[cfg(feature = "tap")]
use crate::tap::{TapDevice, TapRx, TapTx};
#[cfg(feature = "xdp")]
use crate::xdp::{XdpDevice, XdpRx, XdpTx};
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
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "there is one per queue pair")]
pub enum AnyDevice {
    /// `tap:`
    #[cfg(feature = "tap")]
    Tap(Vlan<TapDevice>),
    /// `packet:`
    #[cfg(feature = "packet")]
    Packet(Vlan<PacketDevice>),
    /// `xdp:`
    #[cfg(feature = "xdp")]
    Xdp(Vlan<XdpDevice>),
    /// `dpdk:`
    #[cfg(feature = "dpdk")]
    Dpdk(Vlan<DpdkDevice>),
    /// `kring:`
    #[cfg(feature = "kring")]
    Kring(Vlan<KringDevice>),
    /// `rdma:`
    #[cfg(feature = "rdma")]
    Rdma(Vlan<RdmaDevice>),
    /// `memory:`
    Memory(MemoryDevice),
}

/// The receive half of an [`AnyDevice`].
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the variants are those of the device")]
pub enum AnyRx<'a> {
    #[cfg(feature = "tap")]
    Tap(VlanRx<'a, &'a mut TapRx>),
    #[cfg(feature = "packet")]
    Packet(VlanRx<'a, &'a mut PacketRx>),
    #[cfg(feature = "xdp")]
    Xdp(VlanRx<'a, &'a mut XdpRx>),
    #[cfg(feature = "dpdk")]
    Dpdk(VlanRx<'a, &'a mut DpdkRx>),
    #[cfg(feature = "kring")]
    Kring(VlanRx<'a, &'a mut KringRx>),
    #[cfg(feature = "rdma")]
    Rdma(VlanRx<'a, &'a mut RdmaRx>),
    Memory(&'a mut MemoryRx),
}

/// The transmit half of an [`AnyDevice`].
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the variants are those of the device")]
pub enum AnyTx<'a> {
    #[cfg(feature = "tap")]
    Tap(VlanTx<&'a mut TapTx>),
    #[cfg(feature = "packet")]
    Packet(VlanTx<&'a mut PacketTx>),
    #[cfg(feature = "xdp")]
    Xdp(VlanTx<&'a mut XdpTx>),
    #[cfg(feature = "dpdk")]
    Dpdk(VlanTx<&'a mut DpdkTx>),
    #[cfg(feature = "kring")]
    Kring(VlanTx<&'a mut KringTx>),
    #[cfg(feature = "rdma")]
    Rdma(VlanTx<&'a mut RdmaTx>),
    Memory(&'a mut MemoryTx),
}

/// The same expression for every variant of one of the enums above.
macro_rules! each {
    ($any:expr, $inner:ident => $call:expr) => {
        match $any {
            #[cfg(feature = "tap")]
            Self::Tap($inner) => $call,
            #[cfg(feature = "packet")]
            Self::Packet($inner) => $call,
            #[cfg(feature = "xdp")]
            Self::Xdp($inner) => $call,
            #[cfg(feature = "dpdk")]
            Self::Dpdk($inner) => $call,
            #[cfg(feature = "kring")]
            Self::Kring($inner) => $call,
            #[cfg(feature = "rdma")]
            Self::Rdma($inner) => $call,
            Self::Memory($inner) => $call,
        }
    };
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
            Spec::Tap { name, config, vlan } => {
                let device = TapDevice::open(name, config)?;
                Ok(Self::Tap(Vlan::new(device, *vlan)))
            }
            #[cfg(feature = "packet")]
            Spec::Packet { name, config, vlan } => {
                let device = PacketDevice::open(name, config)?;
                Ok(Self::Packet(Vlan::new(device, *vlan)))
            }
            #[cfg(feature = "xdp")]
            Spec::Xdp { name, config, vlan } => {
                let device = XdpDevice::open(name, config)?;
                Ok(Self::Xdp(Vlan::new(device, *vlan)))
            }
            #[cfg(feature = "dpdk")]
            Spec::Dpdk { name, config, vlan } => {
                let device = DpdkDevice::open(name, config)?;
                Ok(Self::Dpdk(Vlan::new(device, *vlan)))
            }
            #[cfg(feature = "kring")]
            Spec::Kring { name, config, vlan } => {
                let device = KringDevice::open(name, config)?;
                Ok(Self::Kring(Vlan::new(device, *vlan)))
            }
            #[cfg(feature = "rdma")]
            Spec::Rdma { name, config, vlan } => {
                let device = RdmaDevice::open(name, config)?;
                Ok(Self::Rdma(Vlan::new(device, *vlan)))
            }
            Spec::Memory(_) => Err(OpenError::Unsuitable {
                device: spec.to_string(),
                reason: "a memory link has two ends, both in one process: a program makes them \
                         with AnyDevice::memory_pair; to reach anything else use tap: or packet:"
                    .to_owned(),
            }),
        }
    }

    /// Opens a device as `queues` queue pairs (at least one), which share what it receives by flow.
    /// [`Caps::steering`] says whether it is known how.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    #[cfg_attr(
        not(any(
            feature = "tap",
            feature = "packet",
            feature = "xdp",
            feature = "dpdk",
            feature = "kring",
            feature = "rdma"
        )),
        allow(unused_variables, reason = "a memory link is not opened")
    )]
    pub fn open_queues(spec: &Spec, queues: usize) -> Result<Vec<Self>, OpenError> {
        match spec {
            #[cfg(feature = "tap")]
            Spec::Tap { name, config, vlan } => {
                let devices = TapDevice::open_queues(name, config, queues)?;
                Ok(devices.into_iter().map(|device| Self::Tap(Vlan::new(device, *vlan))).collect())
            }
            #[cfg(feature = "packet")]
            Spec::Packet { name, config, vlan } => {
                let devices = PacketDevice::open_queues(name, config, queues)?;
                Ok(devices
                    .into_iter()
                    .map(|device| Self::Packet(Vlan::new(device, *vlan)))
                    .collect())
            }
            #[cfg(feature = "xdp")]
            Spec::Xdp { name, config, vlan } => {
                let devices = XdpDevice::open_queues(name, config, queues)?;
                Ok(devices.into_iter().map(|device| Self::Xdp(Vlan::new(device, *vlan))).collect())
            }
            #[cfg(feature = "dpdk")]
            Spec::Dpdk { name, config, vlan } => {
                let devices = DpdkDevice::open_queues(name, config, queues)?;
                Ok(devices.into_iter().map(|device| Self::Dpdk(Vlan::new(device, *vlan))).collect())
            }
            #[cfg(feature = "kring")]
            Spec::Kring { name, config, vlan } => {
                let devices = KringDevice::open_queues(name, config, queues)?;
                Ok(devices
                    .into_iter()
                    .map(|device| Self::Kring(Vlan::new(device, *vlan)))
                    .collect())
            }
            #[cfg(feature = "rdma")]
            Spec::Rdma { name, config, vlan } => {
                let devices = RdmaDevice::open_queues(name, config, queues)?;
                Ok(devices.into_iter().map(|device| Self::Rdma(Vlan::new(device, *vlan))).collect())
            }
            Spec::Memory(_) => Self::open(spec).map(|device| vec![device]),
        }
    }

    /// Both ends of a link in memory.
    pub fn memory_pair(config: MemoryConfig) -> (Self, Self) {
        let (a, b) = MemoryDevice::pair(config);
        (Self::Memory(a), Self::Memory(b))
    }
}

#[cfg(feature = "tap")]
impl From<TapDevice> for AnyDevice {
    fn from(device: TapDevice) -> Self {
        Self::Tap(Vlan::new(device, None))
    }
}

#[cfg(feature = "packet")]
impl From<PacketDevice> for AnyDevice {
    fn from(device: PacketDevice) -> Self {
        Self::Packet(Vlan::new(device, None))
    }
}

#[cfg(feature = "xdp")]
impl From<XdpDevice> for AnyDevice {
    fn from(device: XdpDevice) -> Self {
        Self::Xdp(Vlan::new(device, None))
    }
}

#[cfg(feature = "dpdk")]
impl From<DpdkDevice> for AnyDevice {
    fn from(device: DpdkDevice) -> Self {
        Self::Dpdk(Vlan::new(device, None))
    }
}
#[cfg(feature = "kring")]
impl From<KringDevice> for AnyDevice {
    fn from(device: KringDevice) -> Self {
        Self::Kring(Vlan::new(device, None))
    }
}

#[cfg(feature = "rdma")]
impl From<RdmaDevice> for AnyDevice {
    fn from(device: RdmaDevice) -> Self {
        Self::Rdma(Vlan::new(device, None))
    }
}

impl From<MemoryDevice> for AnyDevice {
    fn from(device: MemoryDevice) -> Self {
        Self::Memory(device)
    }
}

impl Device for AnyDevice {
    type Rx<'a> = AnyRx<'a>;
    type Tx<'a> = AnyTx<'a>;

    fn caps(&self) -> &Caps {
        each!(self, device => device.caps())
    }

    fn split(&mut self) -> (AnyRx<'_>, AnyTx<'_>) {
        match self {
            #[cfg(feature = "tap")]
            Self::Tap(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Tap(rx), AnyTx::Tap(tx))
            }
            #[cfg(feature = "packet")]
            Self::Packet(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Packet(rx), AnyTx::Packet(tx))
            }
            #[cfg(feature = "xdp")]
            Self::Xdp(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Xdp(rx), AnyTx::Xdp(tx))
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Dpdk(rx), AnyTx::Dpdk(tx))
            }
            #[cfg(feature = "kring")]
            Self::Kring(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Kring(rx), AnyTx::Kring(tx))
            }
            #[cfg(feature = "rdma")]
            Self::Rdma(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Rdma(rx), AnyTx::Rdma(tx))
            }
            Self::Memory(device) => {
                let (rx, tx) = device.split();
                (AnyRx::Memory(rx), AnyTx::Memory(tx))
            }
        }
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        each!(self, device => device.wake())
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        each!(self, device => device.select(wanted))
    }

    fn counters(&self) -> Counters {
        each!(self, device => device.counters())
    }

    fn buffers(&self) -> Buffers {
        each!(self, device => device.buffers())
    }
}

impl RxQueue for AnyRx<'_> {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        each!(self, rx => rx.fill(now))
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        each!(self, rx => rx.next())
    }

    fn release(&mut self) {
        each!(self, rx => rx.release());
    }
}

impl TxQueue for AnyTx<'_> {
    fn room(&self) -> usize {
        each!(self, tx => tx.room())
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        each!(self, tx => tx.send(len, meta, write))
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        each!(self, tx => tx.flush(now))
    }
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
            Self { device, peer: DevicePeer::new(peer) }
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
