use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::mode::Modes;
use crate::Stack;
use crate::block::wait;
use crate::packet::protocol;

/// IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// A raw IP socket: it gets a copy of every packet of one protocol that arrives for the stack, and
/// sends packets of that protocol. Clones are the same socket.
///
/// Copies are taken of whole packets (reassembled if need be), before the stack looks at what is in
/// them; the stack handles TCP, UDP and ICMP all the same. A packet of any other protocol is no
/// longer answered with "protocol unreachable". Neighbour discovery is not copied. What does not
/// fit the queue ([`Limits::raw_packets`](crate::Limits::raw_packets)) is lost and counted.
#[derive(Clone)]
pub struct RawSocket(Arc<Inner>);

struct Inner {
    stack: Stack,
    id: u32,
    version: IpVersion,
    modes: Modes,
}

impl RawSocket {
    /// Opens a socket for an IP protocol number (IANA "Protocol Numbers").
    ///
    /// # Errors
    /// `InvalidInput`: the number of an IPv6 extension header, or 0, which are no protocols.
    /// `OutOfMemory`: the limit of raw sockets is reached.
    pub fn new(stack: &Stack, version: IpVersion, number: u8) -> io::Result<Self> {
        let extension = [protocol::ROUTING, protocol::FRAGMENT, protocol::DESTINATION_OPTIONS];
        if number == 0 || (version == IpVersion::V6 && extension.contains(&number)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{number} is not the number of a transport protocol"),
            ));
        }
        let id = stack.shard().with(|core| {
            core.check_running()?;
            core.raw.open(number, version == IpVersion::V4)
        })?;
        Ok(Self(Arc::new(Inner { stack: stack.clone(), id, version, modes: Modes::default() })))
    }

    /// Sends `payload` behind an IP header made by the stack; waits while the send queue is full. The
    /// checksum of ICMPv6 is filled in, that of anything else is the caller's. Packets above the
    /// path MTU are fragmented.
    pub fn send_to(&self, payload: &[u8], dst: IpAddr) -> io::Result<usize> {
        wait(self.0.modes.write(), |cx| self.poll_send_to(cx, payload, dst))
    }

    /// The same, without holding the thread.
    pub async fn send_to_async(&self, payload: &[u8], dst: IpAddr) -> io::Result<usize> {
        poll_fn(|cx| self.poll_send_to(cx, payload, dst)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        payload: &[u8],
        dst: IpAddr,
    ) -> Poll<io::Result<usize>> {
        if dst.is_ipv4() != (self.0.version == IpVersion::V4) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{dst} is of another IP version than the socket"),
            )));
        }
        self.0.stack.shard().with(|core| {
            core.check_running()?;
            let (_, src) = core.net.source_for(dst)?;
            match core.raw.send(self.0.id, src, dst, payload)? {
                Some(()) => Poll::Ready(Ok(payload.len())),
                None => {
                    core.raw.socket(self.0.id).writers.add(cx.waker());
                    Poll::Pending
                }
            }
        })
    }

    /// Waits for a packet and copies what follows its IP headers into `buffer`, as much as fits (the
    /// rest is lost); returns the number of bytes copied and the sender.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
        wait(self.0.modes.read(), |cx| self.poll_recv_from(cx, buffer))
    }

    /// The same, without holding the thread.
    pub async fn recv_from_async(&self, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
        poll_fn(|cx| self.poll_recv_from(cx, buffer)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, IpAddr)>> {
        self.0.stack.shard().with(|core| {
            core.check_running()?;
            let socket = core.raw.socket(self.0.id);
            match socket.recv(buffer) {
                Some((len, src)) => Poll::Ready(Ok((len.min(buffer.len()), src))),
                None => {
                    socket.readers.add(cx.waker());
                    Poll::Pending
                }
            }
        })
    }

    /// Sets the time to live or hop limit of packets sent from now on (64; 0 counts as 1).
    pub fn set_ttl(&self, ttl: u8) {
        self.0.stack.shard().with(|core| core.raw.socket(self.0.id).hop_limit = ttl.max(1));
    }

    /// Sets their type of service or traffic class (0).
    pub fn set_tos(&self, tos: u8) {
        self.0.stack.shard().with(|core| core.raw.socket(self.0.id).traffic_class = tos);
    }

    /// Makes calls return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.0.modes.set_nonblocking(nonblocking);
    }

    /// Limits how long a receive waits; it then fails with `TimedOut`.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_read_timeout(timeout);
    }

    /// Limits how long a send waits; it then fails with `TimedOut`.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_write_timeout(timeout);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stack.shard().with(|core| core.raw.close(self.id));
    }
}
