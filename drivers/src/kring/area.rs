//! The memory that the module shares with us.

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::ring::Place;
use super::uapi::{Setup, word};

/// Control words, rings and frames.
#[derive(Debug)]
pub(crate) struct Area {
    base: NonNull<u8>,
    len: usize,
    /// Where the frames begin, which is where the words end.
    frames: usize,
    frame_len: usize,
    setup: Setup,
    origin: Origin,
}

/// Where the memory comes from, and so how it goes.
#[derive(Debug)]
enum Origin {
    Mapped,
    #[cfg(any(test, feature = "fuzzing"))]
    Heap(std::alloc::Layout),
}

// SAFETY: the memory is not bound to a thread and goes with the last owner. Its words are atomics;
// bytes of frames are touched by their one owner alone (`bytes`).
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

/// The part of an [`Area`] that is words.
#[derive(Clone, Debug)]
pub(crate) struct Words(pub(super) Arc<Area>);

impl Area {
    /// Maps the memory of a ring that was set up.
    pub(super) fn map(file: impl AsFd, setup: &Setup) -> io::Result<Self> {
        let (len, frames) = check(setup)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let frame_len = setup.frame_len as usize;
        Ok(Self { base, len, frames, frame_len, setup: *setup, origin: Origin::Mapped })
    }

    /// Memory of our own, for a model of the module; the places in it are chosen here.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn allocate(rx_slots: u32, tx_slots: u32, frame_len: u32) -> io::Result<Self> {
        let mut end = 4096;
        let mut place = |bytes: u32| {
            let start = end;
            end += u64::from(bytes).next_multiple_of(64);
            start
        };
        let frame_bytes = 4 * super::uapi::FRAME_WORDS as u32;
        let mut setup = Setup {
            abi: super::uapi::ABI,
            rx_slots,
            tx_slots,
            frame_len,
            rx_offset: place(rx_slots * frame_bytes),
            fill_offset: place(rx_slots * 4),
            tx_offset: place(tx_slots * frame_bytes),
            completion_offset: place(tx_slots * 4),
            frames_offset: place((rx_slots + tx_slots) * frame_len),
            map_len: 0,
        };
        setup.map_len = end;
        let (len, frames) = check(&setup)?;
        let layout = std::alloc::Layout::from_size_align(len, 4096).map_err(io::Error::other)?;
        // SAFETY: the layout is not empty: `check` wants a control page.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        let frame_len = frame_len as usize;
        Ok(Self { base, len, frames, frame_len, setup, origin: Origin::Heap(layout) })
    }

    /// Receive frames, which come first.
    pub(super) fn rx_slots(&self) -> u32 {
        self.setup.rx_slots
    }

    pub(super) fn tx_slots(&self) -> u32 {
        self.setup.tx_slots
    }

    pub(super) fn frame_len(&self) -> usize {
        self.frame_len
    }

    pub(super) fn rx_ring(&self) -> Place {
        place(word::RX_PRODUCER, word::RX_CONSUMER, self.setup.rx_offset, self.setup.rx_slots)
    }

    pub(super) fn fill_ring(&self) -> Place {
        place(word::FILL_PRODUCER, word::FILL_CONSUMER, self.setup.fill_offset, self.setup.rx_slots)
    }

    pub(super) fn tx_ring(&self) -> Place {
        place(word::TX_PRODUCER, word::TX_CONSUMER, self.setup.tx_offset, self.setup.tx_slots)
    }

    pub(super) fn completion_ring(&self) -> Place {
        let (producer, consumer) = (word::COMPLETION_PRODUCER, word::COMPLETION_CONSUMER);
        place(producer, consumer, self.setup.completion_offset, self.setup.tx_slots)
    }

    /// The first `len` bytes of frame `number`, at most all of it.
    ///
    /// # Panics
    /// If there is no such frame.
    ///
    /// # Safety
    /// Nobody else reads or writes the frame while the slice lives: it is not the module's, and no
    /// other slice of it exists.
    #[allow(clippy::mut_from_ref, reason = "whose turn it is is known to the caller, as said")]
    pub(super) unsafe fn bytes(&self, number: u32, len: usize) -> &mut [u8] {
        let frames = self.setup.rx_slots + self.setup.tx_slots;
        assert!(number < frames, "frame {number} of {frames}");
        let start = self.frames + number as usize * self.frame_len;
        // SAFETY: `check` saw that all frames are within the memory, and this is one of them; it
        // lives as long as `self`, and the caller vouches that it is nobody else's.
        unsafe { slice::from_raw_parts_mut(self.base.add(start).as_ptr(), len.min(self.frame_len)) }
    }
}

fn place(producer: usize, consumer: usize, offset: u64, slots: u32) -> Place {
    Place { producer, consumer, entries: offset as usize / size_of::<u32>(), slots }
}

/// The length of the memory and of its words, if the module's answer makes sense. Each ring looks
/// at its own place once more ([`Place`]).
fn check(setup: &Setup) -> io::Result<(usize, usize)> {
    let frames = u64::from(setup.rx_slots) + u64::from(setup.tx_slots);
    let bytes = frames.checked_mul(setup.frame_len.into());
    let end = bytes.and_then(|bytes| bytes.checked_add(setup.frames_offset));
    let words = [setup.rx_offset, setup.fill_offset, setup.tx_offset, setup.completion_offset];
    let fits = end.is_some_and(|end| end <= setup.map_len)
        && setup.frames_offset >= 4 * (word::STATE as u64 + 1)
        && setup.frames_offset.is_multiple_of(64)
        && words.iter().all(|offset| offset.is_multiple_of(4) && *offset < setup.frames_offset);
    let len =
        usize::try_from(setup.map_len).ok().filter(|len| fits && isize::try_from(*len).is_ok());
    match len {
        Some(len) => Ok((len, setup.frames_offset as usize)),
        None => Err(io::Error::other("the module's answer makes no sense: its rings overlap")),
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        match self.origin {
            // SAFETY: the mapping was made by `map` with this length, and nothing borrows from it.
            // Nothing can be done about an error.
            Origin::Mapped => drop(unsafe { munmap(self.base.as_ptr().cast(), self.len) }),
            #[cfg(any(test, feature = "fuzzing"))]
            // SAFETY: the memory was allocated with this layout, and nothing borrows from it.
            Origin::Heap(layout) => unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) },
        }
    }
}

impl Deref for Words {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: the bytes in front of the frames are within the memory, which begins at a page, and
        // are touched as atomics alone, by us; the module reads and writes whole words or, of
        // entries that are its own, parts of them.
        unsafe {
            slice::from_raw_parts(self.0.base.as_ptr().cast(), self.0.frames / size_of::<u32>())
        }
    }
}
