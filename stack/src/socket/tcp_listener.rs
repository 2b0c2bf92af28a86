use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// A listening TCP socket. It listens on every shard of its stack, and a connection is accepted from
/// the shard that owns it. Clones accept from the same queues.
#[derive(Clone)]
pub struct TcpListener {
    inner: Arc<Inner>,
    /// Accepts connections of this shard alone.
    only: Option<usize>,
}

struct Inner {
    stack: Stack,
    /// By shard.
    ids: Vec<u32>,
    local: SocketAddr,
    modes: Modes,
    /// The shard that is asked first for the next connection.
    next: AtomicUsize,
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
        let ListenOptions { backlog, tcp } = options;
        tcp.check()?;
        if local.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a listener needs a port"));
        }
        // The queue of each shard has its share.
        let backlog = backlog.div_ceil(stack.shards());
        // If a shard refuses, this closes it on those before.
        let mut inner = Inner {
            stack: stack.clone(),
            ids: Vec::with_capacity(stack.shards()),
            local,
            modes: Modes::default(),
            next: AtomicUsize::new(0),
        };
        for shard in 0..stack.shards() {
            let id = stack.shard_at(shard).with(|core| {
                core.check_running()?;
                core.net.check_local(local)?;
                core.tcp.listeners.open(local, backlog, tcp.clone())
            })?;
            inner.ids.push(id);
        }
        Ok(Self { inner: Arc::new(inner), only: None })
    }

    /// A handle of the same listener that accepts only connections owned by one shard, for code that
    /// runs on that shard's thread. `None`: there is no such shard.
    pub fn on_shard(&self, shard: usize) -> Option<Self> {
        let only = (shard < self.inner.ids.len()).then_some(shard)?;
        Some(Self { inner: Arc::clone(&self.inner), only: Some(only) })
    }

    /// Waits for a connection and takes it.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        wait(self.inner.modes.read(), |cx| self.poll_accept(cx))
    }

    /// The same, without holding the thread.
    pub async fn accept_async(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let shards = self.inner.ids.len();
        let (first, count) = match self.only {
            Some(only) => (only, 1),
            None if shards == 1 => (0, 1),
            // Each shard is the first to be asked in its turn.
            None => (self.inner.next.fetch_add(1, Ordering::Relaxed), shards),
        };
        for shard in (0..count).map(|n| first.wrapping_add(n) % shards) {
            if let Poll::Ready(accepted) = self.poll_accept_on(shard, cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    fn poll_accept_on(
        &self,
        shard: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let Inner { stack, ids, .. } = &*self.inner;
        let id = ids[shard];
        let accepted = stack.shard_at(shard).with(|core| {
            core.check_running()?;
            let accepted = core.tcp.accept(id);
            if accepted.is_none()
                && let Some(listener) = core.tcp.listeners.get_mut(id)
            {
                listener.waiters.add(cx.waker());
            }
            Ok(accepted)
        });
        match accepted {
            Ok(Some((id, tuple))) => {
                let stream = TcpStream::new(stack.clone(), shard, id, tuple);
                Poll::Ready(Ok((stream, tuple.remote)))
            }
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Makes `accept` return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.inner.modes.set_nonblocking(nonblocking);
    }
}

/// The port is free again; connections nobody accepted are reset.
impl Drop for Inner {
    fn drop(&mut self) {
        // The first shard last: who can listen there can listen everywhere.
        for (shard, id) in self.ids.iter().enumerate().rev() {
            self.stack.shard_at(shard).with(|core| core.tcp.close_listener(*id));
        }
    }
}
