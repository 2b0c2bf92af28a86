//! Options of single flows: keep-alive, and everything the engine is told.

use std::io;
use std::time::Duration;

use underpass_devices::Instant;

use super::{Flow, Tcp};
use crate::tcp::engine::{Connection, Engine, State};
use crate::tcp::info::TcpInfo;
use crate::tcp::options::TcpOptions;

/// What few flows have, in a place of its own so that the others stay small.
#[derive(Default)]
pub(super) struct Extras {
    options: TcpOptions,
    /// When something last came from the peer; `None`: count from the next look.
    heard: Option<Instant>,
    /// Keep-alive probes sent since.
    probes: u32,
    /// When a blind segment was last answered.
    challenged: Option<Instant>,
}

impl<E: Engine> Tcp<E> {
    /// The options of a flow, as they were set.
    pub(crate) fn options(&self, id: u32) -> TcpOptions {
        let extras = self.flows[id as usize].extras.as_ref();
        extras.map_or_else(TcpOptions::default, |extras| extras.options.clone())
    }

    /// Changes options of a flow. Its buffers stay as they are.
    pub(crate) fn configure(&mut self, id: u32, change: impl FnOnce(&mut TcpOptions)) {
        let flow = &mut self.flows[id as usize];
        let extras = flow.extras.get_or_insert_default();
        change(&mut extras.options);
        (extras.heard, extras.probes) = (None, 0);
        flow.connection.configure(&extras.options);
        self.mark_dirty(id);
    }

    pub(crate) fn info(&self, id: u32) -> TcpInfo {
        self.flows[id as usize].connection.info()
    }

    /// Probes a silent peer, or gives up on it, if it is time.
    pub(super) fn keep_alive(&mut self, id: u32) {
        let flow = &mut self.flows[id as usize];
        let due = flow.next_probe().is_some_and(|at| at <= self.now);
        let Some(extras) = flow.extras.as_mut().filter(|_| due) else {
            return;
        };
        let count = extras.options.keep_alive.map_or(0, |keep_alive| keep_alive.count);
        let silence = extras.heard.map_or(Duration::ZERO, |heard| self.now - heard);
        // A user time-out takes the place of the count, as on Linux.
        let over = match extras.options.user_timeout {
            Some(limit) => extras.probes > 0 && silence >= limit,
            None => extras.probes >= count,
        };
        if over {
            return self.give_up(id, io::ErrorKind::TimedOut);
        }
        extras.probes += 1;
        flow.connection.probe();
        self.mark_dirty(id);
    }
}

impl<C: Connection> Flow<C> {
    /// Options other than the default are remembered.
    pub(super) fn extras_of(options: &TcpOptions) -> Option<Box<Extras>> {
        (*options != TcpOptions::default())
            .then(|| Box::new(Extras { options: options.clone(), ..Extras::default() }))
    }

    /// Something came from the peer.
    pub(super) fn hear(&mut self, now: Instant) {
        if let Some(extras) = &mut self.extras {
            (extras.heard, extras.probes) = (Some(now), 0);
        }
    }

    /// Begins to count the peer's silence, if that has not begun.
    pub(super) fn listen_for_silence(&mut self, now: Instant) {
        if let Some(extras) = &mut self.extras {
            extras.heard.get_or_insert(now);
        }
    }

    /// When the peer is to be probed; data in flight asks as well, and has a time-out of its own.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        let extras = self.extras.as_ref()?;
        let keep_alive = extras.options.keep_alive?;
        let asks = matches!(self.connection.state(), State::Open | State::FinWait2)
            && self.connection.send_queue() == 0;
        let silence = keep_alive.idle + keep_alive.interval.saturating_mul(extras.probes);
        extras.heard.filter(|_| asks).map(|heard| heard + silence)
    }

    /// True if a blind segment may be answered now: each flow has a limit of its own, so that
    /// nobody learns of one flow from the answers to another (CVE-2016-5696).
    pub(super) fn may_challenge(&mut self, now: Instant) -> bool {
        const INTERVAL: Duration = Duration::from_millis(500);
        let challenged = &mut self.extras.get_or_insert_default().challenged;
        let quiet = challenged.is_none_or(|last| now - last >= INTERVAL);
        if quiet {
            *challenged = Some(now);
        }
        quiet
    }
}
