use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::mode::Modes;
use crate::Stack;
use crate::block::wait;

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

    /// Sends one datagram; waits while the send queue is full. A datagram above the MTU is
    /// fragmented.
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
        self.0.stack.shard_at(self.0.shard).with(|core| {
            core.check_running()?;
            let own = match self.0.local.ip() {
                any if any.is_unspecified() => core.net.source_for(peer.ip())?.1,
                own if own.is_ipv4() == peer.is_ipv4() => own,
                own => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("a socket bound to {own} cannot send to {peer}"),
                    )));
                }
            };
            match core.udp.send(self.0.id, own, peer, data)? {
                Some(()) => Poll::Ready(Ok(data.len())),
                None => {
                    core.udp.socket(self.0.id).writers.add(cx.waker());
                    Poll::Pending
                }
            }
        })
    }

    /// Waits for a datagram and copies it into `buffer`, as much as fits; returns the number of
    /// bytes copied and the sender.
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
        self.0.stack.shard_at(self.0.shard).with(|core| {
            core.check_running()?;
            let socket = core.udp.socket(self.0.id);
            match socket.recv(buffer) {
                Some((len, peer)) => Poll::Ready(Ok((len.min(buffer.len()), peer))),
                None => {
                    socket.readers.add(cx.waker());
                    Poll::Pending
                }
            }
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

    /// Makes calls return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.0.modes.set_nonblocking(nonblocking);
    }

    /// Limits how long a receive waits; it then fails with `TimedOut`.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_read_timeout(timeout);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stack.shard_at(self.shard).with(|core| core.udp.close(self.id));
    }
}
