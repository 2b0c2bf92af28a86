//! Doorways for the targets in `fuzz/` (feature `fuzzing`): thin functions over what reads the words
//! of a kernel, and no part of this crate's interface.

use std::ops::Range;

use underpass_devices::{Instant, MacAddr, PartialChecksum, RxMeta, TxMeta};

use crate::dpdk_request;
use crate::dpdk_segment::{Chain, Segment};
pub use crate::kring::doorway::{KringRings, RawKring};
use crate::ledger::{Ledger, Refused};
use crate::rdma_datagram::{self, Arrival, Receipt};
pub use crate::rdma_peer::{Gid, Peer};
use crate::rdma_peer_table::{Heard, PeerTable};
pub use crate::rdma_wire::{Permissions, Refusal, RegionError, RemoteRegion, WireError};
use crate::{packet, partial_checksum, rdma_wire, vnet_hdr};

/// Where the frame of an AF_PACKET receive slot is, and what is known of it; a VLAN tag is put back
/// into the slot. `None`: the slot goes back unread.
pub fn packet_slot(slot: &mut [u8]) -> Option<(Range<usize>, RxMeta)> {
    packet::read_slot(slot)
}

/// What a received `virtio_net_hdr` says of its frame. `None`: it contradicts itself or the frame.
pub fn decode_vnet_header(header: [u8; vnet_hdr::LEN], frame_len: usize) -> Option<RxMeta> {
    vnet_hdr::decode(header, frame_len).ok()
}

/// The `virtio_net_hdr` of a frame that is sent.
pub fn encode_vnet_header(meta: &TxMeta) -> [u8; vnet_hdr::LEN] {
    vnet_hdr::encode(meta)
}

/// The checksum that the sender of a frame has left to a NIC, told by its value.
pub fn partial_checksum(frame: &[u8]) -> Option<PartialChecksum> {
    partial_checksum::partial(frame)
}

/// Which chunks of an AF_XDP ring the kernel has.
#[derive(Debug)]
pub struct XdpLedger(Ledger);

/// What becomes of a descriptor that the kernel has put into a receive ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpReceived {
    /// It is lent; the number of its chunk.
    Frame(usize),
    /// Its chunk is ours again, and it is dropped: it leads beyond the chunk.
    TooLong,
    /// It is dropped: it names no chunk of ours that the kernel had.
    NotGiven,
}

impl XdpLedger {
    /// `count` chunks of `chunk_len` bytes from `start` on, all of them ours.
    pub fn new(start: usize, chunk_len: usize, count: usize) -> Self {
        Self(Ledger::new(start, chunk_len, count))
    }

    /// Chunks that the kernel has.
    pub fn given(&self) -> usize {
        self.0.given()
    }

    /// The chunk that holds `address` goes to the kernel.
    pub fn give(&mut self, address: usize) {
        self.0.give(address);
    }

    /// A descriptor of the completion ring. The number of its chunk, if the kernel had it.
    pub fn take_back(&mut self, address: usize) -> Option<usize> {
        self.0.take_back(address)
    }

    /// A descriptor of the receive ring.
    pub fn receive(&mut self, address: usize, len: usize) -> XdpReceived {
        match self.0.receive(address, len) {
            Ok(index) => XdpReceived::Frame(index),
            Err(Refused::TooLong) => XdpReceived::TooLong,
            Err(Refused::NotGiven) => XdpReceived::NotGiven,
        }
    }
}

/// What an mbuf says of itself: bytes of its buffer, where its data begin there, and how many they are.
pub type DpdkSegment = (u16, u16, u16);

/// Where the bytes of a received frame are in the buffers of its mbufs, of which the first says that they are
/// `nb_segs` with `pkt_len` bytes. `None`: the frame is dropped.
pub fn dpdk_frame(
    segments: &[DpdkSegment],
    nb_segs: u16,
    pkt_len: u32,
) -> Option<Vec<Range<usize>>> {
    let mut chain = Chain::default();
    let ranges: Option<Vec<_>> = segments
        .iter()
        .map(|(buf_len, data_off, data_len)| {
            chain.push(Segment { buf_len: *buf_len, data_off: *data_off, data_len: *data_len })
        })
        .collect();
    ranges.filter(|_| chain.is_whole(nb_segs, pkt_len))
}

/// What a device of DPDK is asked to do with a frame: the bytes of its link, IP and, if it is to be cut, TCP
/// header. The frame is changed to what goes with it. `None`: nothing is left to be done.
pub fn dpdk_request(
    frame: &mut [u8],
    meta: &TxMeta,
    ip_checksum: bool,
) -> Option<(usize, usize, usize)> {
    let request = dpdk_request::prepare(frame, meta, ip_checksum)?;
    Some((request.l2_len.into(), request.l3_len.into(), request.l4_len.into()))
}

/// The receive buffers and the table of peers of an RDMA device, as completions reach them.
#[derive(Debug)]
pub struct RdmaReceiver {
    ledger: Ledger,
    own: Peer,
    peers: PeerTable<u32>,
}

/// What becomes of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdmaArrival {
    /// So many bytes behind the routing header in the buffer of this number are lent.
    Frame(usize, usize, Peer),
    /// The buffer is ours again, and nothing is lent.
    Dropped(Option<usize>),
}

/// A successful receive completion: address of the buffer, bytes, whether there is a routing header, and the
/// queue pair that sent it.
pub type RdmaReceipt = (usize, usize, bool, u32);

impl RdmaReceiver {
    /// `count` buffers of `buffer_len` bytes, all of them ours, of the station `own`, which knows at most
    /// `limit` others.
    pub fn new(
        buffer_len: usize,
        count: usize,
        own: Peer,
        limit: usize,
        configured: &[Peer],
    ) -> Self {
        let peers = PeerTable::new(limit, configured);
        Self { ledger: Ledger::new(0, buffer_len, count), own, peers }
    }

    /// A buffer goes to the device.
    pub fn give(&mut self, address: usize) {
        self.ledger.give(address);
    }

    /// Buffers that the device has.
    pub fn given(&self) -> usize {
        self.ledger.given()
    }

    /// A completion, and the first bytes of its buffer.
    pub fn receive(&mut self, receipt: RdmaReceipt, header: [u8; 40]) -> RdmaArrival {
        let (address, len, has_routing_header, queue_pair) = receipt;
        let receipt = Receipt { address, len, has_routing_header, queue_pair };
        match rdma_datagram::receive(&mut self.ledger, &receipt, &self.own, |_| header) {
            Arrival::Frame { number, len, sender } => RdmaArrival::Frame(number, len, sender),
            Arrival::Own(number) => RdmaArrival::Dropped(Some(number)),
            Arrival::Malformed(number) => RdmaArrival::Dropped(number),
        }
    }

    /// A peer was heard. True: the way to it is to be looked for; and the way of the one whose place it
    /// got.
    pub fn heard(&mut self, peer: Peer, now: Instant) -> (bool, Option<u32>) {
        match self.peers.heard(peer, now) {
            Heard::New(replaced) => (true, replaced),
            Heard::Known | Heard::Refused => (false, None),
        }
    }

    /// The way to a peer was found, or there is none. What is not needed comes back.
    pub fn found(&mut self, peer: &Peer, way: Option<u32>) -> Option<u32> {
        match way {
            Some(way) => self.peers.found(peer, way),
            None => {
                self.peers.not_found(peer);
                None
            }
        }
    }

    /// The way to the station with this MAC address.
    pub fn way(&self, mac: MacAddr) -> Option<(Peer, u32)> {
        self.peers.way(mac).map(|(peer, way)| (*peer, *way))
    }

    /// Configured peers to which the way is not known.
    pub fn missing(&self) -> Vec<Peer> {
        self.peers.missing()
    }

    /// Peers in the table, those to which the way is known, and how often one was refused.
    pub fn peers(&self) -> (usize, usize, u64) {
        (self.peers.len(), self.peers.known().count(), self.peers.refused())
    }
}

/// Reads a message of the handshake between stations that use RDMA; the same, written anew.
pub fn rdma_handshake(message: &[u8], max_regions: usize) -> Result<Vec<u8>, WireError> {
    Ok(rdma_wire::Message::parse(message, max_regions)?.to_bytes())
}

/// The token of a message that gets a refusal for its answer.
pub fn rdma_refused_token(message: &[u8]) -> Option<u64> {
    rdma_wire::Message::token_of(message)
}
