//! Packets that arrive.

use std::hash::Hash;

use underpass_devices::Instant;

use super::config::{LEAST_CALLS, LEAST_PACKET};
use super::counters::DropReason;
use super::events::{Call, Event, Failure};
use super::inbox::{Verdict, Violation, Whole};
use super::session::{Role, State};
use super::station::{Courier, Farewell, Queued, Refusal, index};
use super::wire::{Header, Hello, Kind, MessageHeader, Tail, parse};

/// A round-trip time above it, in nanoseconds, is one of a clock that has wrapped.
const LONGEST_RTT: u32 = 1 << 31;

impl<A: Copy + Eq + Hash> Courier<A> {
    /// Takes a packet that has arrived from `from`. What it brings is told by
    /// [`poll_event`](Self::poll_event); a packet that is dropped is counted. Bytes behind the packet,
    /// such as the padding of an Ethernet frame, do no harm.
    pub fn on_packet(&mut self, now: Instant, from: A, bytes: &[u8]) {
        self.clock = self.clock.max(now);
        self.counters.received_packets += 1;
        let dropped = match parse(bytes) {
            Ok((header, kind, tail)) => self.dispatch(now, from, header, kind, tail),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = dropped {
            self.counters.drop(reason);
        }
    }

    fn dispatch(
        &mut self,
        now: Instant,
        from: A,
        header: &Header,
        kind: Kind,
        tail: Tail<'_>,
    ) -> Result<(), DropReason> {
        match (kind, tail) {
            (Kind::Hello, Tail::Hello(hello)) => return self.on_hello(now, from, header, &hello),
            (Kind::Reset, _) => return self.on_reset(from, header),
            _ => {}
        }
        let id = header.session.get();
        let index = index(id);
        let known = self.sessions.get_mut(index as usize);
        let Some(session) = known.filter(|known| known.local == id && known.peer == from) else {
            // An answer to a bare acknowledgement would be answered in turn, and is of no use.
            if !matches!(kind, Kind::Ack | Kind::Close | Kind::Welcome) {
                self.refuse(Refusal { to: from, kind: Kind::Reset, session: id, why: 0 });
            }
            return Err(DropReason::Stranger);
        };
        match (session.state, kind) {
            (State::Dialing { .. }, Kind::Welcome | Kind::Close) | (State::Open, _) => {}
            (State::Dialing { .. }, _) => return Err(DropReason::Unexpected),
            (State::Offered, _) => self.confirm(now, index),
        }
        match (kind, tail) {
            (Kind::Welcome, Tail::Hello(hello)) => self.on_welcome(now, index, header, &hello),
            (Kind::Close, _) => {
                self.on_close(index, header.seq.get());
                Ok(())
            }
            (_, Tail::Part(message, part)) => {
                self.on_header(now, index, header, kind);
                self.on_part(now, index, header, kind, (&message, part))
            }
            _ => {
                self.on_header(now, index, header, kind);
                self.settle(index);
                Ok(())
            }
        }
    }

    fn on_hello(
        &mut self,
        now: Instant,
        from: A,
        header: &Header,
        hello: &Hello,
    ) -> Result<(), DropReason> {
        let remote = hello.session.get();
        if !acceptable(hello) || remote == 0 {
            return Err(DropReason::Unexpected);
        }
        let is_same = |index: u32| {
            let session = self.sessions.get(index as usize);
            session.is_some_and(|known| known.peer == from && known.remote == remote)
        };
        if self.servers.get(&from).is_some_and(|index| is_same(*index)) {
            return Err(DropReason::Duplicate);
        }
        if let Some(index) = self.strangers.iter().copied().find(|index| is_same(*index)) {
            // Our welcome may have been lost.
            if let Some(session) = self.sessions.get_mut(index as usize) {
                session.control = Some(Kind::Welcome);
                session.heard(now, header);
            }
            self.schedule(index);
            return Ok(());
        }
        let limits = self.config.limits;
        if (self.strangers.len() >= limits.strangers || self.sessions.len() >= limits.sessions)
            && let Some(oldest) = self.strangers.front().copied()
        {
            self.counters.forgotten += 1;
            self.end(oldest, None);
        }
        let room = self.sessions.len() < limits.sessions;
        let Some(index) = room.then(|| self.begin(now, from, Role::Server)).flatten() else {
            let why = Farewell::Busy as u32;
            self.refuse(Refusal { to: from, kind: Kind::Close, session: remote, why });
            return Err(DropReason::NoRoom);
        };
        self.strangers.push_back(index);
        if let Some(session) = self.sessions.get_mut(index as usize) {
            session.open(now, hello, &self.config);
            session.outbox.credit(header.credit.get());
            session.heard(now, header);
        }
        Ok(())
    }

    /// The first packet of a session that was granted: only now is it known that the peer's address
    /// is its own, and an earlier session of its is over.
    fn confirm(&mut self, now: Instant, index: u32) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        session.state = State::Open;
        session.control = None;
        session.touch(now);
        let peer = session.peer;
        self.counters.opened += 1;
        self.strangers.retain(|other| *other != index);
        if let Some(old) = self.servers.insert(peer, index) {
            self.end(old, Some(Failure::Unknown));
        }
    }

    fn on_welcome(
        &mut self,
        now: Instant,
        index: u32,
        header: &Header,
        hello: &Hello,
    ) -> Result<(), DropReason> {
        let Some(session) = self.sessions.get_mut(index as usize) else { return Ok(()) };
        if session.state == State::Open || session.role == Role::Server {
            return Err(DropReason::Duplicate);
        }
        if !acceptable(hello) {
            return Err(DropReason::Unexpected);
        }
        session.state = State::Open;
        session.control = None;
        session.open(now, hello, &self.config);
        session.touch(now);
        // The peer keeps the session once it has heard of it again.
        session.owe(now, true, &self.config);
        let fits = session.outbox.longest() <= session.peer_message_bytes;
        self.counters.opened += 1;
        self.on_header(now, index, header, Kind::Welcome);
        if !fits {
            self.say_farewell(index, Farewell::Closed);
            self.end(index, Some(Failure::TooLong));
        }
        self.settle(index);
        Ok(())
    }

    fn on_reset(&mut self, from: A, header: &Header) -> Result<(), DropReason> {
        let id = header.session.get();
        let named = [self.callers.get(&from).copied(), self.servers.get(&from).copied()];
        let is_ours = |index: &u32| {
            let session = self.sessions.get(*index as usize);
            session.is_some_and(|session| session.remote == id && session.state == State::Open)
        };
        let Some(index) = named.into_iter().flatten().find(is_ours) else {
            return Err(DropReason::Stranger);
        };
        self.end(index, Some(Failure::Unknown));
        Ok(())
    }

    fn on_close(&mut self, index: u32, why: u32) {
        let why = match why {
            why if why == Farewell::Busy as u32 => Failure::Busy,
            why if why == Farewell::Violation as u32 => Failure::Violation,
            _ => Failure::Closed,
        };
        let session = self.sessions.get(index as usize);
        let is_done = session.is_some_and(|session| {
            session.role == Role::Server && !session.is_outstanding() && why == Failure::Closed
        });
        self.end(index, (!is_done).then_some(why));
    }

    /// What every packet of an open session says.
    fn on_header(&mut self, now: Instant, index: u32, header: &Header, kind: Kind) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        session.heard(now, header);
        let sample = (header.flags & Header::ECHO != 0)
            .then(|| (now.as_nanos() as u32).wrapping_sub(header.echo.get()))
            .filter(|rtt| *rtt < LONGEST_RTT);
        session.outbox.credit(header.credit.get());
        let told = (header.ack.get(), header.sack.get());
        let sample = sample.map(u64::from);
        let freed = session.outbox.acked(now, told, sample, &mut self.pool, &self.config);
        if freed > 0 {
            self.sending.give(freed);
        }
        if kind == Kind::Ping {
            session.owe(now, true, &self.config);
            session.touch(now);
        }
    }

    fn on_part(
        &mut self,
        now: Instant,
        index: u32,
        header: &Header,
        kind: Kind,
        (message, part): (&MessageHeader, &[u8]),
    ) -> Result<(), DropReason> {
        let Some(session) = self.sessions.get_mut(index as usize) else { return Ok(()) };
        let verdict = session.inbox.take(header.seq.get());
        if verdict != Verdict::New {
            session.owe(now, true, &self.config);
            self.schedule(index);
            return Err(match verdict {
                Verdict::Beyond => DropReason::Beyond,
                _ => DropReason::Duplicate,
            });
        }
        session.touch(now);
        let at_once = header.flags & Header::NOW != 0 || session.inbox.has_gap();
        session.owe(now, at_once, &self.config);
        // The caller asks, the other one answers.
        let fits = (session.role == Role::Caller) == (kind == Kind::Response);
        let whole = if fits {
            session.inbox.part(kind, message, part, &mut session.calls, &mut self.pool)
        } else {
            Err(Violation)
        };
        match whole {
            Ok(whole) => {
                if let Some(whole) = whole {
                    self.deliver(index, whole);
                }
                self.settle(index);
                Ok(())
            }
            Err(Violation) => {
                self.say_farewell(index, Farewell::Violation);
                self.end(index, Some(Failure::Violation));
                Err(DropReason::Violation)
            }
        }
    }

    fn deliver(&mut self, index: u32, whole: Whole) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let (from, local) = (session.peer, session.local);
        match whole {
            Whole::Request { slot, number, body } => {
                let cells = session.inbox.queue(&body);
                let call = Call { session: local, number, slot };
                let event = Event::Request { from, call, body };
                self.events.push_back(Queued { session: local, cells, event });
            }
            Whole::Response { id, body } => {
                let cells = session.inbox.queue(&body);
                let event = Event::Response { id, body };
                self.events.push_back(Queued { session: local, cells, event });
            }
            Whole::Message => {
                while let Some(body) = session.inbox.next_message() {
                    let cells = session.inbox.queue(&body);
                    let event = Event::Message { from, body };
                    self.events.push_back(Queued { session: local, cells, event });
                }
            }
        }
    }

    /// After a packet: there may be something to send, or nothing left to wait for.
    fn settle(&mut self, index: u32) {
        self.schedule(index);
        self.close_if_done(index);
    }
}

/// The peer offers what every station has to.
fn acceptable(hello: &Hello) -> bool {
    usize::from(hello.packet_bytes.get()) >= LEAST_PACKET
        && hello.calls.get() >= LEAST_CALLS
        && hello.message_bytes.get() > 0
}
