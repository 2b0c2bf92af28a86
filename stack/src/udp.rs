use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use slab::Slab;
use smoltcp::storage::{PacketBuffer, PacketMetadata};
use underpass_devices::PartialChecksum;

use crate::checksum;
use crate::config::Limits;
use crate::ip_header::{ip_header_len, write_ip_header};
use crate::output::{Outgoing, Output};
use crate::packet::{UdpDatagram, protocol};
use crate::stats::DropReason;
use crate::wake::Waiters;

const HOP_LIMIT: u8 = 64;
/// Datagrams to groups stay on the link (RFC 1112 §6.1).
const GROUP_HOP_LIMIT: u8 = 1;
const UDP_HEADER_LEN: usize = 8;
/// Ports that bind to port 0 takes from, as TCP's (Linux `ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// The UDP sockets of a shard.
pub(crate) struct Udp {
    sockets: Slab<Socket>,
    by_port: HashMap<u16, Vec<u32>>,
    dirty: VecDeque<u32>,
    next_ephemeral: u16,
    limits: Limits,
}

/// One UDP socket: a ring of datagrams each way, taken at bind.
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    /// Multicast groups it has joined, with their interfaces.
    pub(crate) groups: Vec<(IpAddr, usize)>,
    received: Ring,
    outgoing: Ring,
    dirty: bool,
    pub(crate) readers: Waiters,
    pub(crate) writers: Waiters,
}

/// Datagrams with the address of their other end and, for outgoing ones, our own.
type Ring = PacketBuffer<'static, Ends>;

#[derive(Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    own: IpAddr,
}

impl Udp {
    /// `first_port` is where the search for ephemeral ports begins (RFC 6056 §3.3.1: at random).
    pub(crate) fn new(limits: Limits, first_port: u16) -> Self {
        let span = EPHEMERAL.end() - EPHEMERAL.start();
        Self {
            sockets: Slab::new(),
            by_port: HashMap::new(),
            dirty: VecDeque::new(),
            next_ephemeral: EPHEMERAL.start() + first_port % span,
            limits,
        }
    }

    /// Opens a socket; port 0 takes an ephemeral one.
    pub(crate) fn bind(&mut self, local: SocketAddr) -> io::Result<u32> {
        if self.sockets.len() >= self.limits.udp_sockets {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("the limit of {} UDP sockets is reached", self.limits.udp_sockets),
            ));
        }
        let port = match local.port() {
            0 => self.ephemeral()?,
            port if self.is_used(SocketAddr::new(local.ip(), port)) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("a UDP socket is already bound to {local}"),
                ));
            }
            port => port,
        };
        let ring = || {
            let slots = vec![PacketMetadata::EMPTY; self.limits.udp_datagrams];
            PacketBuffer::new(slots, vec![0; self.limits.udp_bytes])
        };
        let id = self.sockets.insert(Socket {
            local: SocketAddr::new(local.ip(), port),
            groups: Vec::new(),
            received: ring(),
            outgoing: ring(),
            dirty: false,
            readers: Waiters::default(),
            writers: Waiters::default(),
        }) as u32;
        self.by_port.entry(port).or_default().push(id);
        Ok(id)
    }

    pub(crate) fn close(&mut self, id: u32) {
        let socket = self.sockets.remove(id as usize);
        let port = socket.local.port();
        if let Some(at_port) = self.by_port.get_mut(&port) {
            at_port.retain(|other| *other != id);
            if at_port.is_empty() {
                self.by_port.remove(&port);
            }
        }
        self.dirty.retain(|other| *other != id);
    }

    pub(crate) fn socket(&mut self, id: u32) -> &mut Socket {
        &mut self.sockets[id as usize]
    }

    /// A datagram with a right checksum to an address of ours, or to everybody.
    pub(crate) fn on_datagram(
        &mut self,
        datagram: &UdpDatagram<'_>,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        let dst = SocketAddr::new(datagram.packet.dst, datagram.dst_port);
        let id = self.find(dst).ok_or(DropReason::UdpClosedPort)?;
        let socket = &mut self.sockets[id as usize];
        let ends = Ends {
            peer: SocketAddr::new(datagram.packet.src, datagram.src_port),
            own: datagram.packet.dst,
        };
        let slot = socket
            .received
            .enqueue(datagram.data.len(), ends)
            .map_err(|_| DropReason::UdpQueueFull)?;
        slot.copy_from_slice(datagram.data);
        socket.readers.wake(wakes);
        Ok(())
    }

    /// Queues a datagram from address `own`. `None`: the queue is full.
    pub(crate) fn send(
        &mut self,
        id: u32,
        own: IpAddr,
        peer: SocketAddr,
        data: &[u8],
    ) -> io::Result<Option<()>> {
        let socket = &mut self.sockets[id as usize];
        let longest = (65_535 - ip_header_len(own) * usize::from(own.is_ipv4()) - UDP_HEADER_LEN)
            .min(self.limits.udp_bytes);
        if data.len() > longest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a datagram to {peer} holds at most {longest} bytes, not {}", data.len()),
            ));
        }
        let Ok(slot) = socket.outgoing.enqueue(data.len(), Ends { peer, own }) else {
            return Ok(None);
        };
        slot.copy_from_slice(data);
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
            while let Ok((ends, data)) = socket.outgoing.peek() {
                if !out.has_room(out.interface_to(ends.peer.ip()).unwrap_or(0)) {
                    socket.dirty = true;
                    self.dirty.push_back(id);
                    break;
                }
                write_datagram(
                    SocketAddr::new(ends.own, socket.local.port()),
                    ends.peer,
                    data,
                    out,
                );
                let _sent = socket.outgoing.dequeue();
                socket.writers.wake(wakes);
            }
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Wakes everybody, because the device is gone.
    pub(crate) fn stop(&mut self, wakes: &mut Vec<Waker>) {
        for (_, socket) in &mut self.sockets {
            socket.readers.wake(wakes);
            socket.writers.wake(wakes);
        }
    }

    /// The socket for a datagram to `dst`: one bound to that address before one bound to all.
    fn find(&self, dst: SocketAddr) -> Option<u32> {
        let at_port = self.by_port.get(&dst.port())?;
        let local = |id: &u32| self.sockets[*id as usize].local.ip();
        let exact = at_port.iter().find(|id| local(id) == dst.ip());
        let any = |ip: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || dst.is_ipv4());
        exact.or_else(|| at_port.iter().find(|id| any(local(id)))).copied()
    }

    fn is_used(&self, local: SocketAddr) -> bool {
        self.by_port.get(&local.port()).is_some_and(|at_port| {
            at_port.iter().any(|id| self.sockets[*id as usize].local.ip() == local.ip())
        })
    }

    fn ephemeral(&mut self) -> io::Result<u16> {
        for _ in EPHEMERAL {
            let port = self.next_ephemeral;
            self.next_ephemeral =
                if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
            if !self.by_port.contains_key(&port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "every ephemeral UDP port is in use"))
    }
}

impl Socket {
    /// Takes the next datagram: copies as much of it as fits and returns its whole length, as
    /// `recvfrom` with `MSG_TRUNC`.
    pub(crate) fn recv(&mut self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let (ends, data) = self.received.dequeue().ok()?;
        let len = data.len().min(buffer.len());
        buffer[..len].copy_from_slice(&data[..len]);
        Some((data.len(), ends.peer))
    }
}

/// A datagram as a complete IP packet, for those who send without a socket.
pub(crate) fn to_packet(own: SocketAddr, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let header_len = ip_header_len(own.ip());
    let mut packet = vec![0; header_len + UDP_HEADER_LEN + data.len()];
    fill_datagram(&mut packet, own, peer, data);
    let field = PartialChecksum { start: header_len as u16, offset: 6 };
    checksum::complete(&mut packet, field);
    packet
}

fn write_datagram(own: SocketAddr, peer: SocketAddr, data: &[u8], out: &mut impl Output) {
    let header_len = ip_header_len(own.ip());
    let outgoing = Outgoing {
        dst: peer.ip(),
        len: header_len + UDP_HEADER_LEN + data.len(),
        checksum: Some(PartialChecksum { start: header_len as u16, offset: 6 }),
        segment: None,
    };
    out.packet(outgoing, |packet| fill_datagram(packet, own, peer, data));
}

/// The checksum field holds the sum over the pseudo-header.
fn fill_datagram(packet: &mut [u8], own: SocketAddr, peer: SocketAddr, data: &[u8]) {
    let udp_len = UDP_HEADER_LEN + data.len();
    let (ip, udp) = packet.split_at_mut(ip_header_len(own.ip()));
    let hop_limit = if peer.ip().is_multicast() { GROUP_HOP_LIMIT } else { HOP_LIMIT };
    write_ip_header(ip, own.ip(), peer.ip(), protocol::UDP, udp_len, hop_limit);
    udp[0..2].copy_from_slice(&own.port().to_be_bytes());
    udp[2..4].copy_from_slice(&peer.port().to_be_bytes());
    udp[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
    let partial = checksum::partial(own.ip(), peer.ip(), protocol::UDP, udp_len);
    udp[6..8].copy_from_slice(&partial.to_be_bytes());
    udp[UDP_HEADER_LEN..].copy_from_slice(data);
}
