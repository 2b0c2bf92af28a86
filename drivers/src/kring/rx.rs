use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use underpass_devices::{Buffers, Counters, Frame, Instant, RxMeta, RxQueue};

use super::area::{Area, Words};
use super::frames::Frames;
use super::ring::{Consumer, Corrupt, Producer};
use super::uapi::{FRAME_WORDS, state, word};
use crate::ledger::Refused;
use crate::vnet_hdr;

/// The receive half of a [`KringDevice`](super::KringDevice): frames are lent where the module has
/// copied them to. It makes no system call.
#[derive(Debug)]
pub struct KringRx {
    words: Words,
    ring: Consumer<Words, FRAME_WORDS>,
    fill: Producer<Words, 1>,
    frames: Frames,
    /// Received and not yet lent, oldest first.
    ready: VecDeque<Received>,
    /// Numbers of the frames that were lent, or that came with nonsense.
    lent: Vec<u32>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Received {
    number: u32,
    len: usize,
    meta: RxMeta,
}

/// Most frames one `fill` takes, so that the first ones go back before the ring runs full.
const BURST: usize = 64;
const ETHERNET_HEADER_LEN: usize = 14;

impl KringRx {
    /// Gives all receive frames of `area` to the module.
    pub(super) fn new(area: &Arc<Area>) -> Self {
        let words = Words(Arc::clone(area));
        let frames = Frames::for_receiving(Arc::clone(area));
        let mut rx = Self {
            ring: Consumer::new(words.clone(), area.rx_ring()),
            fill: Producer::new(words.clone(), area.fill_ring()),
            words,
            ready: VecDeque::with_capacity(frames.total()),
            lent: frames.numbers().collect(),
            frames,
            counters: Counters::default(),
        };
        rx.release();
        rx
    }

    /// Prepares to sleep. True: frames are there already.
    pub(super) fn is_ready(&mut self) -> io::Result<bool> {
        if !self.ready.is_empty() || self.ring.ask_to_be_woken(word::RX_WAKEUP).map_err(broken)? {
            return Ok(true);
        }
        self.check_alive()?;
        Ok(false)
    }

    /// What was received, as far as it is known here.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The receive frames, beside the transmit frames in `tx`.
    pub(super) fn buffers(&self, tx: Buffers) -> Buffers {
        Buffers {
            rx_total: self.frames.total(),
            rx_free: self.frames.given(),
            rx_ready: self.ready.len(),
            rx_lent: self.lent.len(),
            ..tx
        }
    }

    fn take_burst(&mut self) -> Result<(), Corrupt> {
        let mut taken = 0;
        while taken < BURST && self.ring.available()? > 0 {
            let Some(entry) = self.ring.pop() else { break };
            self.admit(entry);
            taken += 1;
        }
        if taken > 0 {
            self.ring.give_back();
        }
        Ok(())
    }

    /// Takes what an entry names, if it is a frame that the module had.
    fn admit(&mut self, [number, len, known @ ..]: [u32; FRAME_WORDS]) {
        let len = len as usize;
        let meta = match self.frames.receive(number, len) {
            Ok(()) if len < ETHERNET_HEADER_LEN => None,
            Ok(()) => vnet_hdr::decode(header(known), len).ok(),
            Err(Refused::TooLong) => None,
            Err(Refused::NotGiven) => {
                self.counters.rx_errors += 1;
                return;
            }
        };
        match meta {
            Some(meta) => self.ready.push_back(Received { number, len, meta }),
            None => {
                self.counters.rx_errors += 1;
                self.lent.push(number);
            }
        }
    }

    /// An error if the interface is down or gone.
    fn check_alive(&self) -> io::Result<()> {
        let errno = match self.words[word::STATE].load(Ordering::Relaxed) {
            state::DOWN => libc::ENETDOWN,
            state::GONE => libc::ENODEV,
            _ => return Ok(()),
        };
        Err(io::Error::from_raw_os_error(errno))
    }
}

/// The `virtio_net_hdr` in the last words of an entry.
fn header(words: [u32; FRAME_WORDS - 2]) -> [u8; vnet_hdr::LEN] {
    let bytes = words.map(u32::to_ne_bytes);
    std::array::from_fn(|at| bytes.as_flattened()[at])
}

pub(super) fn broken(corrupt: Corrupt) -> io::Error {
    io::Error::other(corrupt)
}

impl RxQueue for KringRx {
    fn fill(&mut self, _now: Instant) -> io::Result<usize> {
        if self.ready.len() < BURST {
            self.take_burst().map_err(broken)?;
        }
        if self.ready.is_empty() {
            self.check_alive()?;
        }
        Ok(self.ready.len())
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let Received { number, len, meta } = self.ready.pop_front()?;
        self.lent.push(number);
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += len as u64;
        Some(Frame { bytes: self.frames.bytes(number, len), meta })
    }

    fn release(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        // There is room for all of them, unless the module lies.
        let given = self.lent.iter().take_while(|number| self.fill.push([**number])).count();
        for number in self.lent.drain(..given) {
            self.frames.give(number);
        }
        self.fill.publish();
    }
}
