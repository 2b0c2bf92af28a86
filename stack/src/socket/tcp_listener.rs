use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::TcpStream;
use super::mode::Modes;
use crate::Stack;
use crate::block::wait;
use crate::tcp::TcpOptions;

/// How to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Connections that nobody has accepted yet (1024; 0 counts as 1). When so many wait, further
    /// SYNs go unanswered, so that peers try again (as Linux does); the stack counts them.
    pub backlog: usize,
    /// Options of the connections accepted.
    pub tcp: TcpOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 1024, tcp: TcpOptions::default() }
    }
}

/// A listening TCP socket. Clones accept from the same queue.
#[derive(Clone)]
pub struct TcpListener(Arc<Inner>);

struct Inner {
    stack: Stack,
    id: u32,
    local: SocketAddr,
    modes: Modes,
}

impl TcpListener {
    /// Listens on `local`. The unspecified IPv4 address takes IPv4 connections, the unspecified IPv6
    /// address those of both versions.
    ///
    /// # Errors
    /// `AddrNotAvailable`: not an address of the stack. `AddrInUse`: somebody listens there.
    /// `InvalidInput`: port 0.
    pub fn bind(stack: &Stack, local: SocketAddr) -> io::Result<Self> {
        Self::bind_with(stack, local, ListenOptions::default())
    }

    /// The same, with room for `backlog` connections that nobody has accepted yet.
    pub fn bind_with_backlog(stack: &Stack, local: SocketAddr, backlog: usize) -> io::Result<Self> {
        let tcp = TcpOptions::default();
        Self::bind_with(stack, local, ListenOptions { backlog, tcp })
    }

    /// The same, with options. An address is free again as soon as its listener is gone, even while
    /// connections of it are in TIME-WAIT.
    pub fn bind_with(stack: &Stack, local: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        options.tcp.check()?;
        if local.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a listener needs a port"));
        }
        let id = stack.shard().with(|core| {
            core.check_running()?;
            core.net.check_local(local)?;
            core.tcp.listeners.open(local, options.backlog, options.tcp)
        })?;
        Ok(Self(Arc::new(Inner { stack: stack.clone(), id, local, modes: Modes::default() })))
    }

    /// Waits for a connection and takes it.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        wait(self.0.modes.read(), |cx| self.poll_accept(cx))
    }

    /// The same, without holding the thread.
    pub async fn accept_async(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let stack = &self.0.stack;
        let accepted = stack.shard().with(|core| {
            core.check_running()?;
            let accepted = core.tcp.accept(self.0.id);
            if accepted.is_none()
                && let Some(listener) = core.tcp.listeners.get_mut(self.0.id)
            {
                listener.waiters.add(cx.waker());
            }
            Ok(accepted)
        });
        match accepted {
            Ok(Some((id, tuple))) => {
                Poll::Ready(Ok((TcpStream::new(stack.clone(), id, tuple), tuple.remote)))
            }
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Makes `accept` return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.0.modes.set_nonblocking(nonblocking);
    }
}

/// The port is free again; connections nobody accepted are reset.
impl Drop for Inner {
    fn drop(&mut self) {
        self.stack.shard().with(|core| core.tcp.close_listener(self.id));
    }
}
