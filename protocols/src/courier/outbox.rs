//! The sending half of a session: bodies, the packets of theirs on the way, and what is sent again.

use std::collections::VecDeque;

use slab::Slab;
use underpass_devices::Instant;
use zerocopy::big_endian::{U16, U32};

use super::Config;
use super::congestion::{Congestion, WINDOW};
use super::memory::{Pool, cells};
use super::rtt::Rtt;
use super::wire::{Kind, MessageHeader};

/// A packet is lost when one that is so many numbers later has arrived (RFC 9002, section 6.1.1).
const LATER: u32 = 3;
/// Time-outs in vain after which everything on the way is taken for lost.
const SILENCE: u32 = 3;
/// Of so many packets one belongs to a body of several packets, if there is one: short ones go first,
/// but do not starve long ones.
const LONG_TURN: u8 = 8;
/// Short requests and responses that get credit before a body that waits for its own.
const EXPRESS: u32 = 16;

/// A body given by the application.
#[derive(Debug)]
struct Body {
    kind: Kind,
    slot: u16,
    number: u32,
    bytes: Vec<u8>,
    /// What the send budget has been charged.
    cells: u32,
    /// Bytes sent at least once.
    sent: usize,
    /// A part was handed to the network.
    begun: bool,
    /// Parts sent and not acknowledged.
    flying: u32,
}

/// A packet on the way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    body: u32,
    offset: u32,
    len: u16,
    again: bool,
    at: Instant,
}

/// What to send next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pick {
    /// The packet of this number once more.
    Again(u32),
    /// The next part of this body.
    New(u32),
}

/// A part of a body, ready for a packet.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) seq: u32,
    pub(super) kind: Kind,
    pub(super) header: MessageHeader,
    pub(super) bytes: &'a [u8],
    /// Nothing can follow before an acknowledgement.
    pub(super) last: bool,
}

#[derive(Debug)]
pub(super) struct Outbox {
    bodies: Slab<Body>,
    /// Bodies that no credit has been taken for, in the order given: short requests and responses, and
    /// all others.
    express: VecDeque<u32>,
    waiting: VecDeque<u32>,
    /// Cells taken for the former while one of the latter was waiting.
    overtaken: u32,
    /// Bodies of one packet, and of several, with parts never sent.
    short: VecDeque<u32>,
    long: VecDeque<u32>,
    turn: u8,
    /// Packet `n` is at `n % 64`.
    ring: Vec<Sent>,
    first: u32,
    next: u32,
    /// Bit `n % 64` for packet `n`, in both.
    unacked: u64,
    lost: u64,
    /// Packets that may be sent although the window is full.
    forced: u32,
    credit: u32,
    used: u32,
    /// Bytes of a body per packet.
    part_bytes: usize,
    pub(super) rtt: Rtt,
    congestion: Congestion,
    /// When the packet that was sent last of all that have arrived was sent.
    newest: Instant,
    tries: u32,
    timeout: Instant,
    cells: u32,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            bodies: Slab::new(),
            express: VecDeque::new(),
            waiting: VecDeque::new(),
            overtaken: 0,
            short: VecDeque::new(),
            long: VecDeque::new(),
            turn: 0,
            ring: Vec::new(),
            first: 0,
            next: 0,
            unacked: 0,
            lost: 0,
            forced: 0,
            credit: 0,
            used: 0,
            part_bytes: 1,
            rtt: Rtt::default(),
            congestion: Congestion::new(),
            newest: Instant::ZERO,
            tries: 0,
            timeout: Instant::MAX,
            cells: 0,
        }
    }

    /// The session is open: packets hold so many bytes of a body.
    pub(super) fn open(&mut self, now: Instant, part_bytes: usize, config: &Config) {
        self.part_bytes = part_bytes.max(1);
        self.rearm(now, config);
    }

    /// Takes a body for which `cells` of the send budget have been charged.
    pub(super) fn push(
        &mut self,
        now: Instant,
        (kind, slot, number): (Kind, u16, u32),
        bytes: Vec<u8>,
        cells: u32,
        config: &Config,
    ) {
        // Messages stay in order: one that came early would hold credit that its predecessor needs.
        let is_express = kind != Kind::Message && bytes.len() <= self.part_bytes;
        let body = Body { kind, slot, number, bytes, cells, sent: 0, begun: false, flying: 0 };
        self.cells += cells;
        let key = self.bodies.insert(body) as u32;
        let queue = if is_express { &mut self.express } else { &mut self.waiting };
        queue.push_back(key);
        if self.timeout == Instant::MAX {
            self.rearm(now, config);
        }
    }

    /// Nothing is queued or on the way.
    pub(super) fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    /// Cells charged to the send budget.
    pub(super) fn cells(&self) -> u32 {
        self.cells
    }

    /// Bytes of the longest body.
    pub(super) fn longest(&self) -> usize {
        self.bodies.iter().map(|(_, body)| body.bytes.len()).max().unwrap_or(0)
    }

    /// Messages without response that are not known to have arrived, and their bytes.
    pub(super) fn messages(&self) -> (usize, usize) {
        let messages = self.bodies.iter().filter(|(_, body)| body.kind == Kind::Message);
        messages.fold((0, 0), |(count, bytes), (_, body)| (count + 1, bytes + body.bytes.len()))
    }

    /// The slots of requests of which no part was sent.
    pub(super) fn unbegun_calls(&self) -> impl Iterator<Item = u16> {
        let unbegun =
            self.bodies.iter().filter(|(_, body)| body.kind == Kind::Request && !body.begun);
        unbegun.map(|(_, body)| body.slot)
    }

    /// There may be something to send, if the windows permit.
    pub(super) fn is_eager(&self) -> bool {
        self.lost != 0 || !(self.short.is_empty() && self.long.is_empty()) || self.is_waiting()
    }

    /// When [`timed_out`](Self::timed_out) is to be called.
    pub(super) fn timeout(&self) -> Instant {
        self.timeout
    }

    /// The next packet, if the windows permit one.
    pub(super) fn pick(&mut self) -> Option<Pick> {
        let room = self.flying() < self.congestion.packets();
        if self.lost != 0 && (room || self.forced > 0) {
            let after = self.lost.rotate_right(self.first % WINDOW).trailing_zeros();
            return Some(Pick::Again(self.first.wrapping_add(after)));
        }
        if !room || self.next.wrapping_sub(self.first) >= WINDOW {
            return None;
        }
        self.admit();
        let long = if self.turn >= LONG_TURN { self.long.front() } else { None };
        long.or(self.short.front()).or(self.long.front()).copied().map(Pick::New)
    }

    /// What belongs into the packet. `None` does not happen for what [`pick`](Self::pick) has said.
    pub(super) fn part(&self, pick: Pick) -> Option<Part<'_>> {
        let (seq, key, offset, len) = match pick {
            Pick::Again(seq) => {
                let sent = self.ring.get(position(seq))?;
                (seq, sent.body, sent.offset as usize, usize::from(sent.len))
            }
            Pick::New(key) => {
                let body = self.bodies.get(key as usize)?;
                let len = (body.bytes.len() - body.sent).min(self.part_bytes);
                (self.next, key, body.sent, len)
            }
        };
        let body = self.bodies.get(key as usize)?;
        let header = MessageHeader {
            slot: U16::new(body.slot),
            reserved: U16::ZERO,
            number: U32::new(body.number),
            length: U32::new(body.bytes.len() as u32),
            offset: U32::new(offset as u32),
        };
        let last = self.flying() + 1 >= self.congestion.packets()
            || self.next.wrapping_sub(self.first) + 1 >= WINDOW;
        let bytes = body.bytes.get(offset..offset + len)?;
        Some(Part { seq, kind: body.kind, header, bytes, last })
    }

    /// The packet was handed to the network.
    pub(super) fn sent(&mut self, now: Instant, pick: Pick, config: &Config) {
        match pick {
            Pick::Again(seq) => {
                self.lost &= !bit(seq);
                self.forced = self.forced.saturating_sub(1);
                if let Some(sent) = self.ring.get_mut(position(seq)) {
                    sent.again = true;
                    sent.at = now;
                }
            }
            Pick::New(key) => self.sent_new(now, key),
        }
        self.rearm(now, config);
    }

    fn sent_new(&mut self, now: Instant, key: u32) {
        let Some(body) = self.bodies.get_mut(key as usize) else { return };
        let len = (body.bytes.len() - body.sent).min(self.part_bytes);
        let sent =
            Sent { body: key, offset: body.sent as u32, len: len as u16, again: false, at: now };
        body.sent += len;
        body.begun = true;
        body.flying += 1;
        if self.long.front() == Some(&key) {
            self.turn = 0;
            if body.sent == body.bytes.len() {
                self.long.pop_front();
            }
        } else {
            self.turn = self.turn.saturating_add(1);
            self.short.pop_front();
        }
        if self.ring.is_empty() {
            self.ring.resize(WINDOW as usize, sent);
        }
        self.ring[position(self.next)] = sent;
        self.unacked |= bit(self.next);
        self.next = self.next.wrapping_add(1);
    }

    /// The peer permits so many cells in all. A number below one seen before is late.
    pub(super) fn credit(&mut self, credit: u32) {
        if credit.wrapping_sub(self.credit) as i32 > 0 {
            self.credit = credit;
            if self.unacked == 0 {
                self.tries = 0;
            }
        }
    }

    /// All packets before `ack` have arrived, and those after it whose bit is set. `sample` is a
    /// round-trip time that came along. The cells of bodies that have arrived whole are returned.
    pub(super) fn acked(
        &mut self,
        now: Instant,
        (ack, sack): (u32, u64),
        sample: Option<u64>,
        pool: &mut Pool,
        config: &Config,
    ) -> u32 {
        if let Some(sample) = sample {
            self.rtt.sample(now, sample);
        }
        let out = self.next.wrapping_sub(self.first);
        let before = ack.wrapping_sub(self.first);
        if before > out {
            // Late, or of packets never sent.
            return 0;
        }
        let told = low(before) | sack.checked_shl(before + 1).unwrap_or(0);
        let turned = self.unacked.rotate_right(self.first % WINDOW);
        let new = turned & told & low(out);
        if new == 0 {
            return 0;
        }
        let used = 2 * self.flying() >= self.congestion.packets();
        let freed = self.settle(now, new, pool);
        self.tries = 0;
        self.congestion.acked(now, new.count_ones(), used, sample, &self.rtt, config);
        let left = turned & !new;
        let has_gap = left != 0 && left.trailing_zeros() + left.count_ones() != out;
        if has_gap {
            self.detect(now, left, new.ilog2());
        }
        self.first = self.first.wrapping_add(left.trailing_zeros().min(out));
        self.rearm(now, config);
        freed
    }

    /// Nothing has come back for long. True: the peer is to be asked for an acknowledgement, since
    /// there is nothing to send again; it may have news of credit.
    pub(super) fn timed_out(&mut self, now: Instant, config: &Config) -> bool {
        self.tries += 1;
        if self.unacked != 0 {
            // The first tells what is missing, the last what has arrived (tail-loss probe, RFC 8985).
            let turned = self.unacked.rotate_right(self.first % WINDOW);
            let [first, last] = [turned.trailing_zeros(), turned.ilog2()];
            self.lost |= bit(self.first.wrapping_add(first)) | bit(self.first.wrapping_add(last));
            self.forced = 2;
            if self.tries >= SILENCE {
                self.lost = self.unacked;
                self.congestion.silence();
            }
        }
        self.rearm(now, config);
        self.unacked == 0
    }

    fn flying(&self) -> u32 {
        (self.unacked & !self.lost).count_ones()
    }

    fn is_waiting(&self) -> bool {
        !(self.express.is_empty() && self.waiting.is_empty())
    }

    /// Takes credit for bodies. A long one is overtaken by a few short ones only, so that it gets
    /// credit, too.
    fn admit(&mut self) {
        while let Some(&key) = self.waiting.front() {
            let Some(len) = self.charge(key) else { break };
            self.waiting.pop_front();
            self.overtaken = 0;
            let is_short = len <= self.part_bytes;
            if is_short { self.short.push_back(key) } else { self.long.push_back(key) }
        }
        while let Some(&key) = self.express.front() {
            if self.overtaken >= EXPRESS || self.charge(key).is_none() {
                return;
            }
            self.express.pop_front();
            self.short.push_back(key);
            if !self.waiting.is_empty() {
                self.overtaken += 1;
            }
        }
    }

    /// Takes credit for a body, if there is enough. Returns its length.
    fn charge(&mut self, key: u32) -> Option<usize> {
        let len = self.bodies.get(key as usize)?.bytes.len();
        let used = self.used.wrapping_add(cells(len));
        if used.wrapping_sub(self.credit) as i32 > 0 {
            return None;
        }
        self.used = used;
        Some(len)
    }

    /// Takes packets off the ring, and bodies that have arrived. Returns the cells of these.
    fn settle(&mut self, now: Instant, new: u64, pool: &mut Pool) -> u32 {
        let mut freed = 0;
        for after in ones(new) {
            let seq = self.first.wrapping_add(after);
            self.unacked &= !bit(seq);
            let sent = self.ring[position(seq)];
            // Sent twice and answered too soon: it was the first one that arrived.
            if !sent.again || now.since(sent.at).as_nanos() as u64 >= self.rtt.least() {
                self.newest = self.newest.max(sent.at);
            }
            let Some(body) = self.bodies.get_mut(sent.body as usize) else { continue };
            body.flying -= 1;
            if body.flying == 0 && body.sent == body.bytes.len() {
                let body = self.bodies.remove(sent.body as usize);
                freed += body.cells;
                pool.give(body.bytes);
            }
        }
        self.lost &= self.unacked;
        self.cells -= freed;
        freed
    }

    /// Of `left`, packets that were sent so long before one that has arrived that they must be lost
    /// (RACK, RFC 8985).
    fn old(&self, left: u64) -> u64 {
        let patience = (self.rtt.mean().unwrap_or(0) / 4).max(1000);
        let mut old = 0;
        for after in ones(left) {
            let sent = self.ring[position(self.first.wrapping_add(after))];
            if sent.at.as_nanos() + patience <= self.newest.as_nanos() {
                old |= 1 << after;
            }
        }
        old
    }

    fn detect(&mut self, now: Instant, left: u64, highest: u32) {
        let mut lost = self.old(left);
        for after in ones(left & low((highest + 1).saturating_sub(LATER))) {
            if !self.ring[position(self.first.wrapping_add(after))].again {
                lost |= 1 << after;
            }
        }
        let lost = lost.rotate_left(self.first % WINDOW) & !self.lost;
        if lost != 0 {
            self.lost |= lost;
            self.congestion.lost(now, &self.rtt);
        }
    }

    pub(super) fn rearm(&mut self, now: Instant, config: &Config) {
        self.timeout = if self.unacked == 0 && !self.is_waiting() {
            Instant::MAX
        } else {
            Instant::from_nanos(now.as_nanos().saturating_add(self.rtt.timeout(config, self.tries)))
        };
    }
}

fn position(seq: u32) -> usize {
    (seq % WINDOW) as usize
}

fn bit(seq: u32) -> u64 {
    1 << (seq % WINDOW)
}

/// The lowest `n` bits, `n` from 0 to 64.
fn low(n: u32) -> u64 {
    1_u64.checked_shl(n).map_or(u64::MAX, |bit| bit - 1)
}

/// The places of the bits that are set.
fn ones(mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (place < 64).then_some(place)
    })
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
