mod addresses;
mod builder;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::config::Limits;
use crate::dns;
use crate::shard::Shared;
use crate::stats::Stats;

pub use builder::{BuildError, Builder};

/// A TCP/IP stack on one or more packet devices. A handle: cheap to clone, and the stack lives as
/// long as any handle or socket of it does.
#[derive(Clone)]
pub struct Stack(Arc<Inner>);

struct Inner {
    shard: Arc<Shared>,
    limits: Limits,
    dns: dns::State,
    stop: Arc<AtomicBool>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Stack {
    /// A stack to be configured.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The limits it was built with.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What it has done and what it holds.
    pub fn stats(&self) -> Stats {
        self.shard().with(|core| core.stats())
    }

    pub(crate) fn dns(&self) -> &dns::State {
        &self.0.dns
    }

    pub(crate) fn shard(&self) -> &Shared {
        &self.0.shard
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.shard.ring();
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a task that the driver itself has woken.
        if let Some(driver) = driver.filter(|driver| driver.thread().id() != thread::current().id())
        {
            let _panicked = driver.join();
        }
    }
}
