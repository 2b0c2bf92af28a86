//! Which sockets may have something to do: told by their wakers, waited for by one owner.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

/// The socket that calls; `None` is the listener.
pub(super) type Caller = Option<super::ConnectionId>;

/// Calls that were not answered yet, each socket once.
#[derive(Default)]
pub(super) struct Calls {
    callers: Mutex<Vec<Caller>>,
    arrived: Condvar,
}

/// The bell of one socket.
pub(super) struct Bell {
    caller: Caller,
    /// It is in `callers`.
    called: AtomicBool,
    calls: Arc<Calls>,
}

impl Calls {
    /// A bell for a socket, and the same as a waker.
    pub(super) fn bell(self: &Arc<Self>, caller: Caller) -> (Arc<Bell>, Waker) {
        let called = AtomicBool::new(false);
        let bell = Arc::new(Bell { caller, called, calls: Arc::clone(self) });
        (Arc::clone(&bell), bell.into())
    }

    /// Moves all callers to `into`.
    pub(super) fn take(&self, into: &mut Vec<Caller>) {
        into.append(&mut self.lock());
    }

    /// Waits for a call. False: there is none at `deadline`.
    pub(super) fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let mut callers = self.lock();
        while callers.is_empty() {
            callers = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                None => self.arrived.wait(callers).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => {
                    let waited = self.arrived.wait_timeout(callers, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Caller>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    /// Its call is being answered: the next one counts again.
    pub(super) fn answer(&self) {
        self.called.store(false, Ordering::SeqCst);
    }

    fn ring(&self) {
        if !self.called.swap(true, Ordering::SeqCst) {
            self.calls.lock().push(self.caller);
            self.calls.arrived.notify_one();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
