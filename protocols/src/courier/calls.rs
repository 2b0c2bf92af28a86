//! Calls under way: at the caller, and at the one who serves them.
//!
//! A call has a slot, as in eRPC, and a number within it that grows. So both ends find it without a
//! look-up, and a request that has been served is known from its number alone.

use super::RequestId;
use super::config::LEAST_CALLS;
use super::inbox::Violation;

/// The caller's slots.
#[derive(Debug)]
pub(super) struct Calls {
    slots: Vec<Slot>,
    free: Vec<u16>,
    limit: u16,
}

#[derive(Debug, Default)]
struct Slot {
    id: Option<RequestId>,
    number: u32,
    assembly: Option<u32>,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit: LEAST_CALLS }
    }

    /// The session is open: both ends can have so many calls.
    pub(super) fn open(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// No call awaits a response.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// A slot and a number for a new call, if there is a slot free.
    pub(super) fn begin(&mut self, id: RequestId) -> Option<(u16, u32)> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < usize::from(self.limit) => {
                self.slots.push(Slot::default());
                (self.slots.len() - 1) as u16
            }
            None => return None,
        };
        let place = self.slots.get_mut(usize::from(slot))?;
        place.id = Some(id);
        place.number = place.number.wrapping_add(1);
        Some((slot, place.number))
    }

    /// A slot is free.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < usize::from(self.limit)
    }

    /// Where the response of this call is put together, if the call awaits one.
    pub(super) fn place(&mut self, slot: u16, number: u32) -> Option<&mut Option<u32>> {
        let place = self.slots.get_mut(usize::from(slot))?;
        (place.id.is_some() && place.number == number).then_some(&mut place.assembly)
    }

    /// The call in this slot has its response.
    pub(super) fn end(&mut self, slot: u16) -> Option<RequestId> {
        let id = self.slots.get_mut(usize::from(slot))?.id.take()?;
        self.free.push(slot);
        Some(id)
    }

    /// All calls that await a response, with their slots.
    pub(super) fn awaiting(&self) -> impl Iterator<Item = (u16, RequestId)> {
        self.slots.iter().enumerate().filter_map(|(slot, call)| Some((slot as u16, call.id?)))
    }
}

/// The slots of the one who serves.
#[derive(Debug)]
pub(super) struct Serving {
    slots: Vec<Served>,
    limit: u16,
}

#[derive(Debug, Default)]
struct Served {
    number: u32,
    state: State,
    assembly: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Answered,
    Arriving,
    Running,
}

impl Serving {
    pub(super) fn new(limit: u16) -> Self {
        Self { slots: Vec::new(), limit }
    }

    /// Both ends can have so many calls.
    pub(super) fn open(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// Where this request is put together. A request that has been served, or has come whole, is a
    /// violation: it must not run again.
    pub(super) fn place(&mut self, slot: u16, number: u32) -> Result<&mut Option<u32>, Violation> {
        if slot >= self.limit {
            return Err(Violation);
        }
        if self.slots.len() <= usize::from(slot) {
            self.slots.resize_with(usize::from(slot) + 1, Served::default);
        }
        let place = &mut self.slots[usize::from(slot)];
        match place.state {
            State::Answered if number.wrapping_sub(place.number) as i32 > 0 => {
                place.number = number;
                place.state = State::Arriving;
            }
            State::Arriving if number == place.number => {}
            _ => return Err(Violation),
        }
        Ok(&mut place.assembly)
    }

    /// The request in this slot has come whole.
    pub(super) fn run(&mut self, slot: u16) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            place.state = State::Running;
        }
    }

    /// The request is being served, and its response has not been given.
    pub(super) fn is_running(&self, slot: u16, number: u32) -> bool {
        let place = self.slots.get(usize::from(slot));
        place.is_some_and(|call| call.state == State::Running && call.number == number)
    }

    /// The response has been given.
    pub(super) fn answered(&mut self, slot: u16) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            place.state = State::Answered;
        }
    }
}
