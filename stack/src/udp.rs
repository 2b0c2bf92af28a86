use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use slab::Slab;
use smoltcp::storage::{PacketBuffer, PacketMetadata};
use underpass_devices::PartialChecksum;

use crate::checksum;
use crate::config::Limits;
use crate::homes::Homes;
use crate::icmp::IcmpErrorKind;
use crate::ip_header::{ip_header_len, rewrite_ip_header, write_ip_header};
use crate::output::{Outgoing, Output};
use crate::packet::{Tuple, UdpDatagram, protocol};
use crate::recent::RecentPeers;
use crate::stats::DropReason;
use crate::wake::Waiters;

pub(crate) const HEADER_LEN: usize = 8;
/// Where the checksum is in a UDP header.
pub(crate) const CHECKSUM_AT: u16 = 6;
/// Ports that bind to port 0 takes from, as TCP's (Linux `ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// The UDP sockets of a shard.
pub(crate) struct Udp {
    sockets: Slab<Socket>,
    by_port: HashMap<u16, Vec<u32>>,
    /// Ports of custom protocols.
    reserved: Vec<u16>,
    dirty: VecDeque<u32>,
    next_ephemeral: u16,
    limits: Limits,
    /// Where ports are, and which shard this is, if there are several.
    homes: Option<(Homes, usize)>,
}

/// One UDP socket: a ring of datagrams each way, taken at bind.
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    /// Multicast groups it has joined, with their interfaces.
    pub(crate) groups: Vec<(IpAddr, usize)>,
    received: Ring,
    outgoing: Ring,
    /// Connected to.
    peer: Option<SocketAddr>,
    pub(crate) options: UdpOptions,
    sent_to: RecentPeers,
    /// What a router or the peer said of a datagram sent, to be told once.
    error: Option<io::ErrorKind>,
    dirty: bool,
    pub(crate) readers: Waiters,
    pub(crate) writers: Waiters,
}

/// Options of a UDP socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UdpOptions {
    pub(crate) broadcast: bool,
    pub(crate) hop_limit: u8,
    /// Of datagrams to groups.
    pub(crate) multicast_hop_limit: u8,
    pub(crate) traffic_class: u8,
    /// Datagrams above the path MTU are refused instead of fragmented.
    pub(crate) dont_fragment: bool,
}

/// Datagrams with what their headers say.
type Ring = PacketBuffer<'static, Ends>;

#[derive(Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    own: IpAddr,
    /// Of outgoing ones.
    hop_limit: u8,
    traffic_class: u8,
    dont_fragment: bool,
}

impl Udp {
    /// `first_port` is where the search for ephemeral ports begins (RFC 6056 §3.3.1: at random).
    pub(crate) fn new(limits: Limits, first_port: u16) -> Self {
        let span = EPHEMERAL.end() - EPHEMERAL.start();
        Self {
            sockets: Slab::new(),
            by_port: HashMap::new(),
            reserved: Vec::new(),
            dirty: VecDeque::new(),
            next_ephemeral: EPHEMERAL.start() + first_port % span,
            limits,
            homes: None,
        }
    }

    /// Makes this the sockets of one of several shards.
    pub(crate) fn share_ports(&mut self, homes: Homes, shard: usize) {
        self.homes = Some((homes, shard));
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
            port if self.is_used(SocketAddr::new(local.ip(), port)) || !self.claim(port) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("a UDP socket, or a protocol, has {local} already"),
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
            peer: None,
            options: UdpOptions::default(),
            sent_to: RecentPeers::default(),
            error: None,
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
                self.disclaim(port);
            }
        }
        self.dirty.retain(|other| *other != id);
    }

    /// Takes a port for a custom protocol; several may have it, at different addresses. False: a socket
    /// has it.
    pub(crate) fn reserve(&mut self, port: u16) -> bool {
        let is_free = !self.by_port.contains_key(&port) && self.claim(port);
        if is_free {
            self.reserved.push(port);
        }
        is_free
    }

    /// Undoes one [`reserve`](Self::reserve).
    pub(crate) fn free(&mut self, port: u16) {
        if let Some(found) = self.reserved.iter().position(|reserved| *reserved == port) {
            self.reserved.swap_remove(found);
        }
        if !self.reserved.contains(&port) {
            self.disclaim(port);
        }
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
        let src = SocketAddr::new(datagram.packet.src, datagram.src_port);
        let id = self.find(dst, Some(src)).ok_or(DropReason::UdpClosedPort)?;
        let socket = &mut self.sockets[id as usize];
        let ends = Ends {
            peer: src,
            own: datagram.packet.dst,
            hop_limit: datagram.packet.hop_limit,
            traffic_class: 0,
            dont_fragment: false,
        };
        let slot = socket
            .received
            .enqueue(datagram.data.len(), ends)
            .map_err(|_| DropReason::UdpQueueFull)?;
        slot.copy_from_slice(datagram.data);
        socket.readers.wake(wakes);
        Ok(())
    }

    /// Queues a datagram from address `own`. `path_mtu` bounds it if it must not be fragmented.
    /// `None`: the queue is full.
    pub(crate) fn send(
        &mut self,
        id: u32,
        own: IpAddr,
        peer: SocketAddr,
        path_mtu: usize,
        data: &[u8],
    ) -> io::Result<Option<()>> {
        let socket = &mut self.sockets[id as usize];
        let longest = (65_535 - ip_header_len(own) * usize::from(own.is_ipv4()) - HEADER_LEN)
            .min(self.limits.udp_bytes);
        let whole = path_mtu.saturating_sub(ip_header_len(own) + HEADER_LEN);
        let longest = if socket.options.dont_fragment { longest.min(whole) } else { longest };
        if data.len() > longest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a datagram to {peer} holds at most {longest} bytes, not {}", data.len()),
            ));
        }
        let options = &socket.options;
        let multicast = peer.ip().is_multicast();
        let ends = Ends {
            peer,
            own,
            hop_limit: if multicast { options.multicast_hop_limit } else { options.hop_limit },
            traffic_class: options.traffic_class,
            dont_fragment: options.dont_fragment,
        };
        let Ok(slot) = socket.outgoing.enqueue(data.len(), ends) else {
            return Ok(None);
        };
        slot.copy_from_slice(data);
        socket.sent_to.add(peer);
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
                write_datagram(ends, socket.local.port(), data, out);
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

    /// An error about a datagram that socket `tuple.local` has sent to `tuple.remote`. Only a
    /// connected socket is told, as on Linux: with others nobody knows which datagram it was.
    pub(crate) fn on_icmp_error(
        &mut self,
        tuple: &Tuple,
        kind: IcmpErrorKind,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        let id = self.sender(tuple)?;
        let socket = &mut self.sockets[id as usize];
        let error = match kind {
            IcmpErrorKind::PortUnreachable | IcmpErrorKind::ProtocolUnreachable => {
                io::ErrorKind::ConnectionRefused
            }
            IcmpErrorKind::AdminProhibited => io::ErrorKind::HostUnreachable,
            // Routes come and go (RFC 1122 §4.1.3.3).
            _ => return Err(DropReason::IcmpIgnored),
        };
        if socket.peer != Some(tuple.remote) {
            return Err(DropReason::IcmpIgnored);
        }
        socket.error = Some(error);
        socket.readers.wake(wakes);
        socket.writers.wake(wakes);
        Ok(())
    }

    /// A socket here has lately sent from and to these ends.
    pub(crate) fn check_sent(&self, tuple: &Tuple) -> Result<(), DropReason> {
        self.sender(tuple).map(drop)
    }

    fn sender(&self, tuple: &Tuple) -> Result<u32, DropReason> {
        let id = self.find(tuple.local, None).ok_or(DropReason::IcmpNoFlow)?;
        let sent = self.sockets[id as usize].sent_to.contains(tuple.remote);
        if sent { Ok(id) } else { Err(DropReason::IcmpNoFlow) }
    }

    /// The socket for a datagram from `src` to `dst`: one bound to that address before one bound to
    /// all, and none that is connected to somebody else.
    fn find(&self, dst: SocketAddr, src: Option<SocketAddr>) -> Option<u32> {
        let at_port = self.by_port.get(&dst.port())?;
        let local = |id: &u32| self.sockets[*id as usize].local.ip();
        let takes = |id: &&u32| {
            let peer = self.sockets[**id as usize].peer;
            peer.is_none() || src.is_none() || peer == src
        };
        let exact = at_port.iter().filter(takes).find(|id| local(id) == dst.ip());
        let any = |ip: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || dst.is_ipv4());
        exact.or_else(|| at_port.iter().filter(takes).find(|id| any(local(id)))).copied()
    }

    fn is_used(&self, local: SocketAddr) -> bool {
        self.reserved.contains(&local.port())
            || self.by_port.get(&local.port()).is_some_and(|at_port| {
                at_port.iter().any(|id| self.sockets[*id as usize].local.ip() == local.ip())
            })
    }

    /// Makes this shard the home of a port. False: another one is.
    fn claim(&self, port: u16) -> bool {
        self.homes.as_ref().is_none_or(|(homes, shard)| homes.claim(port, *shard))
    }

    fn disclaim(&self, port: u16) {
        if let Some((homes, _)) = &self.homes {
            homes.release(port);
        }
    }

    fn ephemeral(&mut self) -> io::Result<u16> {
        for _ in EPHEMERAL {
            let port = self.next_ephemeral;
            self.next_ephemeral =
                if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
            let is_used = self.by_port.contains_key(&port) || self.reserved.contains(&port);
            if !is_used && self.claim(port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "every ephemeral UDP port is in use"))
    }
}

impl Socket {
    /// Takes datagrams from `peer` only from now on; those of others that wait already are dropped
    /// when they are read. `None`: from everybody.
    pub(crate) fn connect(&mut self, peer: Option<SocketAddr>) {
        self.peer = peer;
        self.error = None;
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Fails once for each error that was reported.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), |error| Err(error.into()))
    }

    pub(crate) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take().map(io::Error::from)
    }

    /// The same as [`recv`](Self::recv), but the datagram stays.
    pub(crate) fn peek(&mut self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        self.skip_strangers();
        let (ends, data) = self.received.peek().ok()?;
        let len = data.len().min(buffer.len());
        buffer[..len].copy_from_slice(&data[..len]);
        Some((data.len(), ends.peer))
    }

    /// Lends the next datagram.
    pub(crate) fn recv_with(&mut self, read: impl FnOnce(&[u8], SocketAddr)) -> Option<()> {
        self.skip_strangers();
        let (ends, data) = self.received.dequeue().ok()?;
        read(data, ends.peer);
        Some(())
    }

    /// Drops what others had sent before the socket was connected.
    fn skip_strangers(&mut self) {
        while let Some(peer) = self.peer
            && self.received.peek().is_ok_and(|(ends, _)| ends.peer != peer)
        {
            let _dropped = self.received.dequeue();
        }
    }

    /// Takes the next datagram: copies as much of it as fits and returns its whole length, as
    /// `recvfrom` with `MSG_TRUNC`.
    pub(crate) fn recv(&mut self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        self.skip_strangers();
        let (ends, data) = self.received.dequeue().ok()?;
        let len = data.len().min(buffer.len());
        buffer[..len].copy_from_slice(&data[..len]);
        Some((data.len(), ends.peer))
    }
}

/// A datagram as a complete IP packet, for those who send without a socket.
pub(crate) fn to_packet(own: SocketAddr, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let header_len = ip_header_len(own.ip());
    let UdpOptions { hop_limit, traffic_class, dont_fragment, .. } = UdpOptions::default();
    let ends = Ends { peer, own: own.ip(), hop_limit, traffic_class, dont_fragment };
    let mut packet = vec![0; header_len + HEADER_LEN + data.len()];
    fill_datagram(&mut packet, &ends, own.port(), data);
    let field = PartialChecksum { start: header_len as u16, offset: CHECKSUM_AT };
    checksum::complete(&mut packet, field);
    packet
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self {
            broadcast: false,
            hop_limit: 64,
            // RFC 1112 §6.1: groups are local unless somebody says otherwise.
            multicast_hop_limit: 1,
            traffic_class: 0,
            dont_fragment: false,
        }
    }
}

fn write_datagram(ends: &Ends, port: u16, data: &[u8], out: &mut impl Output) {
    let Ends { peer, own, dont_fragment, .. } = *ends;
    let header_len = ip_header_len(own);
    let outgoing = Outgoing {
        dst: peer.ip(),
        len: header_len + HEADER_LEN + data.len(),
        checksum: Some(PartialChecksum { start: header_len as u16, offset: CHECKSUM_AT }),
        segment: None,
        dont_fragment,
    };
    out.packet(outgoing, |packet| fill_datagram(packet, ends, port, data));
}

/// Writes a whole datagram, whose checksum field holds the sum over the pseudo-header.
fn fill_datagram(packet: &mut [u8], ends: &Ends, port: u16, data: &[u8]) {
    let Ends { peer, own, hop_limit, traffic_class, dont_fragment } = *ends;
    write_headers(packet, SocketAddr::new(own, port), peer, hop_limit);
    let (ip, udp) = packet.split_at_mut(ip_header_len(own));
    if traffic_class != 0 || dont_fragment {
        rewrite_ip_header(ip, traffic_class, dont_fragment);
    }
    udp[HEADER_LEN..].copy_from_slice(data);
}

/// Writes the IP and UDP header of a datagram, of which only the data is missing then. The checksum
/// field holds the sum over the pseudo-header.
pub(crate) fn write_headers(packet: &mut [u8], own: SocketAddr, peer: SocketAddr, hop_limit: u8) {
    let (ip, udp) = packet.split_at_mut(ip_header_len(own.ip()));
    let udp_len = udp.len();
    write_ip_header(ip, own.ip(), peer.ip(), protocol::UDP, udp_len, hop_limit);
    udp[0..2].copy_from_slice(&own.port().to_be_bytes());
    udp[2..4].copy_from_slice(&peer.port().to_be_bytes());
    udp[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
    let partial = checksum::partial(own.ip(), peer.ip(), protocol::UDP, udp_len);
    udp[6..8].copy_from_slice(&partial.to_be_bytes());
}
