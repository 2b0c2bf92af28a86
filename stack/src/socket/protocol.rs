use std::fmt;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use underpass_protocols::Protocol;

use super::mode::Modes;
use crate::Stack;
use crate::attachments::ProtocolCounters;
use crate::block::wait;

/// A custom protocol that runs on a stack ([`Stack::attach`]). Clones are the same protocol, which is
/// detached when the last one is dropped.
///
/// Closures run while the protocol's shard is locked: they are to be short, and using the same stack in
/// them would wait for ever. They are not told the time, which nobody knows while the shard sleeps:
/// leave what needs it to [`Protocol::poll_transmit`], which is called soon after.
pub struct ProtocolHandle<P>(Arc<Inner>, PhantomData<fn(P) -> P>);

struct Inner {
    stack: Stack,
    id: u32,
    modes: Modes,
}

impl<P: Protocol> ProtocolHandle<P> {
    pub(crate) fn new(stack: Stack, id: u32) -> Self {
        Self(Arc::new(Inner { stack, id, modes: Modes::default() }), PhantomData)
    }

    /// Lets `work` look at the protocol and change it; then the protocol can send.
    pub fn with<R>(&self, work: impl FnOnce(&mut P) -> R) -> R {
        self.0.stack.shard().with(|core| work(core.attachments.protocol(self.0.id)))
    }

    /// Waits until `work` returns something. It is tried now, and each time the protocol has said that
    /// there is news ([`Outbox::notify`](underpass_protocols::Outbox::notify)).
    ///
    /// # Errors
    /// `WouldBlock`, `TimedOut`: as set. `NetworkDown`: the stack has stopped.
    pub fn wait<R>(&self, mut work: impl FnMut(&mut P) -> Option<R>) -> io::Result<R> {
        wait(self.0.modes.read(), |cx| self.poll_wait(cx, &mut work))
    }

    /// The same, without holding the thread.
    pub async fn wait_async<R>(&self, mut work: impl FnMut(&mut P) -> Option<R>) -> io::Result<R> {
        poll_fn(|cx| self.poll_wait(cx, &mut work)).await
    }

    /// The same, for a future of one's own.
    pub fn poll_wait<R>(
        &self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut P) -> Option<R>,
    ) -> Poll<io::Result<R>> {
        self.0.stack.shard().with(|core| {
            if let Some(result) = work(core.attachments.protocol(self.0.id)) {
                return Poll::Ready(Ok(result));
            }
            core.check_running()?;
            core.attachments.waiters(self.0.id).add(cx.waker());
            Poll::Pending
        })
    }

    /// What it has done.
    pub fn counters(&self) -> ProtocolCounters {
        self.0.stack.shard().with(|core| core.attachments.counters(self.0.id))
    }

    /// Makes [`wait`](Self::wait) return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.0.modes.set_nonblocking(nonblocking);
    }

    /// Limits how long [`wait`](Self::wait) waits; it then fails with `TimedOut`.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_read_timeout(timeout);
    }
}

impl<P> Clone for ProtocolHandle<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl<P> fmt::Debug for ProtocolHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtocolHandle").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Outside the lock: the protocol may hold handles of this stack.
        drop(self.stack.shard().with(|core| core.detach(self.id)));
    }
}
