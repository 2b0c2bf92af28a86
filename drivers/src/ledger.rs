//! Which chunks of a ring the kernel, or a device, has. It tells by their addresses which ones it gives
//! back; nothing it says is believed without a look at this.

/// The chunks of one direction of one queue, which lie side by side in the UMEM.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Where the first one begins, in bytes from the start of the UMEM.
    start: usize,
    chunk_len: usize,
    with_kernel: Vec<bool>,
    /// How many of them are true.
    given: usize,
}

/// Why a descriptor that came with a frame is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It names no chunk of ours that the kernel had.
    NotGiven,
    /// Its bytes go beyond its chunk, which is ours again.
    TooLong,
}

impl Ledger {
    /// `count` chunks of `chunk_len` bytes from `start` on, all of them ours.
    pub(crate) fn new(start: usize, chunk_len: usize, count: usize) -> Self {
        Self { start, chunk_len, with_kernel: vec![false; count], given: 0 }
    }

    /// Chunks in all.
    pub(crate) fn total(&self) -> usize {
        self.with_kernel.len()
    }

    /// Chunks that the kernel has.
    pub(crate) fn given(&self) -> usize {
        self.given
    }

    /// The number of the chunk that holds `address`, if it is one of these.
    #[cfg(any(feature = "rdma", feature = "fuzzing"))]
    pub(crate) fn number(&self, address: usize) -> Option<usize> {
        self.index(address)
    }

    /// Whether the kernel has the chunk that holds `address`.
    #[cfg(feature = "kring")]
    pub(crate) fn is_given(&self, address: usize) -> bool {
        self.index(address).is_some_and(|index| self.with_kernel[index])
    }

    /// The chunk that holds `address` goes to the kernel.
    pub(crate) fn give(&mut self, address: usize) {
        if let Some(held) = self.index(address).and_then(|index| self.with_kernel.get_mut(index))
            && !*held
        {
            *held = true;
            self.given += 1;
        }
    }

    /// The kernel says that it gives the chunk that holds `address` back. Its number, if it is one of
    /// these and the kernel had it.
    pub(crate) fn take_back(&mut self, address: usize) -> Option<usize> {
        let index = self.index(address)?;
        let held = self.with_kernel.get_mut(index)?;
        if !std::mem::take(held) {
            return None;
        }
        self.given -= 1;
        Some(index)
    }

    /// The kernel says that it has put `len` bytes at `address`. The number of their chunk.
    pub(crate) fn receive(&mut self, address: usize, len: usize) -> Result<usize, Refused> {
        let index = self.take_back(address).ok_or(Refused::NotGiven)?;
        if self.fits(address, len) { Ok(index) } else { Err(Refused::TooLong) }
    }

    /// Whether `len` bytes from `address` on lie in one chunk.
    pub(crate) fn fits(&self, address: usize, len: usize) -> bool {
        let Some(offset) = address.checked_sub(self.start) else {
            return false;
        };
        len <= self.chunk_len - offset % self.chunk_len
    }

    fn index(&self, address: usize) -> Option<usize> {
        let index = address.checked_sub(self.start)? / self.chunk_len;
        (index < self.total()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_comes_back_once_and_only_if_it_was_given() {
        let mut ledger = Ledger::new(8192, 2048, 4);
        assert_eq!(ledger.take_back(8192), None, "not given");
        ledger.give(8192 + 2048 + 256);
        ledger.give(8192 + 2048);
        assert_eq!(ledger.given(), 1);
        assert_eq!(ledger.take_back(8192 + 4095), Some(1));
        assert_eq!(ledger.take_back(8192 + 4095), None, "twice");
        assert_eq!(ledger.given(), 0);
    }

    proptest! {
        /// Whatever the kernel writes, what is taken back lies in a chunk of ours, and the sums hold.
        #[test]
        fn nothing_leads_outside(calls: Vec<(bool, u16, u16)>) {
            let (start, chunk_len, count) = (4096, 2048, 7);
            let mut ledger = Ledger::new(start, chunk_len, count);
            let mut with_kernel = vec![false; count];
            for (give, address, len) in calls {
                let (address, len) = (usize::from(address), usize::from(len));
                let index = address.checked_sub(start).map(|at| at / chunk_len);
                if ledger.fits(address, len) {
                    let index = index.unwrap();
                    prop_assert!(address + len <= start + (index + 1) * chunk_len);
                }
                let ours = index.filter(|index| *index < count);
                if give {
                    ledger.give(address);
                    if let Some(index) = ours {
                        with_kernel[index] = true;
                    }
                } else {
                    let expected = ours.filter(|index| std::mem::take(&mut with_kernel[*index]));
                    prop_assert_eq!(ledger.take_back(address), expected);
                }
                prop_assert_eq!(ledger.given(), with_kernel.iter().filter(|held| **held).count());
            }
        }
    }
}
