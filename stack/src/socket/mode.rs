use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::block::Mode;

/// Whether the calls of a socket wait, and how long. Shared by all clones of the socket.
#[derive(Debug, Default)]
pub(crate) struct Modes {
    nonblocking: AtomicBool,
    read_timeout: Timeout,
    write_timeout: Timeout,
}

/// Nanoseconds; zero is for ever.
#[derive(Debug, Default)]
struct Timeout(AtomicU64);

impl Modes {
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.read_timeout.set(timeout);
    }

    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.write_timeout.set(timeout);
    }

    pub(crate) fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout.get()
    }

    pub(crate) fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout.get()
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self) -> Mode {
        self.with(&self.read_timeout)
    }

    pub(crate) fn write(&self) -> Mode {
        self.with(&self.write_timeout)
    }

    fn with(&self, timeout: &Timeout) -> Mode {
        if self.nonblocking.load(Ordering::Relaxed) {
            Mode::NonBlocking
        } else {
            Mode::Blocking(timeout.get())
        }
    }
}

impl Timeout {
    fn set(&self, timeout: Option<Duration>) {
        let nanos = timeout.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX).max(1));
        self.0.store(nanos, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}
