//! Packets to be sent, and times.

use std::hash::Hash;

use underpass_devices::Instant;
use zerocopy::big_endian::{U32, U64};

use super::events::Failure;
use super::session::{Due, End, State};
use super::station::{Courier, Farewell};
use super::wire::{Header, Kind, Packet, Tail};

/// Packets of one session before it is another's turn.
const TURN: usize = 16;

/// How a session's turn has ended.
enum Turn {
    /// The caller has no slot, or wants no more packets.
    Full,
    /// It has nothing more to send.
    Done,
    /// It may have more.
    More,
}

impl<A: Copy + Eq + Hash> Courier<A> {
    /// Hands packets to `emit`, up to `room` of them, each to be written into a slot with
    /// [`Packet::write`]. `emit` says whether it has done so; if not, the packet comes again in a later
    /// call. Returns how many were taken.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        room: usize,
        mut emit: impl FnMut(&Packet<'_, A>) -> bool,
    ) -> usize {
        self.clock = self.clock.max(now);
        let mut left = room;
        while let Some(refusal) = self.refusals.front() {
            let header = Header {
                session: U64::new(refusal.session),
                seq: U32::new(refusal.why),
                ..Header::default()
            };
            let packet = Packet::new(refusal.to, refusal.kind, header, Tail::None);
            if left == 0 || !emit(&packet) {
                return self.count(room - left);
            }
            left -= 1;
            self.counters.bare += 1;
            self.refusals.pop_front();
        }
        while let Some(&index) = self.ready.front() {
            let turn = self.turn(now, index, &mut left, &mut emit);
            match turn {
                Turn::Full => break,
                Turn::More => self.ready.rotate_left(1),
                Turn::Done => {
                    self.ready.pop_front();
                    if let Some(session) = self.sessions.get_mut(index as usize) {
                        session.ready = false;
                    }
                }
            }
        }
        self.count(room - left)
    }

    /// When [`on_timer`](Self::on_timer) is to be called. It may be early; being late makes answers
    /// late and nothing else.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| at)
    }

    /// Does what is due. There may be packets to send afterwards.
    pub fn on_timer(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        while let Some((at, index)) = self.timers.first().filter(|(at, _)| *at <= now) {
            let Some(session) = self.sessions.get_mut(index as usize) else {
                self.timers.remove(index);
                continue;
            };
            let deadline = session.deadline(&self.config);
            if deadline > at && deadline > now {
                self.timers.set(index, deadline);
                continue;
            }
            match session.due(now, &self.config) {
                Ok(due) => {
                    self.counters.timeouts += u64::from(due == Due::Timeout);
                    let next = Instant::from_nanos(now.as_nanos().saturating_add(1));
                    self.timers.set(index, session.deadline(&self.config).max(next));
                    self.schedule(index);
                }
                Err(End::Silent) => self.end(index, Some(Failure::Silent)),
                Err(End::Forgotten) => self.end(index, None),
                Err(End::Idle) => {
                    self.say_farewell(index, Farewell::Closed);
                    self.end(index, None);
                }
            }
        }
    }

    fn count(&mut self, sent: usize) -> usize {
        self.counters.sent_packets += sent as u64;
        sent
    }

    fn turn(
        &mut self,
        now: Instant,
        index: u32,
        left: &mut usize,
        emit: &mut impl FnMut(&Packet<'_, A>) -> bool,
    ) -> Turn {
        let Some(session) = self.sessions.get_mut(index as usize) else { return Turn::Done };
        if let Some(kind) = session.control {
            let tail = match kind {
                Kind::Hello | Kind::Welcome => Tail::Hello(session.hello(&self.config)),
                _ => Tail::None,
            };
            let packet = Packet::new(session.peer, kind, session.header(now), tail);
            if *left == 0 || !emit(&packet) {
                return Turn::Full;
            }
            *left -= 1;
            self.counters.bare += 1;
            session.control = None;
            session.told();
        }
        if session.state != State::Open {
            return Turn::Done;
        }
        let mut turn = TURN;
        while let Some(pick) = session.outbox.pick() {
            if turn == 0 {
                return Turn::More;
            }
            let Some(part) = session.outbox.part(pick) else { break };
            let is_again = matches!(pick, super::outbox::Pick::Again(_));
            let mut header = session.header(now);
            header.seq = U32::new(part.seq);
            if part.last || is_again {
                header.flags |= Header::NOW;
            }
            let tail = Tail::Part(part.header, part.bytes);
            if *left == 0 || !emit(&Packet::new(session.peer, part.kind, header, tail)) {
                return Turn::Full;
            }
            *left -= 1;
            turn -= 1;
            self.counters.again += u64::from(is_again);
            session.outbox.sent(now, pick, &self.config);
            session.told();
        }
        if session.owes_now() {
            let packet = Packet::new(session.peer, Kind::Ack, session.header(now), Tail::None);
            if *left == 0 || !emit(&packet) {
                return Turn::Full;
            }
            *left -= 1;
            self.counters.bare += 1;
            session.told();
        }
        self.timers.not_later(index, session.deadline(&self.config));
        Turn::Done
    }
}
