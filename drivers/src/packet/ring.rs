use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::slot::{SLOT_LEN, TP_STATUS_KERNEL, TP_STATUS_LOSING, TP_STATUS_USER};
use super::socket::PacketSocket;

/// The receive ring that the kernel shares with us: slots of [`SLOT_LEN`] bytes, each with a status
/// word that says whose it is.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    slots: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Allocates and maps a ring of at least `slots` slots.
    pub(super) fn new(socket: &PacketSocket, slots: usize) -> io::Result<Self> {
        // A block is whole pages and, to waste none, a little less than a power of two of them:
        // 15 x 17 pages of 4 KiB, or 16 x 68 KiB in larger pages.
        let slots_per_block = if rustix::param::page_size() == 4096 { 15 } else { 16 };
        let blocks = slots.div_ceil(slots_per_block);
        socket.create_ring(slots_per_block, blocks)?;
        let slots = blocks * slots_per_block;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                slots * SLOT_LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                socket.as_fd(),
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, slots })
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Whether slot `index` holds a frame.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        self.status(index).load(Ordering::Acquire) & TP_STATUS_USER != 0
    }

    /// The bytes of a slot that holds a frame, and whether the kernel has dropped others.
    pub(super) fn take(&mut self, index: usize) -> Option<(&mut [u8], bool)> {
        let status = self.status(index).load(Ordering::Acquire);
        if status & TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the slot lies within the mapping, as for `status`. The kernel writes to no slot
        // with TP_STATUS_USER (the Acquire load orders our reads behind its writes), and the
        // exclusive borrow keeps `give_back` away.
        let bytes = unsafe { slice::from_raw_parts_mut(self.start(index).as_ptr(), SLOT_LEN) };
        Some((bytes, status & TP_STATUS_LOSING != 0))
    }

    /// Returns a slot to the kernel.
    pub(super) fn give_back(&mut self, index: usize) {
        self.status(index).store(TP_STATUS_KERNEL, Ordering::Release);
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the first word of a slot, within the mapping and aligned, since slots begin at
        // multiples of 4096 bytes of it. The kernel accesses it as one word, too.
        unsafe { AtomicU32::from_ptr(self.start(index).as_ptr().cast()) }
    }

    fn start(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        // SAFETY: the mapping has `slots * SLOT_LEN` bytes, and `index` is less than `slots`.
        unsafe { self.base.add(index * SLOT_LEN) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing borrows from it.
        // Nothing can be done about an error.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.slots * SLOT_LEN) };
    }
}
