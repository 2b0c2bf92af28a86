//! AF_PACKET: raw frames of a network interface through a receive ring in shared memory.
//!
//! Works on every Ethernet interface of every Linux kernel and needs CAP_NET_RAW alone. The kernel
//! copies each frame once into the ring ([`PacketRx`]) and once out of the transmit slot
//! ([`PacketTx`]); a burst of frames leaves with one `sendmmsg`. `PACKET_VNET_HDR` carries checksum
//! and segmentation requests both ways, so TCP moves in frames of up to 64 KiB.
//!
//! **Sharing an interface with the kernel.** By default the device uses the interface's own MAC
//! address, and the kernel sees each received frame too. A kernel that has no IP address on the
//! interface ignores them; one that has answers our TCP connections with a reset. Use an interface
//! without kernel addresses (a veth end, a macvlan, a spare NIC), or another MAC address
//! ([`PacketConfig::mac`]).
//!
//! **Ring version.** TPACKET_V2 hands over every frame as it comes. TPACKET_V3 packs frames into
//! blocks, which takes less memory, but hands a block over when it is full or when a timer of at
//! least one millisecond fires. From sending a frame to a readable descriptor (loopback, kernel
//! 6.18) that makes 882 us with V3 and 24 us with V2, so this driver uses V2. Its slots of 68 KiB
//! hold a superframe; larger ones (BIG TCP) are truncated by the kernel and counted as `rx_errors`.
//!
//! **Queues.** [`PacketDevice::open_queues`] makes several sockets share the interface, each frame for
//! one of them: a BPF program in the kernel spreads the flows by a hash that the stack knows.
//!
//! **VLAN.** The kernel takes the tag out of a received frame; the driver puts it back in.
//!
//! Sources: packet(7), Documentation/networking/packet_mmap.rst.

mod fanout;
mod ring;
mod rx;
mod slot;
mod socket;
mod tx;

use std::io;
use std::sync::Arc;

#[cfg(feature = "fuzzing")]
use underpass_devices::RxMeta;
use underpass_devices::{Buffers, Caps, Counters, Device, FlowHash, MacAddr, Wake};

use self::fanout::Group;
use self::socket::PacketSocket;
use crate::open::{OpenError, find_link, retry_while_busy};
use crate::vnet_hdr;

pub use self::rx::PacketRx;
pub use self::tx::PacketTx;

/// How to open a [`PacketDevice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketConfig {
    /// Station address; `None`: the interface's own. Another one is added to the interface's
    /// receive filter (`PACKET_MR_UNICAST`).
    pub mac: Option<MacAddr>,
    /// Whether the stack may leave checksums and TCP segmentation to the kernel. Received frames
    /// can be partial and longer than the MTU in any case: that is the sender's choice on a virtual
    /// link, and GRO's on a NIC (`ethtool -K IFACE gro off`).
    pub offload: bool,
    /// Send straight to the driver's queue, around the kernel's traffic control
    /// (`PACKET_QDISC_BYPASS`).
    pub qdisc_bypass: bool,
    /// Join this fanout group: its members, each with a queue of its own, share the received frames
    /// by a hash of the flow that is the same for both directions (`PACKET_FANOUT_HASH`).
    pub fanout: Option<u16>,
    /// Receive slots, rounded up to whole blocks of 15 or 16; each takes 68 KiB of kernel memory.
    pub rx_slots: usize,
    /// Transmit slots; each takes 64 KiB of memory with `offload`, one MTU without.
    pub tx_slots: usize,
}

impl PacketConfig {
    /// Most slots a ring may have.
    pub const MAX_SLOTS: usize = 16_384;
}

impl Default for PacketConfig {
    /// Offload on, 512 receive and 256 transmit slots.
    fn default() -> Self {
        Self {
            mac: None,
            offload: true,
            qdisc_bypass: false,
            fanout: None,
            rx_slots: 512,
            tx_slots: 256,
        }
    }
}

/// A queue pair on a network interface, through an AF_PACKET socket.
#[derive(Debug)]
pub struct PacketDevice {
    caps: Caps,
    rx: PacketRx,
    tx: PacketTx,
}

impl PacketDevice {
    /// Opens the interface called `name` in the calling thread's network namespace.
    pub fn open(name: &str, config: &PacketConfig) -> Result<Self, OpenError> {
        let join = |socket: &PacketSocket| match config.fanout {
            Some(group) => join_by_number(socket, group),
            None => Ok(None),
        };
        Self::open_member(&Opening { name }, config, join)
    }

    /// Opens the interface as `queues` devices (at least one), each of which receives the flows that
    /// [`FlowHash::Software`] puts on it. With [`PacketConfig::fanout`] they join that group, whose
    /// hash is the kernel's own.
    pub fn open_queues(
        name: &str,
        config: &PacketConfig,
        queues: usize,
    ) -> Result<Vec<Self>, OpenError> {
        if queues <= 1 || config.fanout.is_some() {
            return (0..queues.max(1)).map(|_| Self::open(name, config)).collect();
        }
        let mut group: Option<Group> = None;
        let mut devices = Vec::with_capacity(queues);
        for _ in 0..queues {
            let join = |socket: &PacketSocket| {
                match group {
                    Some(group) => group.join(socket)?,
                    None => group = Some(Group::new(socket)?),
                }
                Ok(group.and_then(|group| group.steering))
            };
            devices.push(Self::open_member(&Opening { name }, config, join)?);
        }
        // Until it joins, a socket receives every frame, and one that joins moves flows.
        for device in &mut devices {
            device.rx.discard();
        }
        Ok(devices)
    }

    /// `join` makes the bound socket a member of a group, if it is to be one, and returns what the
    /// group is steered by.
    fn open_member(
        opening: &Opening<'_>,
        config: &PacketConfig,
        mut join: impl FnMut(&PacketSocket) -> io::Result<Option<FlowHash>>,
    ) -> Result<Self, OpenError> {
        opening.check(config)?;
        let link = find_link(opening.device(), opening.name)?;
        let own = link.mac.filter(|mac| mac.is_unicast());
        let Some(mac) = config.mac.or(own) else {
            return Err(opening.unsuitable("the interface has no MAC address; give one with mac="));
        };
        let mut caps = Caps::ethernet(mac, link.mtu);
        if config.offload {
            caps = caps.with_offloads(vnet_hdr::MAX_SUPERFRAME);
        }
        caps.rx_coalesced = true;

        let socket = PacketSocket::new().map_err(|error| opening.no_socket(error))?;
        let socket = Arc::new(socket);
        socket
            .configure(config.qdisc_bypass)
            .map_err(|source| opening.failed("setting socket options", source))?;
        let rx = PacketRx::new(Arc::clone(&socket), config.rx_slots)
            .map_err(|source| opening.failed("mapping the receive ring", source))?;
        socket
            .receive_filter(link.index, (Some(mac) != own).then_some(mac))
            .map_err(|source| opening.failed("setting the receive filter", source))?;
        retry_while_busy(|| socket.bind(link.index))
            .map_err(|source| opening.failed("binding to the interface", source))?;
        caps.steering = retry_while_busy(|| join(&socket))
            .map_err(|source| opening.failed("joining the fanout group", source))?;
        let tx = PacketTx::new(Arc::clone(&socket), caps.clone(), config.tx_slots);
        Ok(Self { caps, rx, tx })
    }
}

/// Reads a receive slot for [`fuzzing`](crate::fuzzing).
#[cfg(feature = "fuzzing")]
pub(crate) fn read_slot(slot: &mut [u8]) -> Option<(std::ops::Range<usize>, RxMeta)> {
    let slot::Received { start, len, meta } = slot::read(slot).ok()?;
    Some((start..start + len, meta))
}

/// Joins a group that other processes may be in, too.
fn join_by_number(socket: &PacketSocket, group: u16) -> io::Result<Option<FlowHash>> {
    socket.join_fanout(u32::from(group) | libc::PACKET_FANOUT_HASH << 16)?;
    Ok(None)
}

impl Device for PacketDevice {
    type Rx<'a> = &'a mut PacketRx;
    type Tx<'a> = &'a mut PacketTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut PacketRx, &mut PacketTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        // Frames that the kernel had no room for make no descriptor readable: flush them again.
        if self.tx.is_stalled() {
            return Ok(Wake::Ready);
        }
        self.rx.wake()
    }

    /// Asks the kernel for the overruns: not for every frame.
    fn counters(&self) -> Counters {
        self.rx.counters(self.tx.counters())
    }

    fn buffers(&self) -> Buffers {
        self.rx.buffers(self.tx.buffers())
    }
}

/// The interface being opened, for error messages.
struct Opening<'a> {
    name: &'a str,
}

impl Opening<'_> {
    fn check(&self, config: &PacketConfig) -> Result<(), OpenError> {
        let slots = 1..=PacketConfig::MAX_SLOTS;
        if !slots.contains(&config.rx_slots) || !slots.contains(&config.tx_slots) {
            let limit = PacketConfig::MAX_SLOTS;
            return Err(self.unsuitable(&format!("a ring has 1 to {limit} slots")));
        }
        if let Some(mac) = config.mac.filter(|mac| !mac.is_unicast()) {
            return Err(self.unsuitable(&format!("{mac} is not the address of one station")));
        }
        Ok(())
    }

    fn no_socket(&self, source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted {
                device: self.device(),
                needs: "CAP_NET_RAW: run as root, or grant it to the program with \
                        setcap cap_net_raw+ep PROGRAM"
                    .to_owned(),
            },
            Some(libc::EAFNOSUPPORT) => OpenError::KernelLacks {
                device: self.device(),
                feature: "packet sockets (CONFIG_PACKET)",
            },
            _ => self.failed("creating the socket", source),
        }
    }

    fn unsuitable(&self, reason: &str) -> OpenError {
        OpenError::Unsuitable { device: self.device(), reason: reason.to_owned() }
    }

    fn failed(&self, step: &'static str, source: io::Error) -> OpenError {
        OpenError::Io { device: self.device(), step, source }
    }

    fn device(&self) -> String {
        format!("packet:{}", self.name)
    }
}
