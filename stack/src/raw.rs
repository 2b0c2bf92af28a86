//! Raw IP sockets: copies of received packets by protocol number, and packets of one's own.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use slab::Slab;
use smoltcp::storage::{PacketBuffer, PacketMetadata};
use underpass_devices::PartialChecksum;

use crate::checksum;
use crate::config::Limits;
use crate::ip_header::{ip_header_len, rewrite_ip_header, write_ip_header};
use crate::output::{Outgoing, Output};
use crate::packet::{Packet, protocol};
use crate::recent::RecentPeers;
use crate::stats::{DropReason, Drops};
use crate::wake::Waiters;

/// The raw sockets of a shard.
pub(crate) struct RawSockets {
    sockets: Slab<RawEndpoint>,
    dirty: VecDeque<u32>,
    limits: Limits,
}

/// One raw socket: a ring of packets each way, taken when it is opened.
pub(crate) struct RawEndpoint {
    protocol: u8,
    is_ipv4: bool,
    received: PacketBuffer<'static, IpAddr>,
    outgoing: PacketBuffer<'static, Header>,
    dirty: bool,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    sent_to: RecentPeers,
    pub(crate) readers: Waiters,
    pub(crate) writers: Waiters,
}

/// The IP header of a packet to be sent.
#[derive(Clone, Copy)]
struct Header {
    src: IpAddr,
    dst: IpAddr,
    hop_limit: u8,
    traffic_class: u8,
}

impl RawSockets {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { sockets: Slab::new(), dirty: VecDeque::new(), limits }
    }

    pub(crate) fn open(&mut self, protocol: u8, is_ipv4: bool) -> io::Result<u32> {
        if self.sockets.len() >= self.limits.raw_sockets {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("the limit of {} raw sockets is reached", self.limits.raw_sockets),
            ));
        }
        let (slots, bytes) = (self.limits.raw_packets, self.limits.raw_bytes);
        Ok(self.sockets.insert(RawEndpoint {
            protocol,
            is_ipv4,
            received: PacketBuffer::new(vec![PacketMetadata::EMPTY; slots], vec![0; bytes]),
            outgoing: PacketBuffer::new(vec![PacketMetadata::EMPTY; slots], vec![0; bytes]),
            dirty: false,
            hop_limit: 64,
            traffic_class: 0,
            sent_to: RecentPeers::default(),
            readers: Waiters::default(),
            writers: Waiters::default(),
        }) as u32)
    }

    pub(crate) fn close(&mut self, id: u32) {
        self.sockets.remove(id as usize);
        self.dirty.retain(|other| *other != id);
    }

    pub(crate) fn socket(&mut self, id: u32) -> &mut RawEndpoint {
        &mut self.sockets[id as usize]
    }

    /// Copies a whole packet for this stack to every socket of its protocol. True: there is one.
    pub(crate) fn on_packet(
        &mut self,
        packet: &Packet<'_>,
        drops: &mut Drops,
        wakes: &mut Vec<Waker>,
    ) -> bool {
        let mut wanted = false;
        for (_, socket) in &mut self.sockets {
            if socket.protocol != packet.protocol || socket.is_ipv4 != packet.src.is_ipv4() {
                continue;
            }
            wanted = true;
            let payload = packet.payload();
            match socket.received.enqueue(payload.len(), packet.src) {
                Ok(slot) => {
                    slot.copy_from_slice(payload);
                    socket.readers.wake(wakes);
                }
                Err(_) => drops.count(DropReason::RawQueueFull),
            }
        }
        wanted
    }

    /// Queues a packet. `None`: the queue is full.
    pub(crate) fn send(
        &mut self,
        id: u32,
        src: IpAddr,
        dst: IpAddr,
        payload: &[u8],
    ) -> io::Result<Option<()>> {
        let socket = &mut self.sockets[id as usize];
        let longest = 65_535 - ip_header_len(dst) * usize::from(dst.is_ipv4());
        let longest = longest.min(self.limits.raw_bytes);
        if payload.len() > longest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a packet to {dst} holds at most {longest} bytes, not {}", payload.len()),
            ));
        }
        let RawEndpoint { hop_limit, traffic_class, .. } = *socket;
        let header = Header { src, dst, hop_limit, traffic_class };
        let Ok(slot) = socket.outgoing.enqueue(payload.len(), header) else {
            return Ok(None);
        };
        slot.copy_from_slice(payload);
        socket.sent_to.add(SocketAddr::new(dst, 0));
        if !std::mem::replace(&mut socket.dirty, true) {
            self.dirty.push_back(id);
        }
        Ok(Some(()))
    }

    /// Sends what is queued until the output is full; the rest stays.
    pub(crate) fn emit(&mut self, out: &mut impl Output, wakes: &mut Vec<Waker>) {
        // A socket whose interface is full does not hold up those that send by others.
        for _ in 0..self.dirty.len() {
            let Some(id) = self.dirty.pop_front() else {
                break;
            };
            let socket = &mut self.sockets[id as usize];
            socket.dirty = false;
            while let Ok((header, payload)) = socket.outgoing.peek() {
                if !out.has_room(out.interface_to(header.dst).unwrap_or(0)) {
                    socket.dirty = true;
                    self.dirty.push_back(id);
                    break;
                }
                write_packet(header, socket.protocol, payload, out);
                let _sent = socket.outgoing.dequeue();
                socket.writers.wake(wakes);
            }
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Somebody here has lately sent a packet of this protocol to `dst`.
    pub(crate) fn check_sent(&self, protocol: u8, dst: IpAddr) -> Result<(), DropReason> {
        let dst = SocketAddr::new(dst, 0);
        let sent = self
            .sockets
            .iter()
            .any(|(_, socket)| socket.protocol == protocol && socket.sent_to.contains(dst));
        if sent { Ok(()) } else { Err(DropReason::IcmpNoFlow) }
    }

    /// Wakes everybody, because the device is gone.
    pub(crate) fn stop(&mut self, wakes: &mut Vec<Waker>) {
        for (_, socket) in &mut self.sockets {
            socket.readers.wake(wakes);
            socket.writers.wake(wakes);
        }
    }
}

impl RawEndpoint {
    /// Takes the next packet: copies as much of it as fits and returns its whole length.
    pub(crate) fn recv(&mut self, buffer: &mut [u8]) -> Option<(usize, IpAddr)> {
        let (src, payload) = self.received.dequeue().ok()?;
        let len = payload.len().min(buffer.len());
        buffer[..len].copy_from_slice(&payload[..len]);
        Some((payload.len(), src))
    }
}

fn write_packet(header: &Header, number: u8, payload: &[u8], out: &mut impl Output) {
    let Header { src, dst, hop_limit, traffic_class } = *header;
    let header_len = ip_header_len(dst);
    // The checksum of ICMPv6 takes in addresses that only the stack knows (RFC 3542 §3.1).
    let summed = number == protocol::ICMPV6 && dst.is_ipv6() && payload.len() >= 4;
    let outgoing = Outgoing {
        dst,
        len: header_len + payload.len(),
        checksum: summed.then_some(PartialChecksum { start: header_len as u16, offset: 2 }),
        segment: None,
        dont_fragment: false,
    };
    out.packet(outgoing, |packet| {
        let (ip, body) = packet.split_at_mut(header_len);
        write_ip_header(ip, src, dst, number, payload.len(), hop_limit);
        if traffic_class != 0 {
            rewrite_ip_header(ip, traffic_class, false);
        }
        body.copy_from_slice(payload);
        if summed {
            let partial = checksum::partial(src, dst, number, payload.len());
            body[2..4].copy_from_slice(&partial.to_be_bytes());
        }
    });
}
