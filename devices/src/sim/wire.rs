//! One direction of a simulated link.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{LinkConfig, LinkStats};
use crate::segment::{Malformed, complete_checksum, segment};
use crate::{Instant, RxChecksum, RxMeta, TxMeta};

/// Buffers kept for reuse.
const SPARE_BUFFERS: usize = 256;

#[derive(Debug)]
pub(super) struct Wire {
    config: LinkConfig,
    rng: ChaCha8Rng,
    /// The next to arrive is the greatest.
    in_flight: BinaryHeap<Reverse<InFlight>>,
    /// Frames that are not serialised yet: when each will be, and its bytes.
    queue: VecDeque<(Instant, usize)>,
    queued_bytes: usize,
    last_arrival: Instant,
    order: u64,
    spare: Vec<Vec<u8>>,
    pub(super) stats: LinkStats,
    pub(super) sender_gone: bool,
    pub(super) receiver_gone: bool,
}

/// A frame between the ends, or arrived. Ordered by arrival, then by order of sending.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InFlight {
    arrival: Instant,
    order: u64,
    /// The sending device computed the checksum, and nothing happened to it since.
    valid: bool,
    pub(super) bytes: Vec<u8>,
}

impl InFlight {
    pub(super) fn meta(&self) -> RxMeta {
        RxMeta {
            checksum: if self.valid { RxChecksum::Valid } else { RxChecksum::Unverified },
            timestamp: Some(self.arrival),
            ..RxMeta::default()
        }
    }
}

impl Wire {
    pub(super) fn new(config: LinkConfig, direction: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(direction);
        Self {
            config,
            rng,
            in_flight: BinaryHeap::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            last_arrival: Instant::ZERO,
            order: 0,
            spare: Vec::new(),
            stats: LinkStats::default(),
            sender_gone: false,
            receiver_gone: false,
        }
    }

    pub(super) fn set_loss(&mut self, loss: f64) {
        self.config.loss = loss;
    }

    /// What a NIC does: carries out the offload requests, and sends the result.
    pub(super) fn send(
        &mut self,
        now: Instant,
        frame: &mut [u8],
        meta: TxMeta,
    ) -> Result<(), Malformed> {
        match (meta.segmentation, meta.checksum) {
            (Some(cut), Some(partial)) => {
                segment(frame, cut, partial, |bytes| self.transmit(now, bytes, true))?;
            }
            (None, Some(partial)) => {
                complete_checksum(frame, partial)?;
                self.transmit(now, frame, true);
            }
            (_, None) => self.transmit(now, frame, false),
        }
        Ok(())
    }

    /// The next frame that has arrived by `now`.
    pub(super) fn receive(&mut self, now: Instant) -> Option<InFlight> {
        let next = self.in_flight.peek_mut()?;
        if next.0.arrival > now {
            return None;
        }
        self.stats.delivered += 1;
        let Reverse(frame) = std::collections::binary_heap::PeekMut::pop(next);
        Some(frame)
    }

    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.peek().map(|Reverse(frame)| frame.arrival)
    }

    /// An empty buffer.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Puts one wire frame on the link, or loses it.
    fn transmit(&mut self, now: Instant, bytes: &[u8], valid: bool) {
        self.stats.sent += 1;
        let Some(serialised) = self.serialise(now, bytes.len()) else {
            self.stats.queue_dropped += 1;
            return;
        };
        if self.happens(self.config.loss) {
            self.stats.lost += 1;
            return;
        }
        let arrival = self.arrival(serialised);
        let copies = if self.happens(self.config.duplicate) { 2 } else { 1 };
        self.stats.duplicated += copies - 1;
        for _ in 0..copies {
            let mut copy = self.buffer();
            copy.extend_from_slice(bytes);
            let corrupted = self.happens(self.config.corrupt) && self.corrupt(&mut copy);
            self.order += 1;
            let valid = valid && !corrupted;
            let frame = InFlight { arrival, order: self.order, valid, bytes: copy };
            self.in_flight.push(Reverse(frame));
        }
    }

    /// When the last bit of a frame of `len` bytes is sent; `None` if the queue is full.
    fn serialise(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate) = self.config.rate_bits_per_s else {
            return Some(now);
        };
        while let Some((done, len)) = self.queue.front().copied()
            && done <= now
        {
            self.queue.pop_front();
            self.queued_bytes -= len;
        }
        let start = match self.queue.back() {
            Some(_) if self.queued_bytes.saturating_add(len) > self.config.queue_bytes => {
                return None;
            }
            Some((done, _)) => *done,
            None => now,
        };
        let nanos = (len as u128 * 8_000_000_000).div_ceil(u128::from(rate.max(1)));
        let done = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.queue.push_back((done, len));
        self.queued_bytes += len;
        Some(done)
    }

    fn arrival(&mut self, serialised: Instant) -> Instant {
        let jitter = self.at_most(self.config.jitter);
        let due = serialised + self.config.delay + jitter;
        let arrival = due.max(self.last_arrival);
        if self.happens(self.config.reorder) {
            self.stats.reordered += 1;
            let hold = self.config.delay.max(Duration::from_millis(1));
            return arrival + self.at_most(hold);
        }
        self.last_arrival = arrival;
        arrival
    }

    fn corrupt(&mut self, bytes: &mut [u8]) -> bool {
        let bit = self.rng.random_range(0..bytes.len().max(1) * 8);
        let Some(byte) = bytes.get_mut(bit / 8) else {
            return false;
        };
        *byte ^= 1 << (bit % 8);
        self.stats.corrupted += 1;
        true
    }

    fn happens(&mut self, probability: f64) -> bool {
        // One draw whatever the probability: a change of one impairment leaves the others' events.
        self.rng.random::<f64>() < probability
    }

    fn at_most(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.random::<f64>())
    }
}
