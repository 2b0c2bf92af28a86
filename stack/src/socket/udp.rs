use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::mode::Modes;
use crate::Stack;
use crate::block::wait;
use crate::core::Core;
use crate::network::Network;
use crate::udp::{Socket, UdpOptions};

/// A UDP socket. Clones are the same socket.
#[derive(Clone)]
pub struct UdpSocket(Arc<Inner>);

struct Inner {
    stack: Stack,
    shard: usize,
    id: u32,
    local: SocketAddr,
    modes: Modes,
}

impl UdpSocket {
    /// Binds to `local`; port 0 takes an ephemeral one. The unspecified IPv6 address takes datagrams
    /// of both versions.
    ///
    /// # Errors
    /// `AddrNotAvailable`: not an address of the stack. `AddrInUse`: the port is taken.
    pub fn bind(stack: &Stack, local: SocketAddr) -> io::Result<Self> {
        let (shard, id, local) = loop {
            let shard = stack.shard_for_port(local.port());
            let bound = stack.shard_at(shard).with(|core| {
                core.check_running()?;
                core.net.check_local(local)?;
                let id = core.udp.bind(local)?;
                io::Result::Ok((id, core.udp.socket(id).local))
            });
            match bound {
                // Another shard has become the port's home meanwhile: the socket goes there.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && stack.shard_for_port(local.port()) != shard => {}
                bound => {
                    let (id, local) = bound?;
                    break (shard, id, local);
                }
            }
        };
        let (stack, modes) = (stack.clone(), Modes::default());
        Ok(Self(Arc::new(Inner { stack, shard, id, local, modes })))
    }

    /// Sends to `peer` and receives from it only, until the next `connect`. An ICMP error about a
    /// datagram to it ("port unreachable") fails the next call with `ConnectionRefused`. A socket
    /// bound to the unspecified address stays so.
    ///
    /// # Errors
    /// `NetworkUnreachable`: there is no route. `InvalidInput`: the socket cannot send there, or port
    /// 0.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        if peer.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "nobody is at port 0"));
        }
        self.with(|core, id| {
            core.check_running()?;
            self.source(&core.net, peer)?;
            core.udp.socket(id).connect(Some(peer));
            Ok(())
        })
    }

    /// Undoes `connect`.
    pub fn disconnect(&self) {
        self.with(|core, id| core.udp.socket(id).connect(None));
    }

    /// Where it is connected to.
    ///
    /// # Errors
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.with(|core, id| core.udp.socket(id).peer());
        peer.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "connect the socket first"))
    }

    /// Sends one datagram; waits while the send queue is full. A datagram above the path MTU is
    /// fragmented, unless [`set_dont_fragment`](Self::set_dont_fragment) is on.
    ///
    /// # Errors
    /// `InvalidInput`: longer than a datagram can be, or than it may be unfragmented.
    /// `PermissionDenied`: to everybody, without [`set_broadcast`](Self::set_broadcast).
    pub fn send_to(&self, data: &[u8], peer: SocketAddr) -> io::Result<usize> {
        wait(self.0.modes.write(), |cx| self.poll_send_to(cx, data, peer))
    }

    /// The same, without holding the thread.
    pub async fn send_to_async(&self, data: &[u8], peer: SocketAddr) -> io::Result<usize> {
        poll_fn(|cx| self.poll_send_to(cx, data, peer)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        peer: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.poll_send_many(cx, &[(data, peer)]).map_ok(|_| data.len())
    }

    /// Sends to where the socket is connected.
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.send_to(data, self.peer_addr()?)
    }

    /// The same, without holding the thread.
    pub async fn send_async(&self, data: &[u8]) -> io::Result<usize> {
        self.send_to_async(data, self.peer_addr()?).await
    }

    /// Sends as many of the datagrams, in order, as the queue has room for, and returns how many;
    /// waits for room for one. The stack is locked once.
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to), if the first one cannot be sent; a later one ends the batch.
    pub fn send_many(&self, datagrams: &[(&[u8], SocketAddr)]) -> io::Result<usize> {
        wait(self.0.modes.write(), |cx| self.poll_send_many(cx, datagrams))
    }

    /// The same, without holding the thread.
    pub async fn send_many_async(&self, datagrams: &[(&[u8], SocketAddr)]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_send_many(cx, datagrams)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_send_many(
        &self,
        cx: &mut Context<'_>,
        datagrams: &[(&[u8], SocketAddr)],
    ) -> Poll<io::Result<usize>> {
        self.with(|core, id| {
            core.check_running()?;
            core.udp.socket(id).check()?;
            for (n, (data, peer)) in datagrams.iter().enumerate() {
                let sent = self.source(&core.net, *peer).and_then(|own| {
                    let path_mtu = core.net.path_mtu(core.now, peer.ip());
                    let broadcast = core.net.routes.is_broadcast(peer.ip());
                    if broadcast && !core.udp.socket(id).options.broadcast {
                        return Err(io::Error::new(
                            io::ErrorKind::PermissionDenied,
                            format!("{} is everybody: call set_broadcast(true) first", peer.ip()),
                        ));
                    }
                    core.udp.send(id, own, *peer, path_mtu, data)
                });
                match sent {
                    Ok(Some(())) => {}
                    _ if n > 0 => return Poll::Ready(Ok(n)),
                    Ok(None) => {
                        core.udp.socket(id).writers.add(cx.waker());
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(datagrams.len()))
        })
    }

    /// Waits for a datagram and copies it into `buffer`, as much as fits (the rest is lost); returns
    /// the number of bytes copied and the sender.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        wait(self.0.modes.read(), |cx| self.poll_recv_from(cx, buffer))
    }

    /// The same, without holding the thread.
    pub async fn recv_from_async(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.poll_recv_from(cx, buffer)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let received = self.poll_recv(cx, |socket| socket.recv(buffer));
        received.map_ok(|(len, peer)| (len.min(buffer.len()), peer))
    }

    /// As [`recv_from`](Self::recv_from), from where the socket is connected.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.peer_addr()?;
        self.recv_from(buffer).map(|(len, _)| len)
    }

    /// The same, without holding the thread.
    pub async fn recv_async(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.peer_addr()?;
        self.recv_from_async(buffer).await.map(|(len, _)| len)
    }

    /// As [`recv_from`](Self::recv_from), but the datagram stays and the next call gets it again.
    pub fn peek_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        wait(self.0.modes.read(), |cx| self.poll_peek_from(cx, buffer))
    }

    /// The same, without holding the thread.
    pub async fn peek_from_async(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.poll_peek_from(cx, buffer)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_peek_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let peeked = self.poll_recv(cx, |socket| socket.peek(buffer));
        peeked.map_ok(|(len, peer)| (len.min(buffer.len()), peer))
    }

    /// Waits for a datagram, then lends up to `max` of those that are there to `read`, with their
    /// senders; returns how many. Nothing is copied, and the stack is locked once: `read` must not
    /// call it.
    pub fn recv_many(
        &self,
        max: usize,
        mut read: impl FnMut(&[u8], SocketAddr),
    ) -> io::Result<usize> {
        wait(self.0.modes.read(), |cx| self.poll_recv_many(cx, max, &mut read))
    }

    /// The same, without holding the thread.
    pub async fn recv_many_async(
        &self,
        max: usize,
        mut read: impl FnMut(&[u8], SocketAddr),
    ) -> io::Result<usize> {
        poll_fn(|cx| self.poll_recv_many(cx, max, &mut read)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_recv_many(
        &self,
        cx: &mut Context<'_>,
        max: usize,
        mut read: impl FnMut(&[u8], SocketAddr),
    ) -> Poll<io::Result<usize>> {
        self.poll_recv(cx, |socket| {
            let mut count = 0;
            while count < max && socket.recv_with(&mut read).is_some() {
                count += 1;
            }
            (count > 0 || max == 0).then_some(count)
        })
    }

    fn poll_recv<R>(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Socket) -> Option<R>,
    ) -> Poll<io::Result<R>> {
        self.with(|core, id| {
            core.check_running()?;
            let socket = core.udp.socket(id);
            socket.check()?;
            match take(socket) {
                Some(result) => Poll::Ready(Ok(result)),
                None => {
                    socket.readers.add(cx.waker());
                    Poll::Pending
                }
            }
        })
    }

    /// The address to send to `peer` from.
    fn source(&self, net: &Network, peer: SocketAddr) -> io::Result<IpAddr> {
        let own = self.0.local.ip();
        if !own.is_unspecified() && own.is_ipv4() != peer.is_ipv4()
            || own.is_ipv4() && peer.is_ipv6()
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a socket bound to {own} cannot send to {peer}"),
            ));
        }
        if !own.is_unspecified() {
            return Ok(own);
        }
        let group = peer.ip().is_multicast() || net.routes.is_broadcast(peer.ip());
        if !group {
            return net.source_for(peer.ip()).map(|(_, source)| source);
        }
        let interface = net.interface_to(peer.ip());
        let source = interface.and_then(|i| net.routes.source_on(i, peer.ip(), peer.ip()));
        source.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NetworkUnreachable,
                format!("no route to {peer}: no interface has an address of that IP version"),
            )
        })
    }

    /// The shard it lives on; it never changes.
    pub fn shard(&self) -> usize {
        self.0.shard
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Allows datagrams to everybody on a network (`false`).
    pub fn set_broadcast(&self, broadcast: bool) {
        self.with(|core, id| core.udp.socket(id).options.broadcast = broadcast);
    }

    /// Whether datagrams to everybody are allowed.
    pub fn broadcast(&self) -> bool {
        self.options().broadcast
    }

    /// Sets the time to live or hop limit of datagrams sent from now on (64; 0 counts as 1).
    pub fn set_ttl(&self, ttl: u8) {
        self.with(|core, id| core.udp.socket(id).options.hop_limit = ttl.max(1));
    }

    /// Time to live or hop limit of datagrams to one station.
    pub fn ttl(&self) -> u8 {
        self.options().hop_limit
    }

    /// Sets the same for datagrams to groups (1: they do not leave the network; 0 counts as 1).
    pub fn set_multicast_ttl(&self, ttl: u8) {
        self.with(|core, id| core.udp.socket(id).options.multicast_hop_limit = ttl.max(1));
    }

    /// Time to live or hop limit of datagrams to groups.
    pub fn multicast_ttl(&self) -> u8 {
        self.options().multicast_hop_limit
    }

    /// Sets type of service or traffic class of datagrams sent from now on (0).
    pub fn set_tos(&self, tos: u8) {
        self.with(|core, id| core.udp.socket(id).options.traffic_class = tos);
    }

    /// Type of service or traffic class.
    pub fn tos(&self) -> u8 {
        self.options().traffic_class
    }

    /// Forbids fragmentation, here and (by the DF bit) on the way: a datagram above the path MTU is
    /// refused with `InvalidInput`, and [`path_mtu`](Self::path_mtu) tells how long it may be
    /// (`false`).
    pub fn set_dont_fragment(&self, dont_fragment: bool) {
        self.with(|core, id| core.udp.socket(id).options.dont_fragment = dont_fragment);
    }

    /// Whether fragmentation is forbidden.
    pub fn dont_fragment(&self) -> bool {
        self.options().dont_fragment
    }

    /// Longest IP packet, headers included, that reaches `peer` in one piece as far as is known.
    pub fn path_mtu(&self, peer: IpAddr) -> usize {
        self.with(|core, _| core.net.path_mtu(core.now, peer))
    }

    /// The error that the next call would fail with, which is forgotten.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.with(|core, id| core.udp.socket(id).take_error()))
    }

    /// Makes calls return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.0.modes.set_nonblocking(nonblocking);
    }

    /// Limits how long a receive waits; it then fails with `TimedOut`.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_read_timeout(timeout);
    }

    /// How long a receive waits; `None`: for ever.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.0.modes.read_timeout()
    }

    /// Limits how long a send waits; it then fails with `TimedOut`.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_write_timeout(timeout);
    }

    /// How long a send waits; `None`: for ever.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.0.modes.write_timeout()
    }

    fn options(&self) -> UdpOptions {
        self.with(|core, id| core.udp.socket(id).options)
    }

    pub(super) fn stack(&self) -> &Stack {
        &self.0.stack
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Core, u32) -> R) -> R {
        self.0.stack.shard_at(self.0.shard).with(|core| f(core, self.0.id))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let shard = self.stack.shard_at(self.shard);
        let groups = shard.with(|core| std::mem::take(&mut core.udp.socket(self.id).groups));
        for (group, interface) in groups {
            self.stack.shard().with(|core| core.net.leave(core.now, group, interface));
        }
        shard.with(|core| core.udp.close(self.id));
    }
}
