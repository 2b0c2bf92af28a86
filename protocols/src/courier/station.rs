//! [`Courier`]: what the application calls.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};

use siphasher::sip::SipHasher13;
use slab::Slab;
use underpass_devices::Instant;

use super::config::Config;
use super::counters::Counters;
use super::events::{Call, Event, Failure, Refused, RequestId, SendError, Unanswered};
use super::inbox::first_cells;
use super::memory::{Budget, Pool, cells};
use super::session::{Role, Session, State};
use super::timers::Timers;
use super::wire::Kind;

/// Lower bits of an identifier: where the session is. The others are random.
pub(super) const INDEX_BITS: u32 = 24;

/// A station of the protocol: its sessions with other stations, in both roles. `A` is the address
/// of a station, whatever the packets travel in: a MAC address, an IP address, an address and a port.
///
/// It does no I/O. Packets that arrive are given to [`on_packet`](Self::on_packet), packets to be sent
/// are taken by [`poll_transmit`](Self::poll_transmit), and [`on_timer`](Self::on_timer) is called when
/// [`next_timer`](Self::next_timer) says so. All times must come from the same clock.
///
/// ```
/// use underpass_devices::Instant;
/// use underpass_protocols::courier::{Config, Courier, Event};
///
/// let now = Instant::ZERO;
/// let mut client = Courier::new(Config::default(), [1; 16]);
/// let mut server = Courier::new(Config::default(), [2; 16]);
/// let asked = client.send_request(now, "server", b"ping".to_vec())?;
/// let answer = loop {
///     client.on_timer(now);
///     client.poll_transmit(now, 64, |packet| {
///         let mut slot = vec![0; packet.len()];
///         packet.write(&mut slot);
///         server.on_packet(now, "client", &slot);
///         true
///     });
///     while let Some(event) = server.poll_event() {
///         if let Event::Request { call, body, .. } = event {
///             server.respond(now, call, body)?;
///         }
///     }
///     server.poll_transmit(now, 64, |packet| {
///         let mut slot = vec![0; packet.len()];
///         packet.write(&mut slot);
///         client.on_packet(now, "server", &slot);
///         true
///     });
///     if let Some(event) = client.poll_event() {
///         break event;
///     }
/// };
/// assert_eq!(answer, Event::Response { id: asked, body: b"ping".to_vec() });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Courier<A> {
    pub(super) config: Config,
    pub(super) sessions: Slab<Session<A>>,
    pub(super) callers: HashMap<A, u32, Keyed>,
    pub(super) servers: HashMap<A, u32, Keyed>,
    /// Sessions that strangers have asked for, the oldest first.
    pub(super) strangers: VecDeque<u32>,
    /// Sessions that may have something to send.
    pub(super) ready: VecDeque<u32>,
    pub(super) timers: Timers,
    /// Packets that belong to no session.
    pub(super) refusals: VecDeque<Refusal<A>>,
    pub(super) pool: Pool,
    pub(super) receiving: Budget,
    pub(super) sending: Budget,
    pub(super) counters: Counters,
    pub(super) clock: Instant,
    pub(super) events: VecDeque<Queued<A>>,
    /// Calls and ends of sessions whose event has not been taken yet.
    pub(super) untold_calls: usize,
    pub(super) untold_ends: usize,
    ids: Keyed,
    next_id: u64,
    next_request: u64,
    /// The peer asked last, and its session.
    recent: Option<(A, u32)>,
}

/// An event, and what it holds of the receive budget.
#[derive(Debug)]
pub(super) struct Queued<A> {
    pub(super) session: u64,
    pub(super) cells: u32,
    pub(super) event: Event<A>,
}

/// A packet that belongs to no session.
#[derive(Debug)]
pub(super) struct Refusal<A> {
    pub(super) to: A,
    pub(super) kind: Kind,
    pub(super) session: u64,
    pub(super) why: u32,
}

/// A keyed hash: who chooses addresses must not choose where they fall, nor guess identifiers.
#[derive(Clone, Debug)]
pub(super) struct Keyed([u8; 16]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

impl<A: Copy + Eq + Hash> Courier<A> {
    /// A station without sessions. `secret` is 16 random bytes, new in each life of the station:
    /// session identifiers come from it, and are all that keeps out packets of an earlier life.
    pub fn new(config: Config, secret: [u8; 16]) -> Self {
        let config = config.sane();
        let ids = Keyed(secret);
        // Identifiers are told to peers, so tables have a key of their own.
        let halves = [u64::MAX, u64::MAX - 1].map(|n| u128::from(ids.hash_one(n)));
        let keyed = Keyed((halves[0] << 64 | halves[1]).to_le_bytes());
        Self {
            sessions: Slab::new(),
            callers: HashMap::with_hasher(keyed.clone()),
            servers: HashMap::with_hasher(keyed),
            strangers: VecDeque::new(),
            ready: VecDeque::new(),
            timers: Timers::default(),
            refusals: VecDeque::new(),
            pool: Pool::new(config.limits.pool_bytes),
            receiving: Budget::new(config.limits.receive_bytes),
            sending: Budget::new(config.limits.send_bytes),
            counters: Counters::default(),
            clock: Instant::ZERO,
            events: VecDeque::new(),
            untold_calls: 0,
            untold_ends: 0,
            ids,
            next_id: 0,
            next_request: 0,
            recent: None,
            config,
        }
    }

    /// Asks `to`, and begins a session if there is none. The answer is an
    /// [`Event::Response`] or an [`Event::Failed`], one of them and once.
    ///
    /// # Errors
    /// Nothing was sent; the body comes back.
    pub fn send_request(
        &mut self,
        now: Instant,
        to: A,
        body: Vec<u8>,
    ) -> Result<RequestId, Refused> {
        let index = match self.admit(now, to, &body, true) {
            Ok(index) => index,
            Err(why) => return Err(self.refused(why, body)),
        };
        let id = RequestId(self.next_request);
        let begun = self.sessions.get_mut(index as usize).and_then(|session| {
            session.begin(now);
            session.calls.begin(id)
        });
        let Some((slot, number)) = begun else {
            return Err(self.refused(SendError::Full, body));
        };
        self.next_request += 1;
        self.untold_calls += 1;
        self.push(now, index, (Kind::Request, slot, number), body);
        Ok(id)
    }

    /// Sends a message without response to `to`, and begins a session if there is none. Messages
    /// arrive in order, or an [`Event::Ended`] tells how many may not have.
    ///
    /// # Errors
    /// Nothing was sent; the body comes back.
    pub fn send(&mut self, now: Instant, to: A, body: Vec<u8>) -> Result<(), Refused> {
        let index = match self.admit(now, to, &body, false) {
            Ok(index) => index,
            Err(why) => return Err(self.refused(why, body)),
        };
        let Some(session) = self.sessions.get_mut(index as usize) else {
            return Err(self.refused(SendError::Full, body));
        };
        session.begin(now);
        let number = session.next_message();
        self.push(now, index, (Kind::Message, 0, number), body);
        Ok(())
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Nothing was sent; call and body come back.
    pub fn respond(&mut self, now: Instant, call: Call, body: Vec<u8>) -> Result<(), Unanswered> {
        let index = index(call.session);
        let why = match self.sessions.get_mut(index as usize) {
            Some(session) if session.local == call.session => {
                if !session.inbox.serving().is_running(call.slot, call.number) {
                    Some(SendError::Gone)
                } else if body.len() > session.peer_message_bytes {
                    Some(SendError::TooLong { limit: session.peer_message_bytes })
                } else {
                    session.begin(now);
                    None
                }
            }
            _ => Some(SendError::Gone),
        };
        if let Some(why) = why.or_else(|| self.charge(index, &body).err()) {
            let Refused { why, body } = self.refused(why, body);
            return Err(Unanswered { why, call, body });
        }
        if let Some(session) = self.sessions.get_mut(index as usize) {
            session.inbox.serving().answered(call.slot);
        }
        self.push(now, index, (Kind::Response, call.slot, call.number), body);
        Ok(())
    }

    /// What has happened next. Peers can send more as their bodies are taken here.
    pub fn poll_event(&mut self) -> Option<Event<A>> {
        let Queued { session, cells, event } = self.events.pop_front()?;
        match &event {
            Event::Response { .. } | Event::Failed { .. } => self.untold_calls -= 1,
            Event::Ended { .. } => self.untold_ends -= 1,
            Event::Request { .. } | Event::Message { .. } => {}
        }
        if cells > 0 {
            self.counters.received_bodies += 1;
            let index = index(session);
            match self.sessions.get_mut(index as usize).filter(|found| found.local == session) {
                Some(found) => {
                    found.inbox.read(cells, &mut self.receiving);
                    found.owe_credit(self.clock, &self.config);
                    self.timers.not_later(index, found.deadline(&self.config));
                }
                None => self.receiving.give(cells),
            }
        }
        Some(event)
    }

    /// Whether [`poll_event`](Self::poll_event) has something to tell.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Dates what was queued since the last call with a time at `now`: whoever queued it did not know the
    /// time, and gave the last one known.
    pub(super) fn redate(&mut self, now: Instant) {
        let stale = self.clock;
        for index in &self.ready {
            if let Some(session) = self.sessions.get_mut(*index as usize) {
                session.redate(stale, now, &self.config);
            }
        }
        self.clock = now.max(stale);
    }

    /// An empty buffer with room for `len` bytes, to be sent.
    pub fn buffer(&mut self, len: usize) -> Vec<u8> {
        self.pool.take(len.min(self.config.limits.message_bytes))
    }

    /// Takes back the body of an event, so that the next one needs no allocation.
    pub fn recycle(&mut self, body: Vec<u8>) {
        self.pool.give(body);
    }

    /// Ends the session begun with `peer` once all that was sent has arrived and been answered. If that
    /// goes well, nothing more is told about it.
    pub fn close(&mut self, peer: A) {
        if let Some(&index) = self.callers.get(&peer) {
            if let Some(session) = self.sessions.get_mut(index as usize) {
                session.closing = true;
            }
            self.close_if_done(index);
        }
    }

    /// Ends the sessions with `peer` in both roles, at once.
    pub fn abort(&mut self, peer: A) {
        let both = [self.callers.get(&peer).copied(), self.servers.get(&peer).copied()];
        for index in both.into_iter().flatten() {
            self.say_farewell(index, Farewell::Closed);
            self.end(index, Some(Failure::Aborted));
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sessions, in both roles, those included that are only asked for.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Bytes that are promised to peers or hold their bodies, at most
    /// [`Limits::receive_bytes`](super::Limits::receive_bytes).
    pub fn receive_bytes(&self) -> usize {
        self.receiving.used()
    }

    /// Bytes that wait to be sent or acknowledged, at most
    /// [`Limits::send_bytes`](super::Limits::send_bytes).
    pub fn send_bytes(&self) -> usize {
        self.sending.used()
    }

    /// Bytes of buffers kept for reuse.
    pub fn pool_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// The mean round-trip time to a peer, in nanoseconds, once known.
    pub fn round_trip(&self, peer: A) -> Option<u64> {
        let index = self.callers.get(&peer).or_else(|| self.servers.get(&peer))?;
        self.sessions.get(*index as usize)?.outbox.rtt.mean()
    }

    /// The session with this peer in which we call, and room in it for one more body.
    fn admit(&mut self, now: Instant, to: A, body: &Vec<u8>, call: bool) -> Result<u32, SendError> {
        let limit = self.config.limits.message_bytes;
        if body.len() > limit {
            return Err(SendError::TooLong { limit });
        }
        if call && self.untold_calls >= self.config.limits.calls {
            return Err(SendError::Full);
        }
        let known = match self.recent {
            Some((peer, index)) if peer == to => Some(index),
            _ => self.callers.get(&to).copied(),
        };
        let index = match known {
            Some(index) => index,
            None => self.dial(now, to)?,
        };
        self.recent = Some((to, index));
        let session = self.sessions.get(index as usize).ok_or(SendError::Full)?;
        if session.closing {
            return Err(SendError::Closing);
        }
        if body.len() > session.peer_message_bytes {
            return Err(SendError::TooLong { limit: session.peer_message_bytes });
        }
        if call && !session.calls.has_room() {
            return Err(SendError::Full);
        }
        self.charge(index, body)?;
        Ok(index)
    }

    fn charge(&mut self, index: u32, body: &Vec<u8>) -> Result<(), SendError> {
        let limit = self.config.limits.session_send_bytes / super::memory::CELL;
        let cells = cells(body.capacity());
        let session = self.sessions.get(index as usize).ok_or(SendError::Full)?;
        let fits = session.outbox.is_empty() || (session.outbox.cells() + cells) as usize <= limit;
        if fits && self.sending.take(cells) { Ok(()) } else { Err(SendError::Full) }
    }

    fn refused(&mut self, why: SendError, body: Vec<u8>) -> Refused {
        self.counters.full += u64::from(why == SendError::Full);
        Refused { why, body }
    }

    /// Queues a body that has been charged.
    fn push(&mut self, now: Instant, index: u32, name: (Kind, u16, u32), body: Vec<u8>) {
        self.clock = self.clock.max(now);
        self.counters.sent_bodies += 1;
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let cells = cells(body.capacity());
        session.outbox.push(now, name, body, cells, &self.config);
        self.schedule(index);
    }

    fn dial(&mut self, now: Instant, to: A) -> Result<u32, SendError> {
        let limit = self.config.limits.sessions;
        if self.sessions.len() >= limit || self.untold_ends >= limit {
            return Err(SendError::TooManySessions);
        }
        let index = self.begin(now, to, Role::Caller).ok_or(SendError::Full)?;
        self.callers.insert(to, index);
        Ok(index)
    }

    /// A new session, if there is memory for one.
    pub(super) fn begin(&mut self, now: Instant, peer: A, role: Role) -> Option<u32> {
        if !self.receiving.take(first_cells(self.config.limits.message_bytes)) {
            return None;
        }
        let entry = self.sessions.vacant_entry();
        let index = entry.key() as u32;
        // Never zero: a hello carries that.
        let random = self.ids.hash_one(self.next_id) | 1;
        self.next_id += 1;
        let local = random << INDEX_BITS | u64::from(index);
        entry.insert(Session::new(now, peer, local, role, &self.config));
        self.schedule(index);
        Some(index)
    }

    /// Sees to it that the session is asked what it has to send, and woken when something is due.
    pub(super) fn schedule(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        if !session.ready && session.is_eager() {
            session.ready = true;
            self.ready.push_back(index);
        }
        self.timers.not_later(index, session.deadline(&self.config));
    }

    pub(super) fn close_if_done(&mut self, index: u32) {
        let Some(session) = self.sessions.get(index as usize) else { return };
        if session.closing && !session.is_outstanding() {
            self.say_farewell(index, Farewell::Closed);
            self.end(index, None);
        }
    }

    pub(super) fn say_farewell(&mut self, index: u32, why: Farewell) {
        let Some(session) = self.sessions.get(index as usize) else { return };
        if session.remote != 0 {
            let (to, session) = (session.peer, session.remote);
            self.refuse(Refusal { to, kind: Kind::Close, session, why: why as u32 });
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal<A>) {
        if self.refusals.len() < self.config.limits.refusals {
            self.refusals.push_back(refusal);
        } else {
            self.counters.unrefused += 1;
        }
    }

    /// Ends a session. With a reason, the application is told; without, it has asked for it or loses
    /// nothing.
    pub(super) fn end(&mut self, index: u32, why: Option<Failure>) {
        let Some(session) = self.sessions.try_remove(index as usize) else { return };
        self.timers.remove(index);
        self.recent = None;
        if session.ready {
            self.ready.retain(|other| *other != index);
        }
        if session.state == State::Offered {
            self.strangers.retain(|other| *other != index);
        }
        let named = match session.role {
            Role::Caller => &mut self.callers,
            Role::Server => &mut self.servers,
        };
        if named.get(&session.peer) == Some(&index) {
            named.remove(&session.peer);
        }
        self.receiving.give(session.inbox.unqueued());
        self.sending.give(session.outbox.cells());
        let Some(why) = why else { return };
        self.counters.failed += 1;
        self.tell_end(&session, why);
    }

    fn tell_end(&mut self, session: &Session<A>, why: Failure) {
        for (slot, id) in session.calls.awaiting() {
            let may_have_run = !session.outbox.unbegun_calls().any(|unbegun| unbegun == slot);
            let event = Event::Failed { id, why, may_have_run };
            self.events.push_back(Queued { session: session.local, cells: 0, event });
        }
        if session.role == Role::Caller {
            let (messages, bytes) = session.outbox.messages();
            let event = Event::Ended { peer: session.peer, why, messages, bytes };
            self.untold_ends += 1;
            self.events.push_back(Queued { session: session.local, cells: 0, event });
        }
    }
}

/// Why a session is closed or refused, as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Farewell {
    Closed = 0,
    Busy = 1,
    Violation = 2,
}

/// Where the session of this identifier is, if it is.
pub(super) fn index(session: u64) -> u32 {
    (session & ((1 << INDEX_BITS) - 1)) as u32
}
