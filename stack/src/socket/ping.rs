use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::Stack;
use crate::block::{Mode, wait};
use crate::ping::{EchoReply, EchoRequest};

/// Longest payload of an echo request, so that it fits an IPv4 packet.
const MAX_PAYLOAD: usize = 65_507;

/// Sends ICMP and ICMPv6 echo requests and receives the replies to them.
#[derive(Clone)]
pub struct Ping(Arc<Inner>);

struct Inner {
    stack: Stack,
    ident: u16,
}

impl Ping {
    /// Opens a socket with an identifier of its own.
    pub fn new(stack: &Stack) -> io::Result<Self> {
        let ident = stack.shard().with(|core| {
            core.check_running()?;
            core.pings.open()
        })?;
        Ok(Self(Arc::new(Inner { stack: stack.clone(), ident })))
    }

    /// Sends a request with sequence number `seq`; larger ones than the MTU are fragmented.
    ///
    /// # Errors
    /// `WouldBlock`: too many requests are waiting to be sent. `InvalidInput`: the payload is longer
    /// than a packet.
    pub fn send(&self, to: IpAddr, seq: u16, payload: &[u8]) -> io::Result<()> {
        if payload.len() > MAX_PAYLOAD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an echo request holds at most {MAX_PAYLOAD} bytes"),
            ));
        }
        self.0.stack.shard().with(|core| {
            core.check_running()?;
            let (_, src) = core.net.source_for(to)?;
            let request =
                EchoRequest { src, dst: to, ident: self.0.ident, seq, payload: payload.to_vec() };
            core.pings.send(request).ok_or_else(|| io::ErrorKind::WouldBlock.into())
        })
    }

    /// Waits for a reply, at most `timeout`.
    pub fn recv(&self, timeout: Duration) -> io::Result<EchoReply> {
        wait(Mode::Blocking(Some(timeout)), |cx| self.poll_recv(cx))
    }

    /// The same without a limit, and without holding the thread.
    pub async fn recv_async(&self) -> io::Result<EchoReply> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<EchoReply>> {
        self.0.stack.shard().with(|core| {
            core.check_running()?;
            let socket = core.pings.socket(self.0.ident);
            match socket.replies.pop_front() {
                Some(reply) => Poll::Ready(Ok(reply)),
                None => {
                    socket.readers.add(cx.waker());
                    Poll::Pending
                }
            }
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stack.shard().with(|core| core.pings.close(self.ident));
    }
}
