//! Doubly linked lists threaded through slot numbers: O(1) insert and remove, no allocation per
//! element. A slot is in one list of its [`Links`] at most.

/// No slot.
const NONE: u32 = u32::MAX;

/// The ends of one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    /// A list without elements.
    pub(crate) const EMPTY: Self = Self { head: NONE, tail: NONE };

    /// The first slot: the one pushed the longest time ago.
    pub(crate) fn front(self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// True if no slot is in the list.
    pub(crate) fn is_empty(self) -> bool {
        self.head == NONE
    }
}

/// The links between slots, for any number of lists.
#[derive(Debug, Default)]
pub(crate) struct Links(Vec<Link>);

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

impl Links {
    /// Appends a slot that is in no list.
    pub(crate) fn push_back(&mut self, list: &mut List, slot: u32) {
        let index = slot as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, Link { prev: NONE, next: NONE });
        }
        self.0[index] = Link { prev: list.tail, next: NONE };
        match list.tail {
            NONE => list.head = slot,
            tail => self.0[tail as usize].next = slot,
        }
        list.tail = slot;
    }

    /// Takes a slot out of `list`, which it must be in.
    pub(crate) fn remove(&mut self, list: &mut List, slot: u32) {
        let Link { prev, next } = self.0[slot as usize];
        match prev {
            NONE => list.head = next,
            prev => self.0[prev as usize].next = next,
        }
        match next {
            NONE => list.tail = prev,
            next => self.0[next as usize].prev = prev,
        }
    }

    /// Takes the first slot out of `list`.
    pub(crate) fn pop_front(&mut self, list: &mut List) -> Option<u32> {
        let slot = list.front()?;
        self.remove(list, slot);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_lists_behave_as_two_deques(
            steps in proptest::collection::vec((0_u32..20, 0_usize..3), 0..300),
        ) {
            let mut links = Links::default();
            let mut lists = [List::EMPTY; 2];
            let mut model = [VecDeque::new(), VecDeque::new()];
            for (slot, step) in steps {
                let holder = model.iter().position(|m| m.contains(&slot));
                match (step, holder) {
                    (0 | 1, None) => {
                        links.push_back(&mut lists[step], slot);
                        model[step].push_back(slot);
                    }
                    (2, _) => {
                        let which = slot as usize % 2;
                        prop_assert_eq!(links.pop_front(&mut lists[which]), model[which].pop_front());
                    }
                    (_, Some(which)) => {
                        links.remove(&mut lists[which], slot);
                        model[which].retain(|s| *s != slot);
                    }
                    _ => {}
                }
                for (list, model) in lists.iter().zip(&model) {
                    prop_assert_eq!(list.front(), model.front().copied());
                    prop_assert_eq!(list.is_empty(), model.is_empty());
                }
            }
        }
    }
}
