//! The frames of one direction, and whose they are.

use std::sync::Arc;

use super::area::Area;
use crate::ledger::{Ledger, Refused};

/// Frames `first` to `first + count - 1` of an area: what of them the module does not have is ours.
#[derive(Debug)]
pub(super) struct Frames {
    area: Arc<Area>,
    first: u32,
    ledger: Ledger,
}

impl Frames {
    /// Those to receive into, all of them ours.
    pub(super) fn for_receiving(area: Arc<Area>) -> Self {
        let count = area.rx_slots();
        Self::new(area, 0, count)
    }

    /// Those to send from, all of them ours.
    pub(super) fn for_sending(area: Arc<Area>) -> Self {
        let (first, count) = (area.rx_slots(), area.tx_slots());
        Self::new(area, first, count)
    }

    fn new(area: Arc<Area>, first: u32, count: u32) -> Self {
        let len = area.frame_len();
        let ledger = Ledger::new(first as usize * len, len, count as usize);
        Self { area, first, ledger }
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.total() as u32
    }

    /// Frames in all.
    pub(super) fn total(&self) -> usize {
        self.ledger.total()
    }

    /// Frames that the module has.
    pub(super) fn given(&self) -> usize {
        self.ledger.given()
    }

    /// The frame goes to the module.
    pub(super) fn give(&mut self, number: u32) {
        self.ledger.give(self.address(number));
    }

    /// The module says that it gives the frame back. False: it did not have it.
    pub(super) fn take_back(&mut self, number: u32) -> bool {
        self.ledger.take_back(self.address(number)).is_some()
    }

    /// The module says that it gives the frame back with `len` bytes in it.
    pub(super) fn receive(&mut self, number: u32, len: usize) -> Result<(), Refused> {
        self.ledger.receive(self.address(number), len).map(drop)
    }

    /// The first `len` bytes of a frame of ours. Nothing, if it is not.
    pub(super) fn bytes(&mut self, number: u32, len: usize) -> &mut [u8] {
        if !self.numbers().contains(&number) || self.ledger.is_given(self.address(number)) {
            return &mut [];
        }
        // SAFETY: the frame is of these, which belong to this value alone; the module does not have
        // it, and `&mut self` keeps every other slice away.
        unsafe { self.area.bytes(number, len) }
    }

    fn address(&self, number: u32) -> usize {
        number as usize * self.area.frame_len()
    }
}
