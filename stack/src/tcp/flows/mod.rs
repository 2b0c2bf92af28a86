mod blind;
mod calls;
mod ingress;
mod options;

use std::collections::VecDeque;
use std::io;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use underpass_devices::{Instant, Steering};

pub(crate) use self::calls::FlowRoute;
use self::options::Extras;
use super::engine::{Connection, Emitted, Engine, State};
use super::listener::Listeners;
use super::options::TcpOptions;
use super::table::{FlowTable, HashKey};
use crate::config::Limits;
use crate::isn::IsnGenerator;
use crate::output::Output;
use crate::packet::Tuple;
use crate::ports::PortAllocator;
use crate::stats::Stats;
use crate::time_wait::TimeWaitTable;
use crate::timer::TimerWheel;
use crate::wake::Waiters;

/// Frames one flow may hand to its device before the next flow has its turn; the last superframe may
/// go beyond. More would leave the cache before anybody reads it, where the device does not cut.
const EMIT_BUDGET: usize = 16;
const TIMER_GRANULARITY: Duration = Duration::from_millis(1);
/// Timers due this soon are queued, not filed in the wheel.
const SOON: Duration = Duration::from_millis(2);

/// All TCP of one shard: flow table, listeners, timers, and the flows that have something to emit.
pub(crate) struct Tcp<E: Engine> {
    engine: E,
    flows: Slab<Flow<E::Connection>>,
    table: FlowTable,
    pub(crate) listeners: Listeners,
    time_wait: TimeWaitTable,
    timers: TimerWheel,
    /// Flows with a timer that is due [`SOON`], in order of time. Most of them wait for a delayed
    /// acknowledgement: a queue spares each the way into the wheel and back.
    soon: VecDeque<(Instant, u32)>,
    dirty: VecDeque<u32>,
    /// Flows whose timer has just fired; kept for its memory.
    due: Vec<u32>,
    /// The flow of the last segment: the next one is often of the same.
    recent: u32,
    half_open: usize,
    isn: IsnGenerator,
    ports: PortAllocator,
    limits: Limits,
    now: Instant,
    counters: Counters,
    /// Who owns a flow, and which shard this is, if there are several.
    home: Option<(Steering, usize)>,
}

/// What has happened since the shard was made.
#[derive(Default)]
struct Counters {
    active_opens: u64,
    passive_opens: u64,
    failures: u64,
}

/// One connection and what the shard knows of it.
pub(crate) struct Flow<C> {
    pub(crate) connection: C,
    role: Role,
    /// Reachable through the flow table.
    listed: bool,
    dirty: bool,
    /// In the queue of timers that are due soon.
    soon: bool,
    /// Why the connection ended, if not by both sides' FIN.
    error: Option<io::ErrorKind>,
    /// How long the shard waits before it gives up: for the handshake, or for the FIN an orphan's
    /// peer owes. The time begins when the flow next emits, because sockets have no clock.
    patience: Option<Duration>,
    deadline: Option<Instant>,
    extras: Option<Box<Extras>>,
    pub(crate) readers: Waiters,
    pub(crate) writers: Waiters,
}

/// Who holds a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Half open, on its way into the accept queue of this listener.
    HalfOpen(u32),
    /// In an accept queue.
    Queued,
    /// A socket.
    Socket,
    /// Nobody: it finishes closing and goes.
    Orphan,
}

impl<E: Engine> Tcp<E> {
    pub(crate) fn new(
        engine: E,
        limits: Limits,
        key: HashKey,
        isn: IsnGenerator,
        ports: PortAllocator,
    ) -> Self {
        Self {
            engine,
            flows: Slab::new(),
            table: FlowTable::new(key),
            listeners: Listeners::default(),
            time_wait: TimeWaitTable::new(limits.time_wait, limits.time_wait_time, key.0),
            timers: TimerWheel::new(TIMER_GRANULARITY, Instant::ZERO),
            soon: VecDeque::new(),
            dirty: VecDeque::new(),
            due: Vec::new(),
            recent: 0,
            half_open: 0,
            isn,
            ports,
            limits,
            now: Instant::ZERO,
            counters: Counters::default(),
            home: None,
        }
    }

    /// Makes this the flows of one of several shards.
    pub(crate) fn share_ports(&mut self, steering: Steering, shard: usize) {
        self.home = Some((steering, shard));
    }

    /// Marks flows whose timers are due.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = now;
        self.time_wait.poll(now);
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(now, |id| due.push(id));
        while let Some((_, id)) = self.soon.front().copied().filter(|(at, _)| *at <= now) {
            self.soon.pop_front();
            // The flow may be gone meanwhile, or another one have its slot.
            if let Some(flow) = self.flows.get_mut(id as usize)
                && std::mem::take(&mut flow.soon)
            {
                due.push(id);
            }
        }
        for id in due.drain(..) {
            let flow = &mut self.flows[id as usize];
            let overdue = flow.deadline.is_some_and(|deadline| deadline <= now);
            if overdue {
                flow.deadline = None;
                self.give_up(id, io::ErrorKind::TimedOut);
            }
            self.keep_alive(id);
            self.mark_dirty(id);
        }
        self.due = due;
    }

    /// Lets dirty flows emit, once each. Those that are not done stay dirty.
    pub(crate) fn emit(&mut self, now: Instant, out: &mut impl Output, wakes: &mut Vec<Waker>) {
        self.now = now;
        for _ in 0..self.dirty.len() {
            let Some(id) = self.dirty.pop_front() else {
                break;
            };
            let flow = &mut self.flows[id as usize];
            flow.dirty = false;
            let before = flow.connection.state();
            let emitted = self.engine.emit(now, &mut flow.connection, EMIT_BUDGET, out);
            // The one thing that ends a connection while it emits is its own timer.
            if !before.has_ended()
                && before != State::TimeWait
                && flow.connection.state().has_ended()
            {
                flow.fail(io::ErrorKind::TimedOut);
                self.counters.failures += 1;
            }
            let timer = match emitted {
                Emitted::Until(timer) => timer,
                Emitted::More => {
                    self.mark_dirty(id);
                    None
                }
            };
            self.settle(id, timer, wakes);
        }
    }

    /// When `advance` has something to do, if nothing else happens.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let soon = self.soon.front().map(|(at, _)| *at);
        [soon, self.timers.next(), self.time_wait.next_timer()].into_iter().flatten().min()
    }

    /// Puts this module's numbers into `stats`.
    pub(crate) fn report(&self, stats: &mut Stats) {
        stats.tcp_active_opens = self.counters.active_opens;
        stats.tcp_passive_opens = self.counters.passive_opens;
        stats.tcp_failures = self.counters.failures;
        stats.tcp_flows = self.flows.len();
        stats.tcp_half_open = self.half_open;
        stats.tcp_time_wait = self.time_wait.len();
        stats.tcp_time_wait_evicted = self.time_wait.evicted();
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Draws the consequences of whatever has just happened to a flow: state changes, wake-ups, the
    /// next timer, the end.
    fn settle(&mut self, id: u32, timer: Option<Instant>, wakes: &mut Vec<Waker>) {
        let flow = &mut self.flows[id as usize];
        let state = flow.connection.state();
        if let Some(patience) = flow.patience.take() {
            flow.deadline = Some(self.now + patience);
        }
        flow.listen_for_silence(self.now);
        if let Role::HalfOpen(listener) = flow.role {
            self.leave_handshake(id, listener, wakes);
        }
        let flow = &mut self.flows[id as usize];
        if state == State::Open && flow.deadline.take().is_some() {
            self.counters.active_opens += 1;
        }
        if state == State::FinWait2 && flow.role == Role::Orphan && flow.deadline.is_none() {
            flow.deadline = Some(self.now + self.limits.fin_wait_time);
        }
        if flow.connection.recv_queue() > 0 || flow.connection.recv_finished() {
            flow.readers.wake(wakes);
        }
        if flow.connection.can_send()
            || !matches!(state, State::SynSent | State::SynReceived | State::Open)
        {
            flow.writers.wake(wakes);
        }
        let silent = state == State::Closed || (state == State::TimeWait && !flow.dirty);
        if silent && flow.listed {
            flow.listed = false;
            self.table.remove(flow.connection.tuple(), id);
            if state == State::TimeWait {
                let sent = flow.connection.sequence();
                let tuple = flow.connection.tuple();
                self.time_wait.insert(self.now, tuple, sent.snd_nxt, sent.rcv_nxt);
            }
        }
        if silent {
            self.timers.cancel(id);
            if flow.role == Role::Orphan && !flow.dirty {
                self.remove(id);
            }
        } else {
            self.schedule(id, timer);
        }
    }

    /// Queues a half-open flow for `accept` once its handshake is done, or lets go of it if it failed.
    fn leave_handshake(&mut self, id: u32, listener: u32, wakes: &mut Vec<Waker>) {
        let flow = &mut self.flows[id as usize];
        let state = flow.connection.state();
        if state == State::SynReceived {
            return;
        }
        self.half_open -= 1;
        flow.patience = None;
        flow.deadline = None;
        match self.listeners.get_mut(listener).filter(|_| !state.has_ended()) {
            Some(listener) => {
                flow.role = Role::Queued;
                listener.accept_queue.push_back(id);
                listener.waiters.wake(wakes);
                self.counters.passive_opens += 1;
            }
            None => {
                flow.role = Role::Orphan;
                flow.connection.abort();
                self.mark_dirty(id);
            }
        }
    }

    /// Arms the timer of a flow that is not dirty for `timer`, or its deadline.
    fn schedule(&mut self, id: u32, timer: Option<Instant>) {
        let flow = &mut self.flows[id as usize];
        if flow.dirty {
            return;
        }
        match [timer, flow.deadline, flow.next_probe()].into_iter().flatten().min() {
            Some(at) if at <= self.now => self.mark_dirty(id),
            // Already queued: whatever else is due is asked for when that fires.
            Some(_) if flow.soon => {}
            Some(at)
                if at <= self.now + SOON
                    && self.soon.back().is_none_or(|(last, _)| *last <= at) =>
            {
                flow.soon = true;
                self.soon.push_back((at, id));
            }
            Some(at) => self.timers.schedule(id, at),
            None => self.timers.cancel(id),
        }
    }

    fn insert(
        &mut self,
        connection: E::Connection,
        tuple: Tuple,
        role: Role,
        patience: Duration,
        options: &TcpOptions,
    ) -> u32 {
        let id = self.flows.insert(Flow {
            connection,
            role,
            listed: true,
            dirty: false,
            soon: false,
            error: None,
            patience: Some(patience),
            deadline: None,
            extras: Flow::<E::Connection>::extras_of(options),
            readers: Waiters::default(),
            writers: Waiters::default(),
        }) as u32;
        self.table.insert(&tuple, id);
        self.mark_dirty(id);
        id
    }

    /// The flow of a segment.
    fn find_recent(&mut self, tuple: &Tuple) -> Option<u32> {
        let recent = self.flows.get(self.recent as usize);
        if recent.is_some_and(|flow| flow.listed && flow.connection.tuple() == tuple) {
            return Some(self.recent);
        }
        let id = self.find(tuple)?;
        self.recent = id;
        Some(id)
    }

    fn find(&self, tuple: &Tuple) -> Option<u32> {
        self.table.get(tuple, |id| self.flows[id as usize].connection.tuple() == tuple)
    }

    fn remove(&mut self, id: u32) {
        let flow = self.flows.remove(id as usize);
        self.engine.recycle(flow.connection);
    }

    fn give_up(&mut self, id: u32, error: io::ErrorKind) {
        let flow = &mut self.flows[id as usize];
        flow.fail(error);
        flow.connection.abort();
        self.counters.failures += 1;
        self.mark_dirty(id);
    }

    fn mark_dirty(&mut self, id: u32) {
        let flow = &mut self.flows[id as usize];
        if !std::mem::replace(&mut flow.dirty, true) {
            self.dirty.push_back(id);
        }
    }
}

impl<C: Connection> Flow<C> {
    /// Why the connection ended, if not by both sides' FIN.
    pub(crate) fn error(&self) -> Option<io::Error> {
        self.error.map(io::Error::from)
    }

    /// The same, once: it is forgotten.
    pub(crate) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take().map(io::Error::from)
    }

    fn fail(&mut self, error: io::ErrorKind) {
        self.error.get_or_insert(error);
    }
}
