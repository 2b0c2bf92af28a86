//! DPDK: the poll-mode drivers of the Data Plane Development Kit, for NICs that it drives from userspace
//! and for its virtual devices.
//!
//! A device is named as DPDK names it: `0000:01:00.0`, a PCI device that is bound to `vfio-pci` or has a
//! driver that shares it with the kernel; or `net_tap0`, a virtual device, with the arguments of its
//! driver. Frames are lent in the mbufs that the driver received them into, and written into mbufs.
//! Checksums and segmentation are left to a device that reports them; for others the stack does it.
//!
//! **One EAL.** DPDK's Environment Abstraction Layer is started by the first device and runs until the
//! process ends. It gets arguments of its own choice, with huge pages if any are free, and
//! [`DpdkConfig::eal`]. It changes nothing that the process can see: it starts on a thread of its own, and
//! signal handlers, standard output and error are afterwards as before. What it logs goes to `tracing`
//! (target `dpdk`), and the first line of it into the error of a call that failed.
//!
//! **Polling.** No device can wake a shard ([`Wake::Spin`]): its thread is busy all the time.
//!
//! **Queues.** Several queues are several devices; the driver spreads flows by a hash of its own
//! (Toeplitz with a symmetric key, where it takes one), so that shards hand over to each other what comes
//! to the wrong one.
//!
//! **Memory.** Each queue has a pool of mbufs. It is freed with the device, once every mbuf is back
//! ([`mbufs_lost`]).
//!
//! **Virtual links.** A kernel at the other end of a veth pair sends partial checksums, which the driver
//! tells by their value, and superframes (TSO). `net_af_packet` cuts off what is longer than its slots of
//! 2 KiB: superframes, which the sender has to be kept from (`ethtool -K PEER tso off gso off`), and fragmented
//! packets, for it has the kernel put them together; longer slots take those (`framesz=16384,blocksz=65536`).
//! `net_af_xdp` and `net_tap` get neither.
//!
//! **`net_af_xdp`** of 22.11 (with libxdp 1.3) does not close its socket: a queue of an interface can be
//! opened once in a process, and the mbufs in its fill ring do not come back.
//!
//! Sources: DPDK Programmer's Guide 22.11, "Network Interface Controller Drivers" 22.11.

mod eal;
mod gate;
mod interface;
mod log;
mod mbuf;
mod namespace;
mod pool;
mod port;
mod preserve;
mod rings;
mod rx;
mod target;
mod thread;
mod tx;

use std::io;
use std::sync::Arc;

use underpass_devices::{Buffers, Caps, Counters, Device, MacAddr, Wake};

use self::eal::Eal;
use self::interface::Interface;
use self::port::{Found, Port, PortError, Wanted};
use self::rings::Ring;
use self::target::Target;
use crate::open::{OpenError, find_link};

pub use self::rx::DpdkRx;
pub use self::tx::DpdkTx;

/// How to open a [`DpdkDevice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkConfig {
    /// Arguments of the driver, such as `iface` and `eth0`.
    pub args: Vec<(String, String)>,
    /// Arguments of the EAL, for the first device of the process; later ones have none or the same.
    pub eal: Vec<String>,
    /// Station address, which makes the device promiscuous; `None`: the device's own or, on `net_tap`, whose
    /// address is that of the kernel's end, one close to it.
    pub mac: Option<MacAddr>,
    /// Largest IP packet; `None`: what the device has when it is attached.
    pub mtu: Option<u16>,
    /// Whether the stack may leave checksums and TCP segmentation to the device, and the device may
    /// coalesce what it receives.
    pub offload: bool,
    /// Received frames that the stack holds at a time; about as many descriptors does the device get.
    pub rx_slots: usize,
    /// Frames that are queued at a time; about as many descriptors does the device get.
    pub tx_slots: usize,
}

impl DpdkConfig {
    /// Most slots of one direction.
    pub const MAX_SLOTS: usize = 32_768;
}

impl Default for DpdkConfig {
    /// Offload on, 1024 slots each way.
    fn default() -> Self {
        Self {
            args: Vec::new(),
            eal: Vec::new(),
            mac: None,
            mtu: None,
            offload: true,
            rx_slots: 1024,
            tx_slots: 1024,
        }
    }
}

/// A queue pair of a device of DPDK.
#[derive(Debug)]
pub struct DpdkDevice {
    caps: Caps,
    rx: DpdkRx,
    tx: DpdkTx,
    /// One for all queues that were opened together. Behind the queues, so that they close first.
    port: Arc<Port>,
    /// What joins a pair of ports. Behind the port.
    _wires: Option<Arc<[Ring; 2]>>,
}

impl DpdkDevice {
    /// Attaches the device called `name`, in the calling thread's network namespace if its driver has to
    /// do with one.
    pub fn open(name: &str, config: &DpdkConfig) -> Result<Self, OpenError> {
        let mut devices = Self::open_queues(name, config, 1)?;
        devices.pop().ok_or_else(|| Opening { name, config }.unsuitable("no queue was opened"))
    }

    /// Attaches the device with `queues` queues (at least one).
    pub fn open_queues(
        name: &str,
        config: &DpdkConfig,
        queues: usize,
    ) -> Result<Vec<Self>, OpenError> {
        let opening = Opening { name, config };
        opening.check()?;
        let target = Target { name, args: &config.args };
        let link = match target.interface() {
            Some(interface) => Some(find_link(opening.device(), interface)?),
            None => None,
        };
        let traits = target.traits();
        let wanted = Wanted {
            keeps: traits.keeps,
            tso: !traits.poor_tso,
            room: target.slot_len(),
            ..opening.wanted(queues.max(1))
        };
        let (port, found) = opening.attach(&target, &wanted)?;
        let mut caps = opening.caps(&found);
        if traits.mirrors_mac && config.mac.is_none() {
            // Another one than that of the kernel at the other end.
            caps.mac.0[5] ^= 1;
        }
        caps.rx_coalesced |= target.slot_len() > caps.max_frame();
        if let Some(link) = &link {
            caps.mtu = caps.mtu.min(link.mtu);
        }
        let port = Arc::new(port);
        (0..wanted.queues)
            .map(|queue| {
                let interface = target.interface().map(Interface::new).transpose();
                let interface = interface.map_err(|error| OpenError::Io {
                    device: opening.device(),
                    step: "watching the interface",
                    source: io::Error::other(error),
                })?;
                // Only a kernel, or another program on this machine, sends them.
                let partial_checksums = !target.is_pci();
                let (slots, port) = (config.rx_slots, Arc::clone(&port));
                let rx = DpdkRx::new(port, queue, slots, partial_checksums, interface);
                Ok(opening.device_of(&found, caps.clone(), queue, rx))
            })
            .collect()
    }

    /// Two devices that are joined by rings in memory: a frame that one sends is received by the other in
    /// the mbuf where it was written.
    pub fn ring_pair(config: &DpdkConfig) -> Result<(Self, Self), OpenError> {
        let opening = Opening { name: "net_ring", config };
        opening.check()?;
        let eal = Eal::get(&config.eal).map_err(|reason| opening.unsuitable(&reason))?;
        let wanted = opening.wanted(1);
        let ring = || Ring::new(&eal, wanted.mbufs()).map_err(|r| opening.unsuitable(&r));
        let wires = Arc::new([ring()?, ring()?]);
        let end = |from: usize, to: usize| {
            let mut port = rings::port(&eal, &wires[from], &wires[to])?;
            let found = port.start(&eal, &wanted);
            Ok((port, found))
        };
        let ends = [end(0, 1), end(1, 0)];
        // A port that is closed takes it.
        drop(eal);
        let [a, b] = ends.map(|end| {
            let (port, found) = end.map_err(|r: String| opening.unsuitable(&r))?;
            let found = found.map_err(|r| opening.unsuitable(&r))?;
            let mut caps = opening.caps(&found);
            // Both would have the same.
            caps.mac = MacAddr::local(u64::from(port.id()) + 1);
            let rx = DpdkRx::new(Arc::new(port), 0, config.rx_slots, true, None);
            let device = opening.device_of(&found, caps, 0, rx);
            Ok(Self { _wires: Some(Arc::clone(&wires)), ..device })
        });
        Ok((a?, b?))
    }

    /// Speed of the link in megabits per second, 1 if the driver does not know; `None`: it is down.
    pub fn link_speed(&self) -> Option<u32> {
        self.port.link_speed()
    }
}

/// Whether DPDK has its memory from huge pages. False before the first device, too.
pub fn has_huge_pages() -> bool {
    eal::has_huge_pages()
}

/// Name and version of the library, such as `DPDK 22.11.11`.
pub fn version() -> String {
    eal::version()
}

/// Mbufs of closed devices that have not come back to their pools. Those that another device of this
/// process has received come back when it releases them or is closed; the others a driver has lost.
pub fn mbufs_lost() -> usize {
    pool::lost()
}

impl Device for DpdkDevice {
    type Rx<'a> = &'a mut DpdkRx;
    type Tx<'a> = &'a mut DpdkTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut DpdkRx, &mut DpdkTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        Ok(Wake::Spin)
    }

    /// Asks the driver for what it dropped: not for every frame.
    fn counters(&self) -> Counters {
        self.rx.counters(self.tx.counters())
    }

    fn buffers(&self) -> Buffers {
        self.rx.buffers(self.tx.buffers())
    }
}

/// The device being opened.
struct Opening<'a> {
    name: &'a str,
    config: &'a DpdkConfig,
}

impl Opening<'_> {
    fn check(&self) -> Result<(), OpenError> {
        let slots = 1..=DpdkConfig::MAX_SLOTS;
        if !slots.contains(&self.config.rx_slots) || !slots.contains(&self.config.tx_slots) {
            let limit = DpdkConfig::MAX_SLOTS;
            return Err(self.unsuitable(&format!("a queue has 1 to {limit} slots")));
        }
        if let Some(mac) = self.config.mac.filter(|mac| !mac.is_unicast()) {
            return Err(self.unsuitable(&format!("{mac} is not the address of one station")));
        }
        Ok(())
    }

    fn attach(&self, target: &Target<'_>, wanted: &Wanted) -> Result<(Port, Found), OpenError> {
        let eal = Eal::get(&self.config.eal).map_err(|reason| self.unsuitable(&reason))?;
        let mut port = Port::plug(&eal, target, wanted.queues).map_err(|e| self.failed(e))?;
        let found = port.start(&eal, wanted);
        // A port that is closed takes it.
        drop(eal);
        Ok((port, found.map_err(|reason| self.unsuitable(&reason))?))
    }

    fn wanted(&self, queues: usize) -> Wanted {
        Wanted {
            queues: queues.min(usize::from(u16::MAX)) as u16,
            rx_slots: self.config.rx_slots,
            tx_slots: self.config.tx_slots,
            mtu: self.config.mtu,
            offload: self.config.offload,
            keeps: 0,
            tso: true,
            room: 0,
            promiscuous: self.config.mac.is_some(),
        }
    }

    fn caps(&self, found: &Found) -> Caps {
        let mac = self.config.mac.unwrap_or(found.mac);
        let mut caps = Caps::ethernet(mac, found.mtu.into());
        caps.tx_checksum = found.tx.checksum;
        caps.rx_coalesced = found.coalesces;
        if found.tx.tso {
            let mbufs = found.segments.min(self.config.tx_slots);
            let longest = mbufs.saturating_mul(found.room).min(caps.header_len() + 65_535);
            caps.tx_segment_tcp4 = Some(longest);
            caps.tx_segment_tcp6 = Some(longest);
        }
        caps
    }

    /// The device around the receive half of a queue.
    fn device_of(&self, found: &Found, caps: Caps, queue: u16, rx: DpdkRx) -> DpdkDevice {
        let port = Arc::clone(rx.port());
        let tx = DpdkTx::new(Arc::clone(&port), queue, caps.clone(), found, self.config.tx_slots);
        DpdkDevice { caps, rx, tx, port, _wires: None }
    }

    fn failed(&self, error: PortError) -> OpenError {
        match error {
            PortError::Busy => OpenError::Busy {
                device: self.device(),
                hint: "; a device of DPDK is opened once in a process: give this one another \
                       number, as in net_tap1",
            },
            PortError::Other(reason) => self.unsuitable(&reason),
        }
    }

    fn unsuitable(&self, reason: &str) -> OpenError {
        OpenError::Unsuitable { device: self.device(), reason: reason.to_owned() }
    }

    fn device(&self) -> String {
        format!("dpdk:{}", self.name)
    }
}
