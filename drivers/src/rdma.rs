//! RDMA: Ethernet frames as unreliable datagrams of an RDMA device, through libibverbs, which is loaded
//! when it is first used: a program built with this module starts without the library.
//!
//! A device is a queue pair for datagrams (UD). A frame is a message, so that ARP, IPv6, TCP and
//! protocols of one's own run as on any link. Frames are lent where the device wrote them and sent from
//! where they were written, both in registered memory; short ones are copied into the request. A burst is
//! one chain of requests, one doorbell, and about one completion.
//!
//! **Addresses.** The MAC address of a station follows from its GID and the number of its queue pair
//! ([`Peer::mac`]), and cannot be chosen. The way to a station is learned from what it sends, or
//! configured ([`RdmaConfig::peers`]), and found by a thread of its own, for the kernel may have to ask
//! the network. The table is bounded; [`RdmaDevice::peer_counters`] says how full it is, and the
//! documentation of `peer_table.rs` whom it believes.
//!
//! **Groups.** Broadcasts and multicasts go to one multicast group, in which every device is: 239.255.85.80
//! or, from a GID of IPv6, ff12::7570. So do frames to a station to which no way is known. Without the
//! group ([`RdmaConfig::multicast`]) they go to every known peer, and frames to unknown stations are
//! dropped and counted (`tx_errors`).
//!
//! **MTU.** A datagram fits one packet: 256 to 4096 bytes, as the port says, and the Ethernet header is a
//! part of it. Soft-RoCE has 1024 on an interface with an MTU of 1500, which is too little for IPv6 (1280),
//! and 4096 from an MTU of 4166 on. Longer frames are refused: the device would drop them and say nothing.
//!
//! **Loss.** A datagram for which no receive buffer is posted is dropped by the device, which counts it, if
//! at all, for all its queue pairs together (`hw_counters` in sysfs).
//!
//! **Only RoCE.** On InfiniBand, addresses and groups are the subnet manager's, to which this does not
//! speak.
//!
//! **One-sided operations.** Beside devices, a [`Connection`] reads and writes the memory of a peer whose
//! processor takes no part.
//!
//! [`verbs`] is the layer beneath, for datagrams and connections.

mod group;
mod link;
mod one_sided;
mod opening;
mod peers;
mod rx;
mod tx;
pub mod verbs;

use std::io;
use std::sync::Arc;

use underpass_devices::{Buffers, Caps, Counters, Device, Wake};

use self::link::Link;
use self::opening::Opening;
use self::peers::Peers;
use self::verbs::{GidEntry, QueuePair};
use crate::open::OpenError;

pub use self::one_sided::{
    AcceptError, Adapter, Buffer, Connection, ConnectionConfig, Finished, HandshakeError, Incoming,
    Listener, MemoryRegion, OperationError, OperationId, Permissions, RangeError, Refusal, Refused,
    RegionError, RemoteRegion, RequestError, WaitError, WireError, connect,
};
pub use self::peers::PeerCounters;
pub use self::rx::RdmaRx;
pub use self::tx::RdmaTx;
pub use crate::rdma_peer::{ParsePeerError, Peer};

/// How to open an [`RdmaDevice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaConfig {
    /// Number of the port, from 1 on.
    pub port: u8,
    /// Number of the GID on it; `None`: the first one of RoCE version 2 that is an IPv4 address, or else
    /// the first one.
    pub gid: Option<u8>,
    /// Stations that are known from the beginning.
    pub peers: Vec<Peer>,
    /// Most stations that are known at a time, configured ones included.
    pub max_peers: usize,
    /// Whether to join the multicast group, if the device can.
    pub multicast: bool,
    /// Receive buffers, of 4 KiB each.
    pub rx_slots: usize,
    /// Transmit buffers, of the port's MTU each.
    pub tx_slots: usize,
}

impl RdmaConfig {
    /// Most buffers of one direction, if the device has so many.
    pub const MAX_SLOTS: usize = 16_384;
    /// Most stations.
    pub const MAX_PEERS: usize = 4096;
}

impl Default for RdmaConfig {
    /// Port 1, 256 stations, 512 receive and 256 transmit buffers, in the multicast group.
    fn default() -> Self {
        Self {
            port: 1,
            gid: None,
            peers: Vec::new(),
            max_peers: 256,
            multicast: true,
            rx_slots: 512,
            tx_slots: 256,
        }
    }
}

/// A queue pair for datagrams.
#[derive(Debug)]
pub struct RdmaDevice {
    caps: Caps,
    rx: RdmaRx,
    tx: RdmaTx,
    link: Arc<Link>,
    peers: Arc<Peers>,
    gid: GidEntry,
}

impl RdmaDevice {
    /// Opens the device of this name, such as `rxe0`.
    pub fn open(name: &str, config: &RdmaConfig) -> Result<Self, OpenError> {
        Opening { name, config }.open()
    }

    /// Opens the device as `queues` devices (at least one), of which there can be one.
    pub fn open_queues(
        name: &str,
        config: &RdmaConfig,
        queues: usize,
    ) -> Result<Vec<Self>, OpenError> {
        if queues > 1 {
            let reason = "every queue pair is a station of its own: open the device several times";
            return Err(Opening { name, config }.unsuitable(reason));
        }
        Ok(vec![Self::open(name, config)?])
    }

    /// What others name it by, for [`RdmaConfig::peers`].
    pub fn station(&self) -> Peer {
        Peer { gid: self.gid.gid, queue_pair: self.link.pair().number() }
    }

    /// Whether it is in the multicast group.
    pub fn is_in_group(&self) -> bool {
        self.link.is_in_group()
    }

    /// What has happened to the table of peers.
    pub fn peer_counters(&self) -> PeerCounters {
        self.peers.counters()
    }

    /// The queue pair that carries the frames.
    pub fn queue_pair(&self) -> &Arc<QueuePair> {
        self.link.pair()
    }
}

impl Device for RdmaDevice {
    type Rx<'a> = &'a mut RdmaRx;
    type Tx<'a> = &'a mut RdmaTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut RdmaRx, &mut RdmaTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        self.link.drain_events()?;
        if self.rx.is_ready()? || self.tx.is_ready()? {
            return Ok(Wake::Ready);
        }
        Ok(Wake::Fd(self.link.descriptor()))
    }

    fn counters(&self) -> Counters {
        self.rx.counters(self.tx.counters())
    }

    fn buffers(&self) -> Buffers {
        self.rx.buffers(self.tx.buffers())
    }
}
