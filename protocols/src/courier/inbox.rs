//! The receiving half of a session: which packets have come, bodies being put together, and credit.

use std::collections::VecDeque;

use slab::Slab;

use super::RequestId;
use super::calls::{Calls, Serving};
use super::memory::{Budget, Pool, cells};
use super::wire::{Kind, MessageHeader};

/// Cells that a session has beside those of one body of the greatest length: 16 KiB.
const SPARE: u32 = 64;

/// The peer does what the protocol forbids.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// Whether a packet is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    Duplicate,
    /// Further ahead than a peer may be.
    Beyond,
}

/// A body that is whole.
#[derive(Debug)]
pub(super) enum Whole {
    Request {
        slot: u16,
        number: u32,
        body: Vec<u8>,
    },
    Response {
        id: RequestId,
        body: Vec<u8>,
    },
    /// [`Inbox::next_message`] may have some.
    Message,
}

/// A body of several packets.
#[derive(Debug)]
struct Assembly {
    bytes: Vec<u8>,
    received: usize,
}

/// What has come of a message whose predecessors are missing.
#[derive(Debug)]
enum Early {
    Nothing,
    Parts(u32),
    Whole(Vec<u8>),
}

/// Bodies being put together, each charged when its first part comes.
#[derive(Debug)]
pub(super) struct Assembler {
    assemblies: Slab<Assembly>,
    longest: usize,
    credit: u32,
    charged: u32,
}

#[derive(Debug)]
pub(super) struct Inbox {
    next: u32,
    /// Bit `i`: packet `next + 1 + i` has come.
    seen: u64,
    assembler: Assembler,
    serving: Serving,
    /// The number of the next message, and what there is of it and later ones.
    order: u32,
    early: VecDeque<Early>,
    /// Cells taken from the budget: permitted to the peer, and not read by the application yet.
    hold: u32,
    /// Those of bodies in the queue of events.
    queued: u32,
    target: u32,
    least: u32,
    most: u32,
}

impl Inbox {
    /// [`first_cells`] have been taken from the budget.
    pub(super) fn new(longest: usize, session_bytes: usize, calls: u16) -> Self {
        let least = first_cells(longest);
        let most = least.max((session_bytes / super::memory::CELL).min(1 << 30) as u32);
        let assembler = Assembler { assemblies: Slab::new(), longest, credit: least, charged: 0 };
        Self {
            next: 0,
            seen: 0,
            assembler,
            serving: Serving::new(calls),
            order: 0,
            early: VecDeque::new(),
            hold: least,
            queued: 0,
            target: least,
            least,
            most,
        }
    }

    /// All packets before the first have come, and those after it whose bit is set.
    pub(super) fn received(&self) -> (u32, u64) {
        (self.next, self.seen)
    }

    /// Cells that the peer may use since the session began.
    pub(super) fn credit(&self) -> u32 {
        self.assembler.credit
    }

    /// Cells held from the budget that are in no event.
    pub(super) fn unqueued(&self) -> u32 {
        self.hold - self.queued
    }

    /// There are packets missing.
    pub(super) fn has_gap(&self) -> bool {
        self.seen != 0
    }

    pub(super) fn serving(&mut self) -> &mut Serving {
        &mut self.serving
    }

    /// Whether this packet is new; it is so only once.
    pub(super) fn take(&mut self, seq: u32) -> Verdict {
        let ahead = seq.wrapping_sub(self.next);
        if ahead == 0 {
            let run = self.seen.trailing_ones();
            self.next = self.next.wrapping_add(1 + run);
            self.seen = self.seen.checked_shr(run + 1).unwrap_or(0);
            return Verdict::New;
        }
        if ahead > 64 {
            return if ahead as i32 <= 0 { Verdict::Duplicate } else { Verdict::Beyond };
        }
        let bit = 1 << (ahead - 1);
        if self.seen & bit != 0 {
            return Verdict::Duplicate;
        }
        self.seen |= bit;
        Verdict::New
    }

    /// Takes a part of a body from a packet that is new.
    pub(super) fn part(
        &mut self,
        kind: Kind,
        header: &MessageHeader,
        part: &[u8],
        calls: &mut Calls,
        pool: &mut Pool,
    ) -> Result<Option<Whole>, Violation> {
        let (slot, number) = (header.slot.get(), header.number.get());
        match kind {
            Kind::Request => {
                let place = self.serving.place(slot, number)?;
                let Some(body) = self.assembler.add(place, header, part, pool)? else {
                    return Ok(None);
                };
                self.serving.run(slot);
                Ok(Some(Whole::Request { slot, number, body }))
            }
            Kind::Response => {
                let place = calls.place(slot, number).ok_or(Violation)?;
                let Some(body) = self.assembler.add(place, header, part, pool)? else {
                    return Ok(None);
                };
                let id = calls.end(slot).ok_or(Violation)?;
                Ok(Some(Whole::Response { id, body }))
            }
            _ => self.message(number, header, part, pool),
        }
    }

    /// The next message in order that is whole.
    pub(super) fn next_message(&mut self) -> Option<Vec<u8>> {
        if !matches!(self.early.front(), Some(Early::Whole(_))) {
            return None;
        }
        self.order = self.order.wrapping_add(1);
        match self.early.pop_front() {
            Some(Early::Whole(body)) => Some(body),
            _ => None,
        }
    }

    /// A body goes into the queue of events. Returns its cells.
    pub(super) fn queue(&mut self, body: &[u8]) -> u32 {
        let cells = cells(body.len());
        self.queued += cells;
        cells
    }

    /// The application has taken a body out of the queue of events. The peer gets as many cells
    /// anew, more if it uses what it has and there are plenty, fewer if they are scarce.
    pub(super) fn read(&mut self, cells: u32, budget: &mut Budget) {
        self.queued -= cells;
        self.hold -= cells;
        budget.give(cells);
        if budget.ample() {
            self.target = self.target.saturating_add(cells).min(self.most);
        } else if budget.scarce() {
            self.target = self.target.saturating_sub(cells).max(self.least);
        }
        let more = self.target.saturating_sub(self.hold);
        if budget.take(more) {
            self.hold += more;
            self.assembler.credit = self.assembler.credit.wrapping_add(more);
        } else if budget.take(cells) {
            self.hold += cells;
            self.assembler.credit = self.assembler.credit.wrapping_add(cells);
        }
    }

    fn message(
        &mut self,
        number: u32,
        header: &MessageHeader,
        part: &[u8],
        pool: &mut Pool,
    ) -> Result<Option<Whole>, Violation> {
        let ahead = number.wrapping_sub(self.order);
        // Each message takes a cell at least, so an honest peer is not further ahead.
        if ahead >= self.hold {
            return Err(Violation);
        }
        while self.early.len() <= ahead as usize {
            self.early.push_back(Early::Nothing);
        }
        let early = &mut self.early[ahead as usize];
        let mut place = match early {
            Early::Nothing => None,
            Early::Parts(key) => Some(*key),
            Early::Whole(_) => return Err(Violation),
        };
        let whole = self.assembler.add(&mut place, header, part, pool)?;
        *early = match (whole, place) {
            (Some(body), _) => Early::Whole(body),
            (None, Some(key)) => Early::Parts(key),
            (None, None) => Early::Nothing,
        };
        Ok(Some(Whole::Message))
    }
}

/// Cells that a session begins with: those of one body of the greatest length, so that none waits for
/// ever, and some for short ones beside it.
pub(super) fn first_cells(longest: usize) -> u32 {
    cells(longest) + SPARE
}

impl Assembler {
    /// Adds a part to the body at `place`, or begins one there. Returns the body once it is whole.
    fn add(
        &mut self,
        place: &mut Option<u32>,
        header: &MessageHeader,
        part: &[u8],
        pool: &mut Pool,
    ) -> Result<Option<Vec<u8>>, Violation> {
        let (length, offset) = (header.length.get() as usize, header.offset.get() as usize);
        let end = offset.checked_add(part.len()).filter(|end| *end <= length).ok_or(Violation)?;
        if part.is_empty() && length > 0 {
            return Err(Violation);
        }
        let key = match *place {
            Some(key) => key,
            None => {
                self.charge(length)?;
                let mut bytes = pool.take(length);
                if part.len() == length {
                    bytes.extend_from_slice(part);
                    return Ok(Some(bytes));
                }
                bytes.resize(length, 0);
                let key = self.assemblies.insert(Assembly { bytes, received: 0 }) as u32;
                *place = Some(key);
                key
            }
        };
        let assembly = self.assemblies.get_mut(key as usize).ok_or(Violation)?;
        if assembly.bytes.len() != length {
            return Err(Violation);
        }
        assembly.bytes.get_mut(offset..end).ok_or(Violation)?.copy_from_slice(part);
        assembly.received += part.len();
        if assembly.received < length {
            return Ok(None);
        }
        let whole = self.assemblies.remove(key as usize);
        *place = None;
        // Each packet is taken once, so an honest peer's parts do not overlap.
        if whole.received == length { Ok(Some(whole.bytes)) } else { Err(Violation) }
    }

    fn charge(&mut self, length: usize) -> Result<(), Violation> {
        if length > self.longest {
            return Err(Violation);
        }
        let charged = self.charged.wrapping_add(cells(length));
        if charged.wrapping_sub(self.credit) as i32 > 0 {
            return Err(Violation);
        }
        self.charged = charged;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_packet_is_new_once(start in any::<u32>(), steps in proptest::collection::vec(0_u32..80, 1..300)) {
            let mut inbox = Inbox::new(1 << 16, 1 << 20, 8);
            inbox.next = start;
            let mut seen = BTreeSet::new();
            for step in steps {
                let (next, _) = inbox.received();
                let seq = next.wrapping_add(step).wrapping_sub(10);
                let ahead = seq.wrapping_sub(start);
                let verdict = inbox.take(seq);
                if (ahead as i32) < 0 || seen.contains(&ahead) {
                    prop_assert_eq!(verdict, Verdict::Duplicate);
                } else if verdict == Verdict::New {
                    seen.insert(ahead);
                } else {
                    prop_assert_eq!((verdict, step > 74), (Verdict::Beyond, true));
                }
                let (next, sack) = inbox.received();
                let next = next.wrapping_sub(start);
                prop_assert!((0..next).all(|n| seen.contains(&n)) && !seen.contains(&next));
                for bit in 0..64 {
                    prop_assert_eq!(sack >> bit & 1 == 1, seen.contains(&(next + 1 + bit)));
                }
            }
        }
    }
}
