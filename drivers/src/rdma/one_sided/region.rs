use std::mem;
use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::adapter::{Adapter, unsuitable};
use crate::rdma::verbs::{Access, Atomics, Memory, ProtectionDomain, VerbsError};
use crate::rdma_wire::{Permissions, RemoteRegion};

/// Memory that peers read and write whenever they like, as its permissions allow.
///
/// There is no slice of it: it is copied from and to, in pieces that are words of eight bytes, or used as
/// atomic words. A copy that is made while a peer writes may hold some old words and some new ones. A peer's
/// write becomes visible in any order; what tells that it is complete is a message of the peer, or a word
/// that it writes with a later operation and that is loaded here with
/// [`Acquire`](std::sync::atomic::Ordering::Acquire).
///
/// When it is dropped, peers lose their access first.
#[derive(Debug)]
pub struct MemoryRegion {
    memory: Memory,
    domain: Arc<ProtectionDomain>,
    permissions: Permissions,
}

/// Bytes that a region does not have, or that are no word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// It ends before.
    #[error("{len} bytes at {offset} reach beyond the region, which has {region_len}")]
    OutOfBounds {
        /// Where they begin.
        offset: u64,
        /// How many they are.
        len: u64,
        /// How many it has.
        region_len: u64,
    },
    /// Atomic words begin at multiples of eight.
    #[error("{offset} is no multiple of 8, where atomic words begin")]
    Misaligned {
        /// Where it was to begin.
        offset: u64,
    },
}

const WORD: usize = size_of::<u64>();

impl MemoryRegion {
    pub(super) fn new(
        adapter: &Adapter,
        len: usize,
        permissions: Permissions,
    ) -> Result<Self, VerbsError> {
        if permissions.contains(Permissions::ATOMIC) && adapter.atomics() == Atomics::None {
            return Err(unsuitable("registering memory", "the device has no atomic operations"));
        }
        let mut access = Access::LOCAL_WRITE;
        for (permission, remote) in [
            (Permissions::READ, Access::REMOTE_READ),
            (Permissions::WRITE, Access::REMOTE_WRITE),
            (Permissions::ATOMIC, Access::REMOTE_ATOMIC),
        ] {
            if permissions.contains(permission) {
                access = access | remote;
            }
        }
        let memory = Memory::new(adapter.domain(), len, access)?;
        Ok(Self { memory, domain: Arc::clone(adapter.domain()), permissions })
    }

    /// Its bytes; never 0.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// What a peer has to know to access it. Connections tell it at their start.
    pub fn descriptor(&self) -> RemoteRegion {
        RemoteRegion {
            address: self.memory.address(),
            key: self.memory.remote_key(),
            len: self.memory.len() as u64,
            permissions: self.permissions,
        }
    }

    /// Copies the bytes from `offset` on.
    ///
    /// # Errors
    /// The region ends before `into` does; nothing was copied.
    pub fn copy_to(&self, offset: usize, into: &mut [u8]) -> Result<(), RangeError> {
        check(offset as u64, into.len() as u64, self.len() as u64)?;
        copy_out(self.words(), offset, into);
        Ok(())
    }

    /// Copies bytes to `offset`. Bytes beside them are left as they are, even if a peer writes them
    /// meanwhile.
    ///
    /// # Errors
    /// The region ends before `from` does; nothing was copied.
    pub fn copy_from(&self, offset: usize, from: &[u8]) -> Result<(), RangeError> {
        check(offset as u64, from.len() as u64, self.len() as u64)?;
        copy_in(self.words(), offset, from);
        Ok(())
    }

    /// The word of eight bytes at `offset`, in this machine's byte order.
    ///
    /// Peers' atomic operations are atomic beside those of the processor only if the device says
    /// [`Atomics::Global`]; else a counter is for the device alone to change.
    ///
    /// # Errors
    /// It is not within the region, or `offset` is no multiple of eight.
    pub fn word(&self, offset: usize) -> Result<&AtomicU64, RangeError> {
        check_word(offset as u64, self.len() as u64)?;
        Ok(&self.words()[offset / WORD])
    }

    pub(super) fn is_of(&self, domain: &Arc<ProtectionDomain>) -> bool {
        Arc::ptr_eq(&self.domain, domain)
    }

    /// All of it; the last word may reach beyond its end, into the rest of the page.
    fn words(&self) -> &[AtomicU64] {
        let count = self.len().div_ceil(WORD);
        // SAFETY: the mapping begins with a page, is made of whole pages, initialised, and lives as long as
        // `self`. This process touches it through these atomic words alone, always whole; the device and
        // its peers change it from outside, which is what the cells in atomic words are there for.
        unsafe { slice::from_raw_parts(self.memory.as_ptr().cast().as_ptr(), count) }
    }
}

/// Whether `len` bytes at `offset` are within a region.
pub(super) fn check(offset: u64, len: u64, region_len: u64) -> Result<(), RangeError> {
    let fits = offset.checked_add(len).is_some_and(|end| end <= region_len);
    if fits { Ok(()) } else { Err(RangeError::OutOfBounds { offset, len, region_len }) }
}

/// Whether an atomic word at `offset` is.
pub(super) fn check_word(offset: u64, region_len: u64) -> Result<(), RangeError> {
    check(offset, WORD as u64, region_len)?;
    if offset.is_multiple_of(WORD as u64) { Ok(()) } else { Err(RangeError::Misaligned { offset }) }
}

/// The words that `len` bytes at `offset` lie in, and which bytes of each.
fn words_of(offset: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (first, end) = (offset / WORD, offset + len);
    (first..end.div_ceil(WORD).max(first)).map(move |word| {
        let start = word * WORD;
        (word, offset.max(start) - start..end.min(start + WORD) - start)
    })
}

fn copy_out(words: &[AtomicU64], offset: usize, into: &mut [u8]) {
    let mut rest = into;
    for (word, part) in words_of(offset, rest.len()) {
        let bytes = words[word].load(Relaxed).to_ne_bytes();
        let (now, later) = mem::take(&mut rest).split_at_mut(part.len());
        now.copy_from_slice(&bytes[part]);
        rest = later;
    }
}

fn copy_in(words: &[AtomicU64], offset: usize, from: &[u8]) {
    let mut rest = from;
    for (word, part) in words_of(offset, rest.len()) {
        let (now, later) = rest.split_at(part.len());
        rest = later;
        if let Ok(whole) = now.try_into() {
            words[word].store(u64::from_ne_bytes(whole), Relaxed);
            continue;
        }
        // Somebody may be writing the bytes beside.
        let merge = |old: u64| {
            let mut bytes = old.to_ne_bytes();
            bytes[part.clone()].copy_from_slice(now);
            Some(u64::from_ne_bytes(bytes))
        };
        // It never gives up.
        let _ = words[word].fetch_update(Relaxed, Relaxed, merge);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(bytes: &[u8]) -> Vec<AtomicU64> {
        let (whole, rest) = bytes.as_chunks();
        assert!(rest.is_empty());
        whole.iter().map(|bytes| AtomicU64::new(u64::from_ne_bytes(*bytes))).collect()
    }

    #[test]
    fn what_reaches_beyond_a_region_is_refused() {
        assert_eq!(check(0, 8, 8), Ok(()));
        assert_eq!(check(8, 0, 8), Ok(()));
        for (offset, len) in [(0, 9), (8, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let error = RangeError::OutOfBounds { offset, len, region_len: 8 };
            assert_eq!(check(offset, len, 8), Err(error));
        }
        assert_eq!(check_word(8, 16), Ok(()));
        assert_eq!(check_word(4, 16), Err(RangeError::Misaligned { offset: 4 }));
        assert!(matches!(check_word(16, 20), Err(RangeError::OutOfBounds { .. })));
    }

    proptest! {
        #[test]
        fn bytes_are_copied_whatever_words_they_lie_in(
            before in proptest::collection::vec(any::<u8>(), 64),
            new in proptest::collection::vec(any::<u8>(), 0..40),
            offset in 0usize..=24,
        ) {
            let words = words(&before);
            copy_in(&words, offset, &new);
            let mut after = vec![0; 64];
            copy_out(&words, 0, &mut after);
            let mut expected = before;
            expected[offset..offset + new.len()].copy_from_slice(&new);
            prop_assert_eq!(&after, &expected);
            let mut part = vec![0; new.len()];
            copy_out(&words, offset, &mut part);
            prop_assert_eq!(part, new);
        }
    }
}
