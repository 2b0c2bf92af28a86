use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::slice;
use std::sync::Arc;

use crate::rdma::verbs::{Memory, ProtectionDomain};

/// Memory for operations, which no peer can reach.
///
/// An operation takes it and [`Finished`](super::Finished) gives it back.
pub struct Buffer {
    memory: Arc<Memory>,
    domain: Arc<ProtectionDomain>,
    range: Range<usize>,
}

impl Buffer {
    /// A part of `memory`, which peers may not access and of which nobody has this part already: of each
    /// range there is one buffer for as long as the memory lives.
    pub(super) fn new(
        memory: &Arc<Memory>,
        domain: &Arc<ProtectionDomain>,
        range: Range<usize>,
    ) -> Self {
        assert!(range.start <= range.end && range.end <= memory.len(), "within the memory");
        Self { memory: Arc::clone(memory), domain: Arc::clone(domain), range }
    }

    /// Where a part of it is in its memory; `None`: it is not within it.
    pub(super) fn place(&self, part: &Range<usize>) -> Option<Range<usize>> {
        let fits = part.start <= part.end && part.end <= self.range.len();
        fits.then(|| self.range.start + part.start..self.range.start + part.end)
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn is_of(&self, domain: &Arc<ProtectionDomain>) -> bool {
        Arc::ptr_eq(&self.domain, domain)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is within the memory, which lives and is initialised. Nobody writes to it: no
        // other buffer has these bytes, the device writes to those of operations, whose buffers the
        // connection keeps to itself, and peers have no access.
        unsafe {
            let start = self.memory.as_ptr().add(self.range.start);
            slice::from_raw_parts(start.as_ptr(), self.range.len())
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this buffer is borrowed alone: nobody reads them either.
        unsafe {
            let start = self.memory.as_ptr().add(self.range.start);
            slice::from_raw_parts_mut(start.as_ptr(), self.range.len())
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len()).finish_non_exhaustive()
    }
}
