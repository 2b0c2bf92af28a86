//! One direction of a memory link: from every sender to every receiver a line, which is a ring of
//! full frames there and a ring of free buffers back.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::{Frame, RxMeta, Wake};

/// A direction with `queues` senders and as many receivers. Each sender has `slots` buffers of
/// `slot_len` bytes, any of which it may send to any receiver.
pub(super) fn mesh(queues: usize, slots: usize, slot_len: usize) -> (Vec<Sender>, Vec<Receiver>) {
    let mut receivers: Vec<_> = (0..queues).map(|_| Receiver::new(queues * slots)).collect();
    let senders = (0..queues).map(|sender| {
        let lines = receivers.iter_mut().map(|receiver| {
            let (full_in, full_out) = RingBuffer::new(slots);
            let (free_in, free_out) = RingBuffer::new(slots);
            let gone = Arc::new(Gone::default());
            let line = LineIn { full: full_out, returned: free_in, gone: Arc::clone(&gone) };
            receiver.lines.push(line);
            LineOut {
                queued: Vec::with_capacity(slots),
                away: 0,
                full: full_in,
                returned: free_out,
                gone,
                bell: Arc::clone(&receiver.bell),
            }
        });
        let lines = lines.collect();
        let free = (0..slots).map(|_| Slot::new(sender, slot_len)).collect();
        Sender { index: sender, slots, slot_len, free, lines }
    });
    (senders.collect(), receivers)
}

/// A frame buffer. It moves to a receiver and back; its bytes stay where they are.
#[derive(Debug)]
struct Slot {
    /// Whose it is.
    sender: usize,
    buffer: Box<[u8]>,
    len: usize,
    meta: RxMeta,
}

impl Slot {
    fn new(sender: usize, len: usize) -> Self {
        let buffer = vec![0; len].into_boxed_slice();
        Self { sender, buffer, len: 0, meta: RxMeta::default() }
    }
}

/// Which ends of a line have been dropped.
#[derive(Debug, Default)]
struct Gone {
    sender: AtomicBool,
    receiver: AtomicBool,
}

/// How senders wake a receiver.
///
/// No wake-up is lost. The receiver stores `armed`, fences, and then looks at its rings; a sender
/// publishes to a ring, fences, and then looks at `armed`. Both fences are sequentially
/// consistent, so one of them comes first: if the sender's does, the receiver sees the frame and
/// does not sleep; if the receiver's does, the sender sees `armed` and writes to the stream. `armed`
/// is cleared by a swap, so one sender writes once per arming, which also bounds what the stream
/// holds. A byte that arrives after the receiver noticed the frame by itself is a spurious wake-up
/// at worst.
#[derive(Debug, Default)]
struct Bell {
    /// The receiver is about to sleep, or asleep.
    armed: AtomicBool,
    /// Made by the receiver before it first arms: (the end to sleep on, the end to write to).
    stream: OnceLock<(UnixStream, UnixStream)>,
}

impl Bell {
    /// Wakes the receiver if it is armed. Called after the thing to see has been published.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed)
            && self.armed.swap(false, Ordering::AcqRel)
            && let Some((_, stream)) = self.stream.get()
        {
            let mut stream: &UnixStream = stream;
            // The only failure is a full stream, which is readable already.
            let _ = stream.write(&[1]);
        }
    }
}

/// A sending end: buffers of its own, and a line to every receiver.
#[derive(Debug)]
pub(super) struct Sender {
    index: usize,
    slots: usize,
    slot_len: usize,
    free: Vec<Slot>,
    lines: Vec<LineOut>,
}

/// The sending end of a line.
#[derive(Debug)]
struct LineOut {
    /// Written, not flushed.
    queued: Vec<Slot>,
    /// Flushed and not back yet.
    away: usize,
    full: Producer<Slot>,
    returned: Consumer<Slot>,
    gone: Arc<Gone>,
    bell: Arc<Bell>,
}

impl Sender {
    pub(super) fn total(&self) -> usize {
        self.slots
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn busy(&self) -> usize {
        self.lines.iter().map(|line| line.queued.len() + line.away).sum()
    }

    /// Frames that can be sent now, those included whose buffers have come back meanwhile.
    pub(super) fn room(&self) -> usize {
        self.free.len() + self.lines.iter().map(|line| line.returned.slots()).sum::<usize>()
    }

    /// Queues a frame for the receiver that `choose` names, which is given the written frame; `None`
    /// if no buffer is free. `len` is at most the length of a slot.
    pub(super) fn send<R>(
        &mut self,
        len: usize,
        meta: RxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
        choose: impl FnOnce(&[u8]) -> usize,
    ) -> Option<R> {
        if self.free.is_empty() {
            self.take_back();
        }
        let slot = self.free.last_mut()?;
        let bytes = slot.buffer.get_mut(..len)?;
        let value = write(bytes);
        let line = self.lines.get_mut(choose(bytes))?;
        (slot.len, slot.meta) = (len, meta);
        line.queued.extend(self.free.pop());
        Some(value)
    }

    /// Hands over what is queued. Returns the number of frames that were lost because their receiver
    /// is gone.
    pub(super) fn flush(&mut self) -> usize {
        let mut lost = 0;
        for line in &mut self.lines {
            // Read before the ring of returned buffers: once it is true, nothing more comes back.
            let gone = line.gone.receiver.load(Ordering::Acquire);
            line.take_back(&mut self.free);
            if gone {
                let new = || Slot::new(self.index, self.slot_len);
                lost += line.write_off(&mut self.free, self.slots, new);
            } else {
                line.publish();
            }
        }
        lost
    }

    fn take_back(&mut self) {
        for line in &mut self.lines {
            line.take_back(&mut self.free);
        }
    }
}

impl LineOut {
    fn publish(&mut self) {
        let count = self.queued.len();
        if count == 0 {
            return;
        }
        // The ring has as many places as the sender has buffers: it cannot be too full.
        if let Ok(chunk) = self.full.write_chunk_uninit(count) {
            self.away += chunk.fill_from_iter(self.queued.drain(..));
            self.bell.ring();
        }
    }

    fn take_back(&mut self, free: &mut Vec<Slot>) {
        let count = self.returned.slots();
        if count > 0
            && let Ok(chunk) = self.returned.read_chunk(count)
        {
            free.extend(chunk);
            self.away -= count;
        }
    }

    /// The receiver is gone, and the buffers it had with it: new ones take their place.
    fn write_off(&mut self, free: &mut Vec<Slot>, slots: usize, new: impl Fn() -> Slot) -> usize {
        let lost = self.queued.len();
        free.append(&mut self.queued);
        let unread = if self.away == 0 { 0 } else { slots - self.full.slots() };
        free.extend((0..self.away).map(|_| new()));
        self.away = 0;
        lost + unread
    }
}

impl Drop for LineOut {
    fn drop(&mut self) {
        self.gone.sender.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// A receiving end: a line from every sender.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Buffers of all senders.
    slots: usize,
    /// Buffers at this end; the first `lent` of them are lent.
    held: VecDeque<Slot>,
    lent: usize,
    lines: Vec<LineIn>,
    bell: Arc<Bell>,
    /// The bell may have been rung since it was last drained.
    armed: bool,
}

/// The receiving end of a line.
#[derive(Debug)]
struct LineIn {
    full: Consumer<Slot>,
    returned: Producer<Slot>,
    gone: Arc<Gone>,
}

impl Receiver {
    fn new(slots: usize) -> Self {
        Self {
            slots,
            held: VecDeque::with_capacity(slots),
            lent: 0,
            lines: Vec::new(),
            bell: Arc::default(),
            armed: false,
        }
    }

    pub(super) fn total(&self) -> usize {
        self.slots
    }

    pub(super) fn free(&self) -> usize {
        self.slots - self.held.len()
    }

    pub(super) fn ready(&self) -> usize {
        self.held.len() - self.lent
    }

    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    /// Takes what has been flushed. Fails once every sender is gone and nothing is left.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        let mut gone = true;
        for line in &mut self.lines {
            // Read before the ring: what was flushed before the sender went is seen.
            gone &= line.gone.sender.load(Ordering::Acquire);
            let count = line.full.slots();
            if count > 0
                && let Ok(chunk) = line.full.read_chunk(count)
            {
                self.held.extend(chunk);
            }
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
        let slot = self.held.get_mut(self.lent)?;
        let bytes = slot.buffer.get_mut(..slot.len)?;
        self.lent += 1;
        Some(Frame { bytes, meta: slot.meta })
    }

    pub(super) fn release(&mut self) {
        while self.lent > 0
            && let Some(sender) = self.held.front().map(|slot| slot.sender)
            && let Some(line) = self.lines.get_mut(sender)
        {
            let run = match self.held.range(..self.lent).position(|slot| slot.sender != sender) {
                Some(run) => run,
                None => self.lent,
            };
            // The ring has as many places as the sender has buffers: it cannot be too full.
            let Ok(chunk) = line.returned.write_chunk_uninit(run) else {
                return;
            };
            self.lent -= chunk.fill_from_iter(self.held.drain(..run));
        }
    }

    pub(super) fn wake(&mut self) -> io::Result<Wake<'_>> {
        if self.bell.stream.get().is_none() {
            let (sleep, ring) = UnixStream::pair()?;
            sleep.set_nonblocking(true)?;
            ring.set_nonblocking(true)?;
            // Only the receiver sets it, so it was still empty.
            let _ = self.bell.stream.set((sleep, ring));
        }
        self.silence()?;
        self.bell.armed.store(true, Ordering::Release);
        self.armed = true;
        fence(Ordering::SeqCst);
        let arrived = self.lines.iter().any(|line| !line.full.is_empty());
        let all_gone = self.lines.iter().all(|line| line.gone.sender.load(Ordering::Acquire));
        if arrived || all_gone || self.ready() > 0 {
            self.bell.armed.store(false, Ordering::Relaxed);
            return Ok(Wake::Ready);
        }
        Ok(match self.bell.stream.get() {
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
        let Some((sleep, _)) = self.bell.stream.get() else {
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
        for line in &self.lines {
            line.gone.receiver.store(true, Ordering::Release);
        }
    }
}
