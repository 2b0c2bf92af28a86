use std::collections::VecDeque;
use std::io;

use underpass_devices::{Buffers, Counters, Frame, Instant, RxChecksum, RxMeta, RxQueue, Wake};
use xsk_rs::{FillQueue, FrameDesc, RxQueue as Ring};

use super::socket::{Chunks, Handle};
use crate::ledger::Refused;
use crate::partial_checksum;

/// The receive half of an [`XdpDevice`](super::XdpDevice): frames are lent where the kernel or the
/// NIC wrote them.
#[derive(Debug)]
pub struct XdpRx {
    ring: Ring,
    fill: FillQueue,
    chunks: Chunks,
    socket: Handle,
    /// Descriptors of frames not yet lent, oldest first. A frame of several chunks has several.
    ready: VecDeque<FrameDesc>,
    /// Whole frames among them.
    ready_frames: usize,
    /// Descriptors of what was lent.
    lent: Vec<FrameDesc>,
    /// A frame of several chunks, in one piece.
    joined: Vec<u8>,
    scratch: Box<[FrameDesc; BURST]>,
    partial_checksums: bool,
    busy_poll: bool,
    idle_fills: u32,
    /// The error the socket reported; it reports each one once.
    gone: Option<i32>,
    frames: u64,
    bytes: u64,
    errors: u64,
}

/// What a socket receives with.
pub(super) struct Parts {
    pub(super) ring: Ring,
    pub(super) fill: FillQueue,
    pub(super) chunks: Chunks,
    pub(super) socket: Handle,
}

/// Most descriptors one `fill` takes, so that the first chunks go back before the ring runs full.
const BURST: usize = 64;
/// A polled device asks its socket for an error once in so many fills without a frame.
const IDLE_FILLS_PER_CHECK: u32 = 4096;

impl XdpRx {
    /// `partial_checksums`: they may come from this interface.
    pub(super) fn new(parts: Parts, partial_checksums: bool, busy_poll: bool) -> Self {
        let Parts { ring, fill, chunks, socket } = parts;
        let total = chunks.ledger.total();
        let mut rx = Self {
            ring,
            fill,
            socket,
            ready: VecDeque::with_capacity(total),
            ready_frames: 0,
            // Every chunk once.
            lent: chunks.descriptors.clone(),
            chunks,
            joined: Vec::new(),
            scratch: Box::new([FrameDesc::default(); BURST]),
            partial_checksums,
            busy_poll,
            idle_fills: 0,
            gone: None,
            frames: 0,
            bytes: 0,
            errors: 0,
        };
        rx.release();
        rx
    }

    /// Prepares to sleep until frames arrive: the descriptor is readable as long as the ring holds
    /// one.
    pub(super) fn wake(&mut self) -> io::Result<Wake<'_>> {
        if self.ready_frames > 0 {
            return Ok(Wake::Ready);
        }
        self.check_alive()?;
        Ok(Wake::Fd(self.socket.as_fd()))
    }

    /// What was received, beside what was `sent`.
    pub(super) fn counters(&self, sent: Counters) -> Counters {
        let kernel = self.ring.fd().xdp_statistics().unwrap_or_default();
        Counters {
            rx_frames: self.frames,
            rx_bytes: self.bytes,
            rx_overruns: kernel.rx_dropped() + kernel.rx_ring_full(),
            rx_errors: self.errors + kernel.rx_invalid_descs(),
            tx_errors: sent.tx_errors + kernel.tx_invalid_descs(),
            ..sent
        }
    }

    /// The receive chunks, beside the transmit chunks in `tx`.
    pub(super) fn buffers(&self, tx: Buffers) -> Buffers {
        Buffers {
            rx_total: self.chunks.ledger.total(),
            rx_free: self.chunks.ledger.given(),
            rx_ready: self.ready.len(),
            rx_lent: self.lent.len(),
            ..tx
        }
    }

    fn take_burst(&mut self) {
        // SAFETY: `consume` writes what the kernel said into `scratch`, and nothing is done with it
        // before `admit` has looked at it.
        let taken = unsafe { self.ring.consume(&mut self.scratch[..]) };
        for at in 0..taken.min(BURST) {
            self.admit(self.scratch[at]);
        }
    }

    /// Takes a descriptor that the kernel wrote, if it is one of a chunk of ours that it had.
    fn admit(&mut self, descriptor: FrameDesc) {
        let (address, len) = (descriptor.addr(), descriptor.lengths().data());
        match self.chunks.ledger.receive(address, len) {
            Ok(_) => {
                self.ready.push_back(descriptor);
                self.ready_frames += usize::from(!descriptor.has_more_frames());
            }
            Err(refused) => {
                self.errors += 1;
                if refused == Refused::TooLong {
                    self.lent.push(descriptor);
                }
            }
        }
    }

    /// Copies the parts of a frame into one piece.
    fn join(&mut self, mut part: FrameDesc) {
        self.joined.clear();
        loop {
            self.joined.extend_from_slice(self.chunks.bytes(&mut part));
            self.lent.push(part);
            if !part.has_more_frames() {
                return;
            }
            // A whole frame was counted, so there is a last part.
            let Some(next) = self.ready.pop_front() else {
                return;
            };
            part = next;
        }
    }

    /// An error if the interface is gone.
    fn check_alive(&mut self) -> io::Result<()> {
        if self.gone.is_none() {
            self.gone = self.socket.take_error();
        }
        self.gone.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

impl RxQueue for XdpRx {
    fn fill(&mut self, _now: Instant) -> io::Result<usize> {
        if self.ready_frames < BURST {
            self.take_burst();
        }
        if self.ready_frames > 0 {
            self.idle_fills = 0;
            return Ok(self.ready_frames);
        }
        if self.busy_poll || self.fill.needs_wakeup() {
            self.socket.kick_receive();
        }
        self.idle_fills += 1;
        if self.gone.is_some() || self.idle_fills >= IDLE_FILLS_PER_CHECK {
            self.idle_fills = 0;
            self.check_alive()?;
        }
        Ok(0)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        self.ready_frames = self.ready_frames.checked_sub(1)?;
        let first = self.ready.pop_front()?;
        let bytes = if first.has_more_frames() {
            self.join(first);
            &mut self.joined[..]
        } else {
            self.lent.push(first);
            self.chunks.bytes(self.lent.last_mut()?)
        };
        self.frames += 1;
        self.bytes += bytes.len() as u64;
        let partial = if self.partial_checksums { partial_checksum::partial(bytes) } else { None };
        let checksum = partial.map_or(RxChecksum::Unverified, RxChecksum::Partial);
        Some(Frame { bytes, meta: RxMeta { checksum, ..RxMeta::default() } })
    }

    fn release(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        // SAFETY: the chunks are of this UMEM, the kernel does not have them (`admit`), and no slice
        // of them is left: what `next` lends borrows `self`.
        let given = unsafe { self.fill.produce(&self.lent) };
        for descriptor in self.lent.drain(..given) {
            self.chunks.ledger.give(descriptor.addr());
        }
    }
}
