//! Memory for bodies: cells that are counted, and buffers that are used again.

/// Bytes of a cell, the unit of credit.
pub(super) const CELL: usize = 256;
/// Buffers of 256 bytes to 64 KiB are kept, one class per power of two.
const CLASSES: usize = 9;

/// Cells of a body of this length: the smallest power of two that holds it. Both ends have to
/// reckon alike.
pub(super) fn cells(len: usize) -> u32 {
    (len.next_power_of_two().max(CELL) / CELL) as u32
}

/// A number of cells from which all sessions take.
#[derive(Debug)]
pub(super) struct Budget {
    all: usize,
    free: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { all: bytes / CELL, free: bytes / CELL }
    }

    /// Takes all of `cells` or nothing.
    pub(super) fn take(&mut self, cells: u32) -> bool {
        match self.free.checked_sub(cells as usize) {
            Some(left) => {
                self.free = left;
                true
            }
            None => false,
        }
    }

    pub(super) fn give(&mut self, cells: u32) {
        self.free = (self.free + cells as usize).min(self.all);
    }

    /// More than a quarter is free.
    pub(super) fn ample(&self) -> bool {
        self.free > self.all / 4
    }

    /// Less than an eighth is free.
    pub(super) fn scarce(&self) -> bool {
        self.free < self.all / 8
    }

    pub(super) fn used(&self) -> usize {
        (self.all - self.free) * CELL
    }
}

/// Buffers that are not in use.
#[derive(Debug)]
pub(super) struct Pool {
    classes: [Vec<Vec<u8>>; CLASSES],
    bytes: usize,
    limit: usize,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self { classes: Default::default(), bytes: 0, limit }
    }

    /// An empty buffer with room for `len` bytes, and for no more than its cells hold.
    pub(super) fn take(&mut self, len: usize) -> Vec<u8> {
        let size = cells(len) as usize * CELL;
        let class = (size / CELL).trailing_zeros() as usize;
        match self.classes.get_mut(class).and_then(Vec::pop) {
            Some(buffer) => {
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(size),
        }
    }

    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        // A buffer of the application's may be of any size. One that is larger than its class would
        // make a body take more than was counted for it.
        if capacity < CELL || !capacity.is_power_of_two() || self.bytes + capacity > self.limit {
            return;
        }
        let class = (capacity / CELL).trailing_zeros() as usize;
        if let Some(class) = self.classes.get_mut(class) {
            buffer.clear();
            self.bytes += capacity;
            class.push(buffer);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_what_its_cells_say() {
        let mut pool = Pool::new(1 << 20);
        for len in [0, 1, 255, 256, 257, 1400, 65_536, 65_537, 300_000] {
            assert!(cells(len) as usize * CELL >= len);
            let buffer = pool.take(len);
            assert!(buffer.is_empty() && buffer.capacity() >= len);
            pool.give(buffer);
            assert!(pool.take(len).capacity() >= len);
        }
        assert_eq!(pool.bytes(), 0);
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let mut pool = Pool::new(1000);
        for _ in 0..10 {
            pool.give(Vec::with_capacity(256));
        }
        assert_eq!(pool.bytes(), 768);
        pool.give(Vec::with_capacity(100));
        assert_eq!(pool.bytes(), 768);
    }
}
