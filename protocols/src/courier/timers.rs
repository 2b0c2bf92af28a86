//! One deadline per session, in a binary heap that knows where each session stands.

use underpass_devices::Instant;

const ABSENT: u32 = u32::MAX;

/// Deadlines by the index of their session. Setting one costs a walk of the heap's height at most.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: Vec<(Instant, u32)>,
    places: Vec<u32>,
}

impl Timers {
    /// The earliest deadline and its session.
    pub(super) fn first(&self) -> Option<(Instant, u32)> {
        self.heap.first().copied()
    }

    /// When the session is due at the latest. A deadline may be early, so one that is put off stays
    /// where it is until it is due and is set anew then: a session that is busy puts it off with every
    /// packet.
    pub(super) fn not_later(&mut self, session: u32, at: Instant) {
        match self.place(session).and_then(|place| self.heap.get(place)) {
            Some((set, _)) if *set <= at => {}
            _ => self.set(session, at),
        }
    }

    /// Sets the deadline.
    pub(super) fn set(&mut self, session: u32, at: Instant) {
        if let Some(place) = self.place(session) {
            self.heap[place].0 = at;
            self.up(place);
            if let Some(place) = self.place(session) {
                self.down(place);
            }
            return;
        }
        if self.places.len() <= session as usize {
            self.places.resize(session as usize + 1, ABSENT);
        }
        self.heap.push((at, session));
        self.places[session as usize] = (self.heap.len() - 1) as u32;
        self.up(self.heap.len() - 1);
    }

    /// Forgets the session.
    pub(super) fn remove(&mut self, session: u32) {
        let Some(place) = self.place(session) else { return };
        let last = self.heap.len() - 1;
        self.swap(place, last);
        self.heap.pop();
        self.places[session as usize] = ABSENT;
        if place < self.heap.len() {
            let moved = self.heap[place].1;
            self.up(place);
            if let Some(place) = self.place(moved) {
                self.down(place);
            }
        }
    }

    fn place(&self, session: u32) -> Option<usize> {
        let place = *self.places.get(session as usize)?;
        (place != ABSENT).then_some(place as usize)
    }

    fn up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
    }

    fn down(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let mut least = place;
            for child in [left, left + 1] {
                if child < self.heap.len() && self.heap[child].0 < self.heap[least].0 {
                    least = child;
                }
            }
            if least == place {
                break;
            }
            self.swap(place, least);
            place = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            let session = self.heap[place].1;
            self.places[session as usize] = place as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_a_list_would(steps in proptest::collection::vec((0_u32..12, 0_u64..50, 0..4), 1..200)) {
            let mut timers = Timers::default();
            let mut model = std::collections::BTreeMap::new();
            for (session, at, what) in steps {
                let at = Instant::from_nanos(at);
                match what {
                    0 => {
                        timers.remove(session);
                        model.remove(&session);
                    }
                    1 => {
                        timers.not_later(session, at);
                        let set = model.entry(session).or_insert(at);
                        *set = at.min(*set);
                    }
                    _ => {
                        timers.set(session, at);
                        model.insert(session, at);
                    }
                }
                let first = timers.first();
                prop_assert_eq!(first.map(|(at, _)| at), model.values().min().copied());
                if let Some((at, session)) = first {
                    prop_assert_eq!(model.get(&session), Some(&at));
                }
            }
        }
    }
}
