use std::io;
use std::ops::{BitOr, Range};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use rdma_mummy_sys::{ibv_access_flags, ibv_dereg_mr, ibv_mr, ibv_reg_mr, ibv_sge};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};

use super::domain::ProtectionDomain;
use super::error::VerbsError;
use super::library::object;

/// Memory that a device may touch, zeroed at first.
#[derive(Debug)]
pub struct Memory {
    region: NonNull<ibv_mr>,
    pages: Pages,
    _domain: Arc<ProtectionDomain>,
}

/// Who may do what with [`Memory`]: ibv_reg_mr(3). The device may read in any case, for its own
/// process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u32);

impl Access {
    /// The device only reads, to send.
    pub const READ: Self = Self(0);
    /// The device writes what it receives.
    pub const LOCAL_WRITE: Self = Self(ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0);
    /// Peers that know the key read.
    pub const REMOTE_READ: Self = Self(ibv_access_flags::IBV_ACCESS_REMOTE_READ.0);
    /// Peers that know the key write; goes with [`LOCAL_WRITE`](Self::LOCAL_WRITE).
    pub const REMOTE_WRITE: Self = Self(ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0);
    /// Peers that know the key do atomic operations; goes with [`LOCAL_WRITE`](Self::LOCAL_WRITE).
    pub const REMOTE_ATOMIC: Self = Self(ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC.0);

    pub(super) fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

// SAFETY: the memory is not bound to a thread, and libibverbs is thread-safe; its bytes are touched
// through `bytes` alone, whose callers vouch for what they do.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps and registers `len` bytes, at least one.
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        len: usize,
        access: Access,
    ) -> Result<Self, VerbsError> {
        let pages = Pages::map(len).map_err(|e| VerbsError::failed("mapping memory", e))?;
        let flags = i32::try_from(access.bits()).unwrap_or(0);
        // SAFETY: the pages are ours, so many bytes long, and outlive their registration.
        let made = unsafe { ibv_reg_mr(domain.as_ptr(), pages.base.as_ptr().cast(), len, flags) };
        let region = object("registering memory", made).map_err(|error| match error {
            VerbsError::Failed { ref source, .. }
                if matches!(source.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN)) =>
            {
                VerbsError::LockedMemory { bytes: len, limit: memory_limit() }
            }
            error => error,
        })?;
        Ok(Self { region, pages, _domain: Arc::clone(domain) })
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.pages.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it begins, as the device and its peers name it.
    pub fn address(&self) -> u64 {
        self.pages.base.as_ptr() as u64
    }

    /// Where it begins, as this process touches it.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.pages.base
    }

    /// The key of its own process.
    pub fn local_key(&self) -> u32 {
        // SAFETY: the registration lives.
        unsafe { self.region.as_ref().lkey }
    }

    /// The key of peers.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.region.as_ref().rkey }
    }

    /// A part of it.
    ///
    /// # Panics
    /// If it is not within the memory.
    ///
    /// # Safety
    /// Nobody else touches these bytes while the slice lives: no request of the device and no peer, and
    /// no other slice of them exists.
    #[allow(clippy::mut_from_ref, reason = "whose turn it is is known to the caller, as said")]
    pub unsafe fn bytes(&self, range: Range<usize>) -> &mut [u8] {
        self.check(&range);
        // SAFETY: it is within the mapping, which lives as long as `self`, and the caller vouches that
        // it is nobody else's.
        unsafe { slice::from_raw_parts_mut(self.pages.base.add(range.start).as_ptr(), range.len()) }
    }

    /// The same as the element of a request.
    ///
    /// # Panics
    /// If it is not within the memory.
    pub(super) fn element(&self, range: &Range<usize>) -> ibv_sge {
        self.check(range);
        ibv_sge {
            addr: self.address() + range.start as u64,
            length: u32::try_from(range.len()).unwrap_or(u32::MAX),
            lkey: self.local_key(),
        }
    }

    fn check(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "{range:?} of {} bytes",
            self.len()
        );
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was registered and is deregistered once; from then on the device refuses requests
        // that name it. Nothing can be done about an error.
        unsafe { ibv_dereg_mr(self.region.as_ptr()) };
    }
}

/// A mapping of whole pages. Behind the registration, so that it goes after it.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    len: usize,
}

impl Pages {
    fn map(len: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing borrows from it. Nothing can be
        // done about an error.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

fn memory_limit() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("{bytes} bytes"),
        None => "no limit; the machine has too little".to_owned(),
    }
}
