use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use underpass_devices::Instant;

use super::engine::{Connection, Emitted, Engine, State};
use super::listener::Listeners;
use super::reset;
use super::table::{FlowTable, HashKey};
use crate::config::Limits;
use crate::icmp::{IcmpError, IcmpErrorKind};
use crate::isn::IsnGenerator;
use crate::output::Output;
use crate::packet::{TcpSegment, Tuple};
use crate::ports::PortAllocator;
use crate::stats::{DropReason, Stats};
use crate::time_wait::{TimeWaitAction, TimeWaitTable};
use crate::timer::TimerWheel;
use crate::wake::Waiters;

/// Segments one flow may emit before the next flow has its turn.
const EMIT_BUDGET: usize = 16;
/// The most one segment can hold.
const MAX_SEGMENT: u32 = 65_535;
const TIMER_GRANULARITY: Duration = Duration::from_millis(1);

/// All TCP of one shard: flow table, listeners, timers, and the flows that have something to emit.
pub(crate) struct Tcp<E: Engine> {
    engine: E,
    flows: Slab<Flow<E::Connection>>,
    table: FlowTable,
    pub(crate) listeners: Listeners,
    time_wait: TimeWaitTable,
    timers: TimerWheel,
    dirty: VecDeque<u32>,
    /// Flows whose timer has just fired; kept for its memory.
    due: Vec<u32>,
    half_open: usize,
    isn: IsnGenerator,
    ports: PortAllocator,
    limits: Limits,
    now: Instant,
    counters: Counters,
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
    pub(crate) tuple: Tuple,
    role: Role,
    /// Reachable through the flow table.
    listed: bool,
    dirty: bool,
    /// Why the connection ended, if not by both sides' FIN.
    error: Option<io::ErrorKind>,
    /// How long the shard waits before it gives up: for the handshake, or for the FIN an orphan's
    /// peer owes. The time begins when the flow next emits, because sockets have no clock.
    patience: Option<Duration>,
    deadline: Option<Instant>,
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
            dirty: VecDeque::new(),
            due: Vec::new(),
            half_open: 0,
            isn,
            ports,
            limits,
            now: Instant::ZERO,
            counters: Counters::default(),
        }
    }

    // ---- from the network ----

    /// A checked segment to an address of ours.
    pub(crate) fn on_segment(
        &mut self,
        now: Instant,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        self.now = now;
        match self.table.get(&segment.tuple) {
            Some(id) => self.on_flow_segment(id, segment, out, wakes),
            None => self.on_unknown_segment(segment, out),
        }
    }

    fn on_flow_segment(
        &mut self,
        id: u32,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        let flow = &mut self.flows[id as usize];
        // A full accept queue leaves the peer in the handshake, as Linux does: its acknowledgement
        // is not taken, the SYN-ACK is repeated.
        if let Role::HalfOpen(listener) = flow.role
            && !segment.flags.rst()
            && self
                .listeners
                .get_mut(listener)
                .is_some_and(|l| l.is_full())
        {
            return Err(DropReason::AcceptQueueFull);
        }
        let before = flow.connection.state();
        self.engine
            .on_segment(self.now, &mut flow.connection, segment, out);
        if segment.flags.rst() && flow.connection.state() == State::Closed {
            let refused = before == State::SynSent;
            flow.fail(if refused {
                io::ErrorKind::ConnectionRefused
            } else {
                io::ErrorKind::ConnectionReset
            });
            self.counters.failures += 1;
        }
        if let Role::HalfOpen(listener) = flow.role {
            self.leave_handshake(id, listener, wakes);
        }
        self.mark_dirty(id);
        Ok(())
    }

    fn on_unknown_segment(
        &mut self,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let flags = segment.flags;
        let previous = match self.time_wait.on_segment(self.now, segment) {
            Some(TimeWaitAction::Ack { seq, ack }) => {
                reset::acknowledge(segment, seq, ack, out);
                return Ok(());
            }
            Some(TimeWaitAction::Ignore) => return Ok(()),
            Some(TimeWaitAction::Reopen { snd_nxt }) => Some(snd_nxt),
            None => None,
        };
        let is_syn = flags.syn() && !flags.ack() && !flags.rst() && !flags.fin();
        let listener = is_syn
            .then(|| self.listeners.find(segment.tuple.local))
            .flatten();
        if let Some(listener) = listener {
            return self.on_syn(listener, segment, previous);
        }
        reset::reset(segment, out);
        Err(if is_syn {
            DropReason::TcpClosedPort
        } else {
            DropReason::TcpNoFlow
        })
    }

    fn on_syn(
        &mut self,
        listener: u32,
        syn: &TcpSegment<'_>,
        previous: Option<u32>,
    ) -> Result<(), DropReason> {
        if self.listeners.get_mut(listener).is_none_or(|l| l.is_full()) {
            return Err(DropReason::AcceptQueueFull);
        }
        if self.half_open >= self.limits.half_open {
            return Err(DropReason::HalfOpenFull);
        }
        if self.flows.len() >= self.limits.flows {
            return Err(DropReason::FlowsFull);
        }
        let mut isn = self.isn.isn(self.now, syn.tuple.local, syn.tuple.remote);
        // A new incarnation begins beyond what the old one may have sent (RFC 6191).
        if let Some(snd_nxt) = previous
            && isn.wrapping_sub(snd_nxt) as i32 <= 0
        {
            isn = snd_nxt.wrapping_add(MAX_SEGMENT);
        }
        let connection = self.engine.on_syn(self.now, syn, isn);
        if connection.state() == State::Closed {
            self.engine.recycle(connection);
            return Err(DropReason::MalformedTcp);
        }
        self.half_open += 1;
        let patience = self.limits.half_open_time;
        self.insert(connection, syn.tuple, Role::HalfOpen(listener), patience);
        Ok(())
    }

    /// An ICMP error that quotes a segment of ours. Only a connection attempt is ended by one, and
    /// only if the quoted sequence number is that of its SYN (RFC 5927 §4, §5.2).
    pub(crate) fn on_icmp_error(
        &mut self,
        tuple: &Tuple,
        error: &IcmpError,
    ) -> Result<(), DropReason> {
        let id = self.table.get(tuple).ok_or(DropReason::IcmpNoFlow)?;
        let flow = &mut self.flows[id as usize];
        let syn = flow.connection.sequence().snd_nxt.wrapping_sub(1);
        if flow.connection.state() != State::SynSent || error.quoted.tcp_seq != Some(syn) {
            return Err(DropReason::IcmpIgnored);
        }
        let kind = match error.kind {
            IcmpErrorKind::PortUnreachable | IcmpErrorKind::ProtocolUnreachable => {
                io::ErrorKind::ConnectionRefused
            }
            IcmpErrorKind::NetUnreachable => io::ErrorKind::NetworkUnreachable,
            IcmpErrorKind::HostUnreachable | IcmpErrorKind::AdminProhibited => {
                io::ErrorKind::HostUnreachable
            }
            _ => return Err(DropReason::IcmpIgnored),
        };
        self.give_up(id, kind);
        Ok(())
    }

    /// The next hop of a packet of this flow does not answer.
    pub(crate) fn on_unreachable(&mut self, tuple: &Tuple) {
        if let Some(id) = self.table.get(tuple)
            && self.flows[id as usize].connection.state() == State::SynSent
        {
            self.give_up(id, io::ErrorKind::HostUnreachable);
        }
    }

    // ---- time and output ----

    /// Marks flows whose timers are due.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = now;
        self.time_wait.poll(now);
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(now, |id| due.push(id));
        for id in due.drain(..) {
            let flow = &mut self.flows[id as usize];
            let overdue = flow.deadline.is_some_and(|deadline| deadline <= now);
            if overdue {
                flow.deadline = None;
                self.give_up(id, io::ErrorKind::TimedOut);
            }
            self.mark_dirty(id);
        }
        self.due = due;
    }

    /// Lets dirty flows emit, once each, until the output is full. True: some are still dirty.
    pub(crate) fn emit(
        &mut self,
        now: Instant,
        out: &mut impl Output,
        wakes: &mut Vec<Waker>,
    ) -> bool {
        self.now = now;
        for _ in 0..self.dirty.len() {
            let Some(id) = self.dirty.pop_front() else {
                break;
            };
            let flow = &mut self.flows[id as usize];
            flow.dirty = false;
            let before = flow.connection.state();
            let emitted = self
                .engine
                .emit(now, &mut flow.connection, EMIT_BUDGET, out);
            // The one thing that ends a connection while it emits is its own timer.
            if !before.has_ended() && flow.connection.state().has_ended() {
                flow.fail(io::ErrorKind::TimedOut);
                self.counters.failures += 1;
            }
            if emitted == Emitted::More {
                self.mark_dirty(id);
            }
            self.settle(id, wakes);
        }
        !self.dirty.is_empty()
    }

    /// When `advance` has something to do, if nothing else happens.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        [self.timers.next(), self.time_wait.next_timer()]
            .into_iter()
            .flatten()
            .min()
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
    fn settle(&mut self, id: u32, wakes: &mut Vec<Waker>) {
        let flow = &mut self.flows[id as usize];
        let state = flow.connection.state();
        if let Some(patience) = flow.patience.take() {
            flow.deadline = Some(self.now + patience);
        }
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
            self.table.remove(&flow.tuple);
            if state == State::TimeWait {
                let sent = flow.connection.sequence();
                self.time_wait
                    .insert(self.now, &flow.tuple, sent.snd_nxt, sent.rcv_nxt);
            }
        }
        if silent {
            self.timers.cancel(id);
            if flow.role == Role::Orphan && !flow.dirty {
                self.remove(id);
            }
        } else {
            self.schedule(id);
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
        match self
            .listeners
            .get_mut(listener)
            .filter(|_| !state.has_ended())
        {
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

    fn schedule(&mut self, id: u32) {
        let flow = &self.flows[id as usize];
        if flow.dirty {
            return;
        }
        let timer = self.engine.next_timer(self.now, &flow.connection);
        match [timer, flow.deadline].into_iter().flatten().min() {
            Some(at) if at <= self.now => self.mark_dirty(id),
            Some(at) => self.timers.schedule(id, at),
            None => self.timers.cancel(id),
        }
    }

    // ---- from the sockets ----

    /// Opens a connection from `local`, whose port may be 0.
    pub(crate) fn connect(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<u32> {
        if self.flows.len() >= self.limits.flows {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("the limit of {} connections is reached", self.limits.flows),
            ));
        }
        let (table, time_wait, listeners) = (&self.table, &self.time_wait, &self.listeners);
        let in_use = |port: u16| {
            let tuple = Tuple {
                local: SocketAddr::new(local.ip(), port),
                remote,
            };
            listeners.is_port_used(port)
                || table.get(&tuple).is_some()
                || time_wait.contains(&tuple)
        };
        let port = match local.port() {
            0 => self.ports.pick(local.ip(), remote, in_use).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    format!("every ephemeral port towards {remote} is in use"),
                )
            })?,
            port if in_use(port) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("{local} is in use towards {remote}"),
                ));
            }
            port => port,
        };
        let tuple = Tuple {
            local: SocketAddr::new(local.ip(), port),
            remote,
        };
        let isn = self.isn.isn(self.now, tuple.local, tuple.remote);
        let connection = self.engine.connect(self.now, tuple, isn);
        Ok(self.insert(connection, tuple, Role::Socket, self.limits.connect_time))
    }

    /// The next established connection of a listener.
    pub(crate) fn accept(&mut self, listener: u32) -> Option<(u32, Tuple)> {
        let id = self.listeners.get_mut(listener)?.accept_queue.pop_front()?;
        let flow = &mut self.flows[id as usize];
        flow.role = Role::Socket;
        Some((id, flow.tuple))
    }

    /// Closes a listener; connections nobody accepted are reset.
    pub(crate) fn close_listener(&mut self, listener: u32) {
        for id in self.listeners.close(listener) {
            self.abort(id);
            self.release(id);
        }
        let half_open: Vec<u32> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.role == Role::HalfOpen(listener))
            .map(|(id, _)| id as u32)
            .collect();
        for id in half_open {
            self.abort(id);
        }
    }

    /// The flow of a socket. The id stays valid until the socket is released.
    pub(crate) fn flow(&mut self, id: u32) -> &mut Flow<E::Connection> {
        &mut self.flows[id as usize]
    }

    /// To be called after a socket has changed its connection.
    pub(crate) fn touched(&mut self, id: u32) {
        self.schedule(id);
    }

    pub(crate) fn abort(&mut self, id: u32) {
        self.flows[id as usize].connection.abort();
        self.mark_dirty(id);
    }

    /// The socket is gone. Unread data makes the end a reset (RFC 2525 §2.17), else a FIN.
    pub(crate) fn release(&mut self, id: u32) {
        let flow = &mut self.flows[id as usize];
        flow.role = Role::Orphan;
        if flow.connection.recv_queue() > 0 {
            flow.connection.abort();
        } else {
            flow.connection.shutdown();
        }
        self.mark_dirty(id);
    }

    /// No connection is left, not even one that is closing.
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Ends every connection and wakes everybody, because the device is gone.
    pub(crate) fn stop(&mut self, wakes: &mut Vec<Waker>) {
        for listener in self.listeners.iter_mut() {
            listener.waiters.wake(wakes);
        }
        for (_, flow) in &mut self.flows {
            flow.fail(io::ErrorKind::NetworkDown);
            flow.connection.abort();
            flow.readers.wake(wakes);
            flow.writers.wake(wakes);
        }
    }

    // ---- inside ----

    fn insert(
        &mut self,
        connection: E::Connection,
        tuple: Tuple,
        role: Role,
        patience: Duration,
    ) -> u32 {
        let id = self.flows.insert(Flow {
            connection,
            tuple,
            role,
            listed: true,
            dirty: false,
            error: None,
            patience: Some(patience),
            deadline: None,
            readers: Waiters::default(),
            writers: Waiters::default(),
        }) as u32;
        self.table.insert(tuple, id);
        self.mark_dirty(id);
        id
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

    fn fail(&mut self, error: io::ErrorKind) {
        self.error.get_or_insert(error);
    }
}
