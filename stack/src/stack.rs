mod addresses;
mod attach;
mod builder;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use underpass_devices::Steering;

use crate::config::Limits;
use crate::dns;
use crate::homes::Homes;
use crate::shard::Shared;
use crate::stats::Stats;

pub use builder::{BuildError, Builder};

/// A TCP/IP stack on one or more packet devices. A handle: cheap to clone, and the stack lives as
/// long as any handle or socket of it does.
///
/// Where the devices have several queues, the stack has as many shards, each of which owns the flows
/// that a hash of their addresses and ports puts on it. Sockets are opened on the shards in turn, or
/// on one of them through a handle [`on_shard`](Self::on_shard).
#[derive(Clone)]
pub struct Stack {
    inner: Arc<Inner>,
    /// Where this handle opens sockets; `None`: on all shards in turn.
    home: Option<usize>,
}

struct Inner {
    /// Never empty.
    shards: Vec<Arc<Shared>>,
    /// Who owns a flow.
    steering: Steering,
    /// Who has the UDP sockets of a port, if there are several shards.
    ports: Option<Homes>,
    /// The shard after the one that got the last socket.
    next: AtomicUsize,
    limits: Limits,
    busy_poll: Duration,
    dns: dns::State,
    stop: Arc<AtomicBool>,
    drivers: Mutex<Vec<JoinHandle<()>>>,
}

impl Stack {
    /// A stack to be configured.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The limits it was built with, of which each holds for one shard.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What it has done and what it holds, over all shards.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for stats in self.shard_stats() {
            sum += &stats;
        }
        sum
    }

    /// The same, shard by shard.
    pub fn shard_stats(&self) -> Vec<Stats> {
        self.inner.shards.iter().map(|shard| shard.stats()).collect()
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.inner.shards.len()
    }

    /// A handle of the same stack that opens its connections and UDP sockets and sleeps on one shard,
    /// for code that runs on that shard's thread. `None`: there is no such shard.
    pub fn on_shard(&self, shard: usize) -> Option<Self> {
        let home = (shard < self.shards()).then_some(shard)?;
        Some(Self { inner: Arc::clone(&self.inner), home: Some(home) })
    }

    pub(crate) fn dns(&self) -> &dns::State {
        &self.inner.dns
    }

    /// How long threads of its shards spin before they sleep.
    pub(crate) fn busy_poll(&self) -> Duration {
        self.inner.busy_poll
    }

    /// All shards, by number.
    pub(crate) fn all_shards(&self) -> &[Arc<Shared>] {
        &self.inner.shards
    }

    /// The first shard, which has what belongs to the stack as a whole: addresses, routes, pings, raw
    /// sockets.
    pub(crate) fn shard(&self) -> &Shared {
        self.shard_at(0)
    }

    /// The shard that this handle is for, or else the first one.
    pub(crate) fn home_shard(&self) -> &Shared {
        self.shard_at(self.home.unwrap_or(0))
    }

    /// A shard by its number; numbers come from this stack alone.
    pub(crate) fn shard_at(&self, shard: usize) -> &Shared {
        &self.inner.shards[shard]
    }

    /// Where a new connection belongs.
    pub(crate) fn shard_for_flow(&self) -> usize {
        match self.home {
            Some(home) => home,
            None if self.shards() == 1 => 0,
            None => self.inner.next.fetch_add(1, Ordering::Relaxed) % self.shards(),
        }
    }

    /// The owner of the flow between two ends.
    pub(crate) fn owner(&self, local: SocketAddr, remote: SocketAddr) -> usize {
        self.inner.steering.queue_of(local, remote)
    }

    /// Where a UDP socket at `port` belongs: with the others at that port.
    pub(crate) fn shard_for_port(&self, port: u16) -> usize {
        let home = self.inner.ports.as_ref().and_then(|ports| ports.get(port));
        home.unwrap_or_else(|| self.shard_for_flow())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.shards.iter().for_each(|shard| shard.ring());
        let drivers = self.drivers.get_mut().unwrap_or_else(PoisonError::into_inner);
        for driver in drivers.drain(..) {
            // The last handle may be dropped by a task that a driver itself has woken.
            if driver.thread().id() != thread::current().id() {
                let _panicked = driver.join();
            }
        }
    }
}
