//! One direction of a memory link: a ring of full frames there, a ring of free buffers back.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::{Frame, RxMeta, Wake};

/// A direction with `slots` buffers of `slot_len` bytes each.
pub(super) fn line(slots: usize, slot_len: usize) -> (Sender, Receiver) {
    let (full_in, full_out) = RingBuffer::new(slots);
    let (free_in, free_out) = RingBuffer::new(slots);
    let shared = Arc::new(Shared::default());
    let sender = Sender {
        slots,
        slot_len,
        free: (0..slots).map(|_| Slot::new(slot_len)).collect(),
        queued: Vec::with_capacity(slots),
        away: 0,
        full: full_in,
        returned: free_out,
        shared: Arc::clone(&shared),
    };
    let receiver = Receiver {
        slots,
        held: VecDeque::with_capacity(slots),
        lent: 0,
        taken: 0,
        full: full_out,
        returned: free_in,
        shared,
        armed: false,
    };
    (sender, receiver)
}

/// A frame buffer. It moves round the line; its bytes stay where they are.
#[derive(Debug)]
struct Slot {
    buffer: Box<[u8]>,
    len: usize,
    meta: RxMeta,
}

impl Slot {
    fn new(len: usize) -> Self {
        Self { buffer: vec![0; len].into_boxed_slice(), len: 0, meta: RxMeta::default() }
    }
}

/// What the two ends of a line tell each other beside frames.
///
/// No wake-up is lost. The receiver stores `armed`, fences, and then looks at the ring; the sender
/// publishes to the ring, fences, and then looks at `armed`. Both fences are sequentially
/// consistent, so one of them comes first: if the sender's does, the receiver sees the frame and
/// does not sleep; if the receiver's does, the sender sees `armed` and writes to the stream. The
/// sender clears `armed` by a swap, so it writes once per arming, which also bounds what the stream
/// holds. A byte that arrives after the receiver noticed the frame by itself is a spurious wake-up
/// at worst.
#[derive(Debug, Default)]
struct Shared {
    /// The receiver is about to sleep, or asleep.
    armed: AtomicBool,
    sender_gone: AtomicBool,
    receiver_gone: AtomicBool,
    /// Made by the receiver before it first arms: (the end to sleep on, the end to write to).
    bell: OnceLock<(UnixStream, UnixStream)>,
}

impl Shared {
    /// Wakes the receiver if it is armed. Called after the thing to see has been published.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed)
            && self.armed.swap(false, Ordering::AcqRel)
            && let Some((_, bell)) = self.bell.get()
        {
            let mut bell: &UnixStream = bell;
            // The only failure is a full stream, which is readable already.
            let _ = bell.write(&[1]);
        }
    }
}

/// The sending end of a line.
#[derive(Debug)]
pub(super) struct Sender {
    slots: usize,
    slot_len: usize,
    free: Vec<Slot>,
    /// Written, not flushed.
    queued: Vec<Slot>,
    /// Flushed and not back yet.
    away: usize,
    full: Producer<Slot>,
    returned: Consumer<Slot>,
    shared: Arc<Shared>,
}

impl Sender {
    pub(super) fn total(&self) -> usize {
        self.slots
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn busy(&self) -> usize {
        self.queued.len() + self.away
    }

    /// Frames that can be sent now, those included whose buffers have come back meanwhile.
    pub(super) fn room(&self) -> usize {
        self.free.len() + self.returned.slots()
    }

    /// Queues a frame; `None` if no buffer is free. `len` is at most the length of a slot.
    pub(super) fn send<R>(
        &mut self,
        len: usize,
        meta: RxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        if self.free.is_empty() {
            self.take_back();
        }
        let slot = self.free.last_mut()?;
        let value = write(slot.buffer.get_mut(..len)?);
        (slot.len, slot.meta) = (len, meta);
        self.queued.extend(self.free.pop());
        Some(value)
    }

    /// Hands over what is queued. Returns the number of frames that were lost because the receiver
    /// is gone.
    pub(super) fn flush(&mut self) -> usize {
        // Read before the ring of returned buffers: once it is true, nothing more comes back.
        let gone = self.shared.receiver_gone.load(Ordering::Acquire);
        self.take_back();
        if gone {
            return self.write_off();
        }
        let count = self.queued.len();
        if count == 0 {
            return 0;
        }
        // The ring has as many places as the line has buffers: it cannot be too full.
        if let Ok(chunk) = self.full.write_chunk_uninit(count) {
            self.away += chunk.fill_from_iter(self.queued.drain(..));
            self.shared.ring();
        }
        0
    }

    fn take_back(&mut self) {
        let count = self.returned.slots();
        if let Ok(chunk) = self.returned.read_chunk(count) {
            self.free.extend(chunk);
            self.away -= count;
        }
    }

    /// The receiver is gone, and the buffers it had with it: new ones take their place.
    fn write_off(&mut self) -> usize {
        let lost = self.queued.len();
        self.free.append(&mut self.queued);
        let unread = if self.away == 0 { 0 } else { self.slots - self.full.slots() };
        self.free.extend((0..self.away).map(|_| Slot::new(self.slot_len)));
        self.away = 0;
        lost + unread
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.sender_gone.store(true, Ordering::Release);
        self.shared.ring();
    }
}

/// The receiving end of a line.
#[derive(Debug)]
pub(super) struct Receiver {
    slots: usize,
    /// Buffers at this end; the first `lent` of them are lent.
    held: VecDeque<Slot>,
    lent: usize,
    /// Buffers taken from the line and not returned: `held` counted at the rings, for the audit.
    taken: usize,
    full: Consumer<Slot>,
    returned: Producer<Slot>,
    shared: Arc<Shared>,
    /// The bell may have been rung since it was last drained.
    armed: bool,
}

impl Receiver {
    pub(super) fn total(&self) -> usize {
        self.slots
    }

    pub(super) fn free(&self) -> usize {
        self.slots - self.taken
    }

    pub(super) fn ready(&self) -> usize {
        self.held.len() - self.lent
    }

    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    pub(super) fn fill(&mut self) -> io::Result<usize> {
        // Read before the ring: what was flushed before the sender went is seen.
        let gone = self.shared.sender_gone.load(Ordering::Acquire);
        let count = self.full.slots();
        if let Ok(chunk) = self.full.read_chunk(count) {
            self.held.extend(chunk);
            self.taken += count;
        }
        if gone && self.ready() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the other end of the memory link was dropped",
            ));
        }
        Ok(self.ready())
    }

    pub(super) fn next(&mut self) -> Option<Frame<'_>> {
        let slot = self.held.get(self.lent)?;
        let bytes = slot.buffer.get(..slot.len)?;
        self.lent += 1;
        Some(Frame { bytes, meta: slot.meta })
    }

    pub(super) fn release(&mut self) {
        // The ring has as many places as the line has buffers: it cannot be too full.
        if let Ok(chunk) = self.returned.write_chunk_uninit(self.lent) {
            self.taken -= chunk.fill_from_iter(self.held.drain(..self.lent));
            self.lent = 0;
        }
    }

    pub(super) fn wake(&mut self) -> io::Result<Wake<'_>> {
        if self.shared.bell.get().is_none() {
            let (sleep, bell) = UnixStream::pair()?;
            sleep.set_nonblocking(true)?;
            bell.set_nonblocking(true)?;
            // Only the receiver sets it, so it was still empty.
            let _ = self.shared.bell.set((sleep, bell));
        }
        self.silence()?;
        self.shared.armed.store(true, Ordering::Release);
        self.armed = true;
        fence(Ordering::SeqCst);
        let arrived = !self.full.is_empty() || self.shared.sender_gone.load(Ordering::Acquire);
        if arrived || self.ready() > 0 {
            self.shared.armed.store(false, Ordering::Relaxed);
            return Ok(Wake::Ready);
        }
        Ok(match self.shared.bell.get() {
            Some((sleep, _)) => Wake::Fd(sleep.as_fd()),
            None => Wake::Spin,
        })
    }

    /// Takes the rings out of the stream.
    fn silence(&mut self) -> io::Result<()> {
        if !self.armed {
            return Ok(());
        }
        self.armed = false;
        let Some((sleep, _)) = self.shared.bell.get() else {
            return Ok(());
        };
        let mut sleep: &UnixStream = sleep;
        let mut rings = [0; 16];
        loop {
            match sleep.read(&mut rings) {
                Ok(count) if count == rings.len() => {}
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
    }
}
