use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::mode::Modes;
use crate::Stack;
use crate::block::wait;
use crate::core::Core;

/// A UDP socket. Clones are the same socket.
#[derive(Clone)]
pub struct UdpSocket(Arc<Inner>);

struct Inner {
    stack: Stack,
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
        let (id, local) = stack.shard().with(|core| {
            core.check_running()?;
            core.net.check_local(local)?;
            let id = core.udp.bind(local)?;
            io::Result::Ok((id, core.udp.socket(id).local))
        })?;
        Ok(Self(Arc::new(Inner { stack: stack.clone(), id, local, modes: Modes::default() })))
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
        self.0.stack.shard().with(|core| {
            core.check_running()?;
            let own = match self.0.local.ip() {
                any if any.is_unspecified() => core.net.source_to(peer.ip())?,
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
        self.0.stack.shard().with(|core| {
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

    pub(super) fn with_core<R>(&self, f: impl FnOnce(&mut Core, u32) -> R) -> R {
        self.0.stack.shard().with(|core| f(core, self.0.id))
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
        self.stack.shard().with(|core| {
            for (group, interface) in std::mem::take(&mut core.udp.socket(self.id).groups) {
                core.net.leave(core.now, group, interface);
            }
            core.udp.close(self.id);
        });
    }
}
