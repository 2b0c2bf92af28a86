//! Any number of stacks and simulated links, in virtual time.

use std::time::Duration;

use underpass::Shard;
use underpass::devices::{Instant, SimDevice, SimLink};

/// Everything that moves, and the time.
#[derive(Default)]
pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) shards: Vec<Shard<SimDevice>>,
    pub(crate) links: Vec<SimLink>,
}

impl Net {
    /// Turns every shard once; if none had anything to do, goes on to the next event, at most to
    /// `end`. False: there is none before.
    fn step(&mut self, end: Instant) -> bool {
        let mut events = Vec::new();
        let mut busy = false;
        for shard in &mut self.shards {
            let turn = shard.turn(self.now).unwrap();
            busy |= turn.busy;
            events.push(turn.next);
        }
        if busy {
            return true;
        }
        events.extend(self.links.iter().map(SimLink::next_arrival));
        match events.into_iter().flatten().min().filter(|at| *at < end) {
            Some(at) => {
                // A timer may be due within the nanosecond that has just been worked off.
                self.now = at.max(self.now + Duration::from_nanos(1));
                true
            }
            None => {
                self.now = self.now.max(end);
                false
            }
        }
    }

    /// Steps until `done`, or panics after `limit` of virtual time.
    pub(crate) fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut() -> bool,
    ) {
        let end = self.now + limit;
        while !done() {
            assert!(self.step(end), "{what}: not done after {limit:?}");
        }
    }

    /// Steps for `time`.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }
}
