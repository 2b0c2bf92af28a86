//! A ring with one producer and one consumer, in words that two sides share. What the other side has
//! written is not believed: an index beyond the ring is an error, and an entry is a copy.
//!
//! It needs no operating system, so that loom can try every interleaving (`tests/kring_ring.rs`).

use std::ops::Deref;

#[cfg(model)]
use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(model))]
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Where a ring lies, counted in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The producer's index: entries ever written.
    pub(crate) producer: usize,
    /// The consumer's index: entries ever read.
    pub(crate) consumer: usize,
    /// The first entry.
    pub(crate) entries: usize,
    /// Entries of the ring, a power of two.
    pub(crate) slots: u32,
}

/// The other side's index is beyond the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the indices of a ring contradict each other")]
pub(crate) struct Corrupt;

/// The side that writes entries of `N` words.
#[derive(Debug)]
pub(crate) struct Producer<M, const N: usize> {
    memory: M,
    place: Place,
    /// Entries written, published or not.
    next: u32,
    /// The consumer's index as it was last seen.
    consumer: u32,
}

/// The side that reads entries of `N` words.
#[derive(Debug)]
pub(crate) struct Consumer<M, const N: usize> {
    memory: M,
    place: Place,
    /// Entries read, given back or not.
    next: u32,
    /// The producer's index as it was last seen.
    producer: u32,
}

impl<M: Deref<Target = [AtomicU32]>, const N: usize> Producer<M, N> {
    /// Of a ring that nothing has been written to.
    ///
    /// # Panics
    /// If the ring is not within `memory`.
    pub(crate) fn new(memory: M, place: Place) -> Self {
        place.check::<N>(memory.len());
        Self { memory, place, next: 0, consumer: 0 }
    }

    /// Entries that can be written. What the consumer has read is looked up when there seem to be
    /// none.
    pub(crate) fn room(&mut self) -> Result<u32, Corrupt> {
        if self.used() == self.place.slots {
            self.look()?;
        }
        Ok(self.place.slots - self.used())
    }

    /// Entries that the consumer has not read.
    pub(crate) fn waiting(&mut self) -> Result<u32, Corrupt> {
        self.look()?;
        Ok(self.used())
    }

    /// Writes an entry, which the consumer sees from the next [`publish`](Self::publish) on. False:
    /// there is no room.
    pub(crate) fn push(&mut self, entry: [u32; N]) -> bool {
        if !self.room().is_ok_and(|room| room > 0) {
            return false;
        }
        let start = self.place.entry::<N>(self.next);
        for (word, value) in self.memory[start..start + N].iter().zip(entry) {
            word.store(value, Ordering::Relaxed);
        }
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the consumer what has been written.
    pub(crate) fn publish(&self) {
        self.memory[self.place.producer].store(self.next, Ordering::Release);
    }

    fn used(&self) -> u32 {
        self.next.wrapping_sub(self.consumer)
    }

    fn look(&mut self) -> Result<(), Corrupt> {
        // What is written over was read before it.
        let consumer = self.memory[self.place.consumer].load(Ordering::Acquire);
        if self.next.wrapping_sub(consumer) > self.place.slots {
            return Err(Corrupt);
        }
        self.consumer = consumer;
        Ok(())
    }
}

impl<M: Deref<Target = [AtomicU32]>, const N: usize> Consumer<M, N> {
    /// Of a ring that nothing has been read from.
    ///
    /// # Panics
    /// If the ring is not within `memory`.
    pub(crate) fn new(memory: M, place: Place) -> Self {
        place.check::<N>(memory.len());
        Self { memory, place, next: 0, producer: 0 }
    }

    /// Entries to read. What the producer has written is looked up when there seem to be none.
    pub(crate) fn available(&mut self) -> Result<u32, Corrupt> {
        if self.producer == self.next {
            // Whoever sees it sees the entries.
            let producer = self.memory[self.place.producer].load(Ordering::Acquire);
            if producer.wrapping_sub(self.next) > self.place.slots {
                return Err(Corrupt);
            }
            self.producer = producer;
        }
        Ok(self.producer.wrapping_sub(self.next))
    }

    /// Reads the next entry, if there is one among those that [`available`](Self::available) saw.
    pub(crate) fn pop(&mut self) -> Option<[u32; N]> {
        if self.producer == self.next {
            return None;
        }
        let start = self.place.entry::<N>(self.next);
        let words = &self.memory[start..start + N];
        let entry = std::array::from_fn(|at| words[at].load(Ordering::Relaxed));
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives back what has been read.
    pub(crate) fn give_back(&self) {
        self.memory[self.place.consumer].store(self.next, Ordering::Release);
    }

    /// Asks to be woken by an entry, through the word at `wakeup`. True: there is one already.
    ///
    /// The producer publishes, then looks at the word. Between the two is a sequentially consistent
    /// fence on either side, so that one of them sees the other.
    pub(crate) fn ask_to_be_woken(&mut self, wakeup: usize) -> Result<bool, Corrupt> {
        self.memory[wakeup].store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(self.available()? > 0)
    }
}

impl Place {
    fn check<const N: usize>(&self, words: usize) {
        let end = self.entries + self.slots as usize * N;
        assert!(
            self.slots.is_power_of_two()
                && end.max(self.producer + 1).max(self.consumer + 1) <= words,
            "{self:?} is not within {words} words"
        );
    }

    fn entry<const N: usize>(&self, index: u32) -> usize {
        self.entries + (index & (self.slots - 1)) as usize * N
    }
}

/// Whether the word at `doorbell` says that the consumer sleeps. Called after
/// [`Producer::publish`]; the consumer sets it, then looks for entries once more.
pub(crate) fn must_ring(memory: &[AtomicU32], doorbell: usize) -> bool {
    fence(Ordering::SeqCst);
    memory[doorbell].load(Ordering::Relaxed) != 0
}
