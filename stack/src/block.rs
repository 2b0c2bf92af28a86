//! Waiting on a thread of one's own for what a task would wait for.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How a socket's calls behave when they cannot go on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// Return `WouldBlock`.
    NonBlocking,
    /// Wait, for as long as this or for ever.
    Blocking(Option<Duration>),
}

/// Polls until it is ready, as `mode` allows.
pub(crate) fn wait<R>(
    mode: Mode,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<R>>,
) -> io::Result<R> {
    let timeout = match mode {
        Mode::NonBlocking => {
            return match poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        Mode::Blocking(timeout) => timeout,
    };
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let waker = UNPARK.with(Waker::clone);
    loop {
        if let Poll::Ready(result) = poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return Err(io::ErrorKind::TimedOut.into()),
            Some(left) => thread::park_timeout(left),
        }
    }
}

thread_local! {
    static UNPARK: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
