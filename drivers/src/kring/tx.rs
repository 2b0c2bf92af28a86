use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use underpass_devices::{Buffers, Caps, Counters, Instant, SendError, TxMeta, TxQueue};

use super::area::{Area, Words};
use super::control::Control;
use super::frames::Frames;
use super::ring::{Consumer, Corrupt, Producer, must_ring};
use super::rx::broken;
use super::uapi::{FRAME_WORDS, word};
use crate::vnet_hdr;

/// The transmit half of a [`KringDevice`](super::KringDevice): frames are sent from where they were
/// written.
#[derive(Debug)]
pub struct KringTx {
    slots: Slots,
    control: Arc<Control>,
    /// The module did not take all that it was given.
    stalled: bool,
}

impl KringTx {
    pub(super) fn new(area: &Arc<Area>, caps: Caps, control: Arc<Control>) -> Self {
        Self { slots: Slots::new(area, caps), control, stalled: false }
    }

    /// Whether frames wait that the module did not take, or for one that it still has: nothing calls
    /// when it does.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled || self.slots.room() == 0
    }

    /// What was sent, as far as it is known here.
    pub(super) fn counters(&self) -> Counters {
        self.slots.counters
    }

    /// The transmit frames.
    pub(super) fn buffers(&self) -> Buffers {
        self.slots.buffers()
    }
}

impl TxQueue for KringTx {
    fn room(&self) -> usize {
        self.slots.room()
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        self.slots.send(len, &meta, write)
    }

    fn flush(&mut self, _now: Instant) -> io::Result<()> {
        self.stalled = false;
        if self.slots.publish().map_err(broken)? {
            match self.control.ring_doorbell() {
                // Out of memory, or interrupted by a signal: what is left goes with the next flush.
                Ok(()) | Err(Errno::NOMEM | Errno::AGAIN | Errno::INTR) => {
                    self.stalled = self.slots.waits_for_doorbell().map_err(broken)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.slots.reap().map_err(broken)
    }
}

/// The transmit frames and their rings. It makes no system call.
#[derive(Debug)]
pub(super) struct Slots {
    words: Words,
    ring: Producer<Words, FRAME_WORDS>,
    completions: Consumer<Words, 1>,
    frames: Frames,
    /// Numbers of the frames that can be lent.
    free: Vec<u32>,
    caps: Caps,
    pub(super) counters: Counters,
}

impl Slots {
    pub(super) fn new(area: &Arc<Area>, caps: Caps) -> Self {
        let words = Words(Arc::clone(area));
        let frames = Frames::for_sending(Arc::clone(area));
        Self {
            ring: Producer::new(words.clone(), area.tx_ring()),
            completions: Consumer::new(words.clone(), area.completion_ring()),
            words,
            // The first ones are used first, and again while they are warm in the cache.
            free: frames.numbers().rev().collect(),
            frames,
            caps,
            counters: Counters::default(),
        }
    }

    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    pub(super) fn buffers(&self) -> Buffers {
        let (total, free) = (self.frames.total(), self.free.len());
        Buffers { tx_total: total, tx_free: free, tx_busy: total - free, ..Buffers::default() }
    }

    pub(super) fn send<R>(
        &mut self,
        len: usize,
        meta: &TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        if !self.caps.takes(len, meta) {
            self.counters.tx_unsupported += 1;
            return Err(SendError::Unsupported);
        }
        // A place in the ring is free before its frame is, unless the module lies.
        let has_place = self.ring.room().is_ok_and(|room| room > 0);
        let Some(number) = self.free.pop_if(|_| has_place) else {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        };
        let value = write(self.frames.bytes(number, len));
        self.frames.give(number);
        self.ring.push(entry(number, len, meta));
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        Ok(value)
    }

    /// Shows the module what was queued. True: it has to be called.
    pub(super) fn publish(&mut self) -> Result<bool, Corrupt> {
        // Frames that wait for nothing but their completion are the module's.
        if self.frames.given() == 0 {
            return Ok(false);
        }
        self.ring.publish();
        self.waits_for_doorbell()
    }

    /// Whether the module sleeps with frames in the ring.
    pub(super) fn waits_for_doorbell(&mut self) -> Result<bool, Corrupt> {
        Ok(self.ring.waiting()? > 0 && must_ring(&self.words, word::TX_DOORBELL))
    }

    /// Takes back the frames that were sent.
    pub(super) fn reap(&mut self) -> Result<(), Corrupt> {
        let mut taken = false;
        while self.completions.available()? > 0 {
            let Some([number]) = self.completions.pop() else { break };
            taken = true;
            if self.frames.take_back(number) {
                self.free.push(number);
            }
        }
        if taken {
            self.completions.give_back();
        }
        Ok(())
    }
}

/// `struct underpass_ring_frame`
fn entry(number: u32, len: usize, meta: &TxMeta) -> [u32; FRAME_WORDS] {
    let mut known = [0; 4 * (FRAME_WORDS - 2)];
    known[..vnet_hdr::LEN].copy_from_slice(&vnet_hdr::encode(meta));
    let (words, _) = known.as_chunks::<4>();
    let mut entry = [number, len as u32, 0, 0, 0];
    for (word, bytes) in entry[2..].iter_mut().zip(words) {
        *word = u32::from_ne_bytes(*bytes);
    }
    entry
}
