//! Doorways for who plays the other side's part: the module's in the fuzz target, a hostile process's
//! in the tests of the module.

use std::collections::HashMap;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use underpass_devices::{Buffers, Caps, Instant, MacAddr, RxQueue, SendError, TxMeta};

use super::KringConfig;
use super::area::{Area, Words};
use super::control::Control;
use super::model::Model;
use super::rx::{KringRx, broken};
use super::tx::Slots;
use super::uapi::{self, Setup};

/// A device's rings in plain memory, with a module that does as it should, as far as the caller's
/// writes let it.
#[derive(Debug)]
pub struct KringRings {
    area: Arc<Area>,
    module: Model,
    rx: KringRx,
    tx: Slots,
}

impl KringRings {
    /// `slots` frames of 2 KiB each way, a power of two.
    pub fn new(slots: u32) -> io::Result<Self> {
        let area = Arc::new(Area::allocate(slots, slots, uapi::MIN_FRAME)?);
        let caps = Caps::ethernet(MacAddr::local(1), 1500);
        let rx = KringRx::new(&area);
        let tx = Slots::new(&area, caps);
        Ok(Self { module: Model::new(&area), area, rx, tx })
    }

    /// Control words and rings.
    pub fn words(&self) -> impl Deref<Target = [AtomicU32]> + use<> {
        Words(Arc::clone(&self.area))
    }

    /// The module receives a frame. False: it had no room.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        self.module.deliver(frame, [0; 3])
    }

    /// The module claims that it has received a frame.
    pub fn claim(&mut self, entry: [u32; uapi::FRAME_WORDS]) -> bool {
        self.module.claim(entry)
    }

    /// The module sends the next frame.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.module.transmit().map(|(frame, _)| frame)
    }

    /// Takes a burst and hands each frame and its place in memory to `look`.
    pub fn receive(&mut self, mut look: impl FnMut(usize, &mut [u8])) -> io::Result<()> {
        let result = self.rx.fill(Instant::ZERO);
        while let Some(frame) = self.rx.next() {
            look(frame.bytes.as_ptr() as usize, frame.bytes);
        }
        self.rx.release();
        result.map(drop)
    }

    /// Queues a frame of `len` bytes and hands its place in memory to `look`.
    pub fn send(&mut self, len: usize, look: impl FnOnce(usize)) -> Result<(), SendError> {
        self.tx.send(len, &TxMeta::default(), |slot| {
            slot.fill(1);
            look(slot.as_ptr() as usize);
        })
    }

    /// Publishes what was queued, and takes back what was sent.
    pub fn flush(&mut self) -> io::Result<()> {
        self.tx.publish().map_err(broken)?;
        self.tx.reap().map_err(broken)
    }

    /// Where the frames are.
    pub fn buffers(&self) -> Buffers {
        self.rx.buffers(self.tx.buffers())
    }
}

/// A ring of the module on an interface, for a process that may do everything that it can.
#[derive(Debug)]
pub struct RawKring {
    control: Control,
    area: Arc<Area>,
}

/// Bytes of the largest argument that the module knows.
const ARGUMENT: usize = 128;

impl RawKring {
    /// Attaches to the interface with this index, every frame of which is wanted.
    pub fn open(interface: u32, config: &KringConfig) -> io::Result<Self> {
        let control = Control::open()?;
        let mut setup = Setup {
            abi: uapi::ABI,
            rx_slots: config.rx_slots as u32,
            tx_slots: config.tx_slots as u32,
            frame_len: if config.offload { uapi::MAX_FRAME } else { uapi::MIN_FRAME },
            ..Setup::default()
        };
        control.set_up(&mut setup)?;
        let area = Arc::new(Area::map(&control, &setup)?);
        control.set_rule(uapi::TAKE_ALL, None, MacAddr::default(), &HashMap::new())?;
        control.attach(interface, config)?;
        Ok(Self { control, area })
    }

    /// Control words and rings.
    pub fn words(&self) -> impl Deref<Target = [AtomicU32]> + use<> {
        Words(Arc::clone(&self.area))
    }

    /// Puts an entry into the transmit ring that makes sense or not: `frame`, counted from the first one
    /// to send from, and the words behind it. Nothing, if the ring is full.
    pub fn queue(&self, frame: u32, rest: [u32; uapi::FRAME_WORDS - 1]) {
        let (words, ring) = (self.words(), self.area.tx_ring());
        let index = words[ring.producer].load(Ordering::Relaxed);
        if index.wrapping_sub(words[ring.consumer].load(Ordering::Acquire)) == ring.slots {
            return;
        }
        let start = ring.entries + (index % ring.slots) as usize * uapi::FRAME_WORDS;
        let number = self.area.rx_slots().wrapping_add(frame);
        for (word, value) in words[start..].iter().zip([number].into_iter().chain(rest)) {
            word.store(value, Ordering::Relaxed);
        }
        words[ring.producer].store(index.wrapping_add(1), Ordering::Release);
        // What was completed may be sent again.
        let completions = self.area.completion_ring();
        let completed = words[completions.producer].load(Ordering::Acquire);
        words[completions.consumer].store(completed, Ordering::Release);
    }

    /// Gives a frame to receive into, if the ring has room, and back what was received.
    pub fn offer(&self, frame: u32) {
        let (words, fill, rx) = (self.words(), self.area.fill_ring(), self.area.rx_ring());
        let index = words[fill.producer].load(Ordering::Relaxed);
        if index.wrapping_sub(words[fill.consumer].load(Ordering::Acquire)) == fill.slots {
            return;
        }
        words[fill.entries + (index % fill.slots) as usize].store(frame, Ordering::Relaxed);
        words[fill.producer].store(index.wrapping_add(1), Ordering::Release);
        let received = words[rx.producer].load(Ordering::Acquire);
        words[rx.consumer].store(received, Ordering::Release);
    }

    /// Has the module send what is in the transmit ring.
    pub fn ring_doorbell(&self) -> io::Result<()> {
        Ok(self.control.ring_doorbell()?)
    }

    /// The module's counters, in the order of its header.
    pub fn statistics(&self) -> io::Result<[u64; uapi::COUNTERS]> {
        self.control.statistics()
    }

    /// Makes a request of the module's, by its place among them, with any argument.
    pub fn request(&self, which: usize, argument: &mut [u8; ARGUMENT]) -> io::Result<()> {
        let requests = [uapi::SETUP, uapi::ATTACH, uapi::RULE, uapi::DOORBELL, uapi::STATS];
        let request = libc::Ioctl::from(requests[which % requests.len()]);
        // SAFETY: the argument has room for that of every request, so the module writes nowhere
        // else; where it is told to read from another place, it reads only.
        let result = unsafe {
            libc::ioctl(self.control.as_fd().as_raw_fd(), request, argument.as_mut_ptr())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for RawKring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}
