use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use underpass_devices::{Buffers, Counters, Frame, Instant, RxQueue, Wake};

use super::ring::Ring;
use super::slot::{self, Received, Rejected};
use super::socket::PacketSocket;

/// The receive half of a [`PacketDevice`](super::PacketDevice): frames are lent where the kernel
/// wrote them, in its ring.
#[derive(Debug)]
pub struct PacketRx {
    ring: Ring,
    socket: Arc<PacketSocket>,
    /// The slot where the next frame will arrive.
    head: usize,
    /// Slots with frames not yet lent, oldest first.
    ready: VecDeque<(usize, Received)>,
    /// Slots lent, oldest first.
    lent: Vec<usize>,
    idle_fills: u32,
    /// The error the socket reported; it reports each one once.
    gone: Option<i32>,
    frames: u64,
    bytes: u64,
    errors: u64,
    overruns: Cell<u64>,
}

/// Most frames one `fill` takes, so that the first slots go back before the ring runs full.
const BURST: usize = 64;
/// A polled device asks its socket for an error once in so many fills without a frame.
const IDLE_FILLS_PER_CHECK: u32 = 256;

impl PacketRx {
    pub(super) fn new(socket: Arc<PacketSocket>, slots: usize) -> io::Result<Self> {
        let ring = Ring::new(&socket, slots)?;
        Ok(Self {
            socket,
            head: 0,
            ready: VecDeque::with_capacity(BURST),
            lent: Vec::with_capacity(ring.slots()),
            ring,
            idle_fills: 0,
            gone: None,
            frames: 0,
            bytes: 0,
            errors: 0,
            overruns: Cell::new(0),
        })
    }

    /// Forgets what has arrived, as if the socket were new.
    pub(super) fn discard(&mut self) {
        for _ in 0..self.ring.slots().div_ceil(BURST) {
            self.take_burst();
            for (index, _) in self.ready.drain(..) {
                self.ring.give_back(index);
            }
        }
    }

    /// Prepares to sleep until frames arrive.
    pub(super) fn wake(&mut self) -> io::Result<Wake<'_>> {
        if !self.ready.is_empty() || (self.head_is_unseen() && self.ring.is_ready(self.head)) {
            return Ok(Wake::Ready);
        }
        self.check_alive()?;
        Ok(Wake::Fd(self.socket.as_fd()))
    }

    /// An error if the interface went down or was removed.
    fn check_alive(&mut self) -> io::Result<()> {
        if self.gone.is_none() {
            self.gone = self.socket.take_error().err().and_then(|e| e.raw_os_error());
        }
        self.gone.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// What was received, beside what was `sent`.
    pub(super) fn counters(&self, sent: Counters) -> Counters {
        self.count_overruns();
        Counters {
            rx_frames: self.frames,
            rx_bytes: self.bytes,
            rx_overruns: self.overruns.get(),
            rx_errors: self.errors,
            ..sent
        }
    }

    /// The receive slots, beside the transmit slots in `tx`.
    pub(super) fn buffers(&self, tx: Buffers) -> Buffers {
        let (total, ready, lent) = (self.ring.slots(), self.ready.len(), self.lent.len());
        Buffers {
            rx_total: total,
            rx_free: total - ready - lent,
            rx_ready: ready,
            rx_lent: lent,
            ..tx
        }
    }

    fn take_burst(&mut self) {
        let mut losing = false;
        while self.ready.len() < BURST && self.head_is_unseen() {
            let index = self.head;
            let Some((bytes, dropped_others)) = self.ring.take(index) else {
                break;
            };
            losing |= dropped_others;
            match slot::read(bytes) {
                Ok(received) => self.ready.push_back((index, received)),
                Err(rejected) => {
                    self.errors += u64::from(rejected == Rejected::Malformed);
                    self.ring.give_back(index);
                }
            }
            self.head = if index + 1 == self.ring.slots() { 0 } else { index + 1 };
        }
        if losing {
            self.count_overruns();
        }
    }

    /// Whether the slot at the head is one that we do not hold already: the head may have come
    /// round to the oldest slot that is not released.
    fn head_is_unseen(&self) -> bool {
        let oldest = self.lent.first().or_else(|| self.ready.front().map(|(index, _)| index));
        oldest != Some(&self.head)
    }

    fn count_overruns(&self) {
        if let Ok(drops) = self.socket.take_drops() {
            self.overruns.set(self.overruns.get() + u64::from(drops));
        }
    }
}

impl RxQueue for PacketRx {
    fn fill(&mut self, _now: Instant) -> io::Result<usize> {
        self.take_burst();
        if !self.ready.is_empty() {
            self.idle_fills = 0;
        } else if self.gone.is_some() || self.idle_fills >= IDLE_FILLS_PER_CHECK {
            self.idle_fills = 0;
            self.check_alive()?;
        } else {
            self.idle_fills += 1;
        }
        Ok(self.ready.len())
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let (index, Received { start, len, meta }) = self.ready.pop_front()?;
        self.lent.push(index);
        self.frames += 1;
        self.bytes += len as u64;
        let (slot, _) = self.ring.take(index)?;
        let bytes = slot.get_mut(start..start + len)?;
        Some(Frame { bytes, meta })
    }

    fn release(&mut self) {
        for index in self.lent.drain(..) {
            self.ring.give_back(index);
        }
    }
}
