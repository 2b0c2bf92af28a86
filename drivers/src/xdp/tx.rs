use std::io;

use rustix::io::Errno;
use underpass_devices::{Buffers, Caps, Counters, Instant, SendError, TxMeta, TxQueue};
use xsk_rs::{CompQueue, FrameDesc, TxQueue as Ring};

use super::socket::{Chunks, Handle};

/// The transmit half of an [`XdpDevice`](super::XdpDevice): frames are written where the kernel or
/// the NIC takes them.
#[derive(Debug)]
pub struct XdpTx {
    ring: Ring,
    completions: CompQueue,
    chunks: Chunks,
    socket: Handle,
    caps: Caps,
    zero_copy: bool,
    /// Bytes of a frame that one chunk holds.
    chunk_room: usize,
    /// Chunks that the longest frame takes.
    chunks_per_frame: usize,
    /// Numbers of the chunks that can be lent.
    free: Vec<usize>,
    /// Written, not yet in the ring.
    written: Vec<FrameDesc>,
    /// A frame of several chunks, in one piece.
    joined: Vec<u8>,
    scratch: Box<[FrameDesc; BURST]>,
    stalled: bool,
    counters: Counters,
}

/// What a socket sends with.
pub(super) struct Parts {
    pub(super) ring: Ring,
    pub(super) completions: CompQueue,
    pub(super) chunks: Chunks,
    pub(super) socket: Handle,
    /// Bytes of a frame that one chunk holds.
    pub(super) chunk_room: usize,
}

/// Completions taken at a time.
const BURST: usize = 64;
/// Another descriptor of the same frame follows (`linux/if_xdp.h`).
const XDP_PKT_CONTD: u32 = 1;

impl XdpTx {
    pub(super) fn new(parts: Parts, caps: Caps, zero_copy: bool) -> Self {
        let Parts { ring, completions, chunks, socket, chunk_room } = parts;
        let total = chunks.ledger.total();
        Self {
            ring,
            completions,
            socket,
            zero_copy,
            chunk_room,
            chunks_per_frame: caps.max_tx_frame().div_ceil(chunk_room),
            caps,
            // The first ones are used first, and again while they are warm in the cache.
            free: (0..total).rev().collect(),
            written: Vec::with_capacity(total),
            chunks,
            joined: Vec::new(),
            scratch: Box::new([FrameDesc::default(); BURST]),
            stalled: false,
            counters: Counters::default(),
        }
    }

    /// Whether frames wait that the kernel did not take, or for a chunk that it still has: nothing
    /// calls when it does.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled || self.room() == 0
    }

    /// What was sent.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The transmit slots, of as many chunks as the longest frame takes.
    pub(super) fn buffers(&self) -> Buffers {
        let total = self.chunks.ledger.total() / self.chunks_per_frame;
        let free = self.room();
        Buffers { tx_total: total, tx_free: free, tx_busy: total - free, ..Buffers::default() }
    }

    /// The next chunk, for `len` bytes.
    fn take_chunk(&mut self, len: usize) -> Option<FrameDesc> {
        let index = self.free.pop()?;
        let mut descriptor = *self.chunks.descriptors.get(index)?;
        self.chunks.set_len(&mut descriptor, len);
        Some(descriptor)
    }

    /// Cuts the frame in `joined` over several chunks.
    fn scatter(&mut self) {
        let joined = std::mem::take(&mut self.joined);
        let mut parts = joined.chunks(self.chunk_room).peekable();
        while let Some(part) = parts.next() {
            let Some(mut descriptor) = self.take_chunk(part.len()) else {
                break;
            };
            self.chunks.bytes(&mut descriptor).copy_from_slice(part);
            descriptor.set_options(if parts.peek().is_some() { XDP_PKT_CONTD } else { 0 });
            self.written.push(descriptor);
        }
        self.joined = joined;
    }

    /// Puts what was written into the ring.
    fn hand_over(&mut self) {
        // SAFETY: the chunks are of this UMEM and were taken out of `free`, so nobody else has them;
        // no slice of them is left, for `write` got it for the time of its call.
        let taken = unsafe { self.ring.produce(&self.written) };
        for descriptor in self.written.drain(..taken) {
            self.chunks.ledger.give(descriptor.addr());
        }
    }

    /// Has the kernel send what is in the ring. It takes some 32 frames a call.
    fn kick(&mut self) -> io::Result<()> {
        self.stalled = !self.written.is_empty();
        let mut waiting = self.waiting();
        while waiting > 0 && self.ring.needs_wakeup() {
            match self.socket.kick_send() {
                // Or more are left than one call takes, or the interface's queue is full.
                Ok(()) | Err(Errno::AGAIN) => {}
                // In copy mode: this one was dropped, the others still go.
                Err(Errno::BUSY) if !self.zero_copy => self.counters.tx_errors += 1,
                Err(Errno::BUSY | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => {
                    self.stalled = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            let left = self.waiting();
            if left >= waiting {
                self.stalled = true;
                return Ok(());
            }
            waiting = left;
        }
        Ok(())
    }

    /// Descriptors in the ring that the kernel has not taken.
    fn waiting(&mut self) -> usize {
        self.chunks.ledger.total().saturating_sub(self.ring.nb_free_exact() as usize)
    }

    /// Takes back the chunks of frames that were sent.
    fn reap(&mut self) {
        loop {
            // SAFETY: `consume` writes what the kernel said into `scratch`, and it is looked at
            // before it is used.
            let taken = unsafe { self.completions.consume(&mut self.scratch[..]) };
            for descriptor in self.scratch.iter().take(taken) {
                if let Some(index) = self.chunks.ledger.take_back(descriptor.addr()) {
                    self.free.push(index);
                }
            }
            if taken < BURST {
                return;
            }
        }
    }
}

impl TxQueue for XdpTx {
    fn room(&self) -> usize {
        self.free.len() / self.chunks_per_frame
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        if !self.caps.takes(len, &meta) {
            self.counters.tx_unsupported += 1;
            return Err(SendError::Unsupported);
        }
        if self.room() == 0 {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        }
        let value = if len > self.chunk_room {
            self.joined.resize(len, 0);
            let value = write(&mut self.joined);
            self.scatter();
            value
        } else {
            // There is room.
            let mut descriptor = self.take_chunk(len).ok_or(SendError::Full)?;
            let value = write(self.chunks.bytes(&mut descriptor));
            self.written.push(descriptor);
            value
        };
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        Ok(value)
    }

    fn flush(&mut self, _now: Instant) -> io::Result<()> {
        if !self.written.is_empty() {
            self.hand_over();
        }
        if self.chunks.ledger.given() > 0 {
            self.kick()?;
            self.reap();
        }
        Ok(())
    }
}
