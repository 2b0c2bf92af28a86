//! Memory pools of mbufs.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use dpdk_sys::{
    RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY, rte_mempool, rte_mempool_free, rte_mempool_in_use_count,
    rte_pktmbuf_pool_create,
};

use super::eal::{Eal, error_text};

/// A pool of mbufs. When it is dropped before the last of its mbufs has come back, it is freed later.
#[derive(Debug)]
pub(super) struct Pool(NonNull<rte_mempool>);

// SAFETY: a mempool is made for threads: its rings are atomic, its caches belong to one lcore each.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// Mbufs that a thread keeps for itself, so that it seldom touches what all share.
const CACHE: usize = 128;
/// Mbufs that the caches of some threads may hold: half as many again as a cache, each.
pub(super) const CACHED: usize = 4 * (CACHE + CACHE / 2);

/// Pools whose mbufs have not all come back.
static LEFT: Mutex<Vec<Pool>> = Mutex::new(Vec::new());

impl Pool {
    /// `count` mbufs for frames of `room` bytes.
    pub(super) fn new(_eal: &Eal, count: usize, room: usize) -> Result<Self, String> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        free_left();
        let name = format!("underpass_{}", MADE.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap_or_default();
        let len = RTE_PKTMBUF_HEADROOM as usize + room;
        // SAFETY: the EAL runs; the name is copied.
        let pool = unsafe {
            rte_pktmbuf_pool_create(
                name.as_ptr(),
                count as u32,
                CACHE as u32,
                0,
                len as u16,
                SOCKET_ID_ANY,
            )
        };
        NonNull::new(pool).map(Self).ok_or_else(|| {
            format!(
                "no memory for {count} mbufs of {len} bytes ({}); use fewer slots, or give the EAL \
                 more: huge pages (sysctl vm.nr_hugepages), or eal=--no-huge -m MEGABYTES",
                error_text(-1)
            )
        })
    }

    pub(super) fn as_ptr(&self) -> *mut rte_mempool {
        self.0.as_ptr()
    }

    /// Mbufs that are not in the pool.
    fn in_use(&self) -> usize {
        // SAFETY: the pool lives.
        unsafe { rte_mempool_in_use_count(self.0.as_ptr()) as usize }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.in_use() > 0 {
            left(|left| left.push(Self(self.0)));
        } else {
            // SAFETY: no mbuf of it is anywhere, and nobody has it but this value.
            unsafe { rte_mempool_free(self.0.as_ptr()) };
        }
    }
}

/// Mbufs of closed devices that have not come back, be it that a driver has lost them or that another
/// device of this process still holds them.
pub(super) fn lost() -> usize {
    free_left();
    left(|left| left.iter().map(Pool::in_use).sum())
}

fn free_left() {
    // Dropping one puts it back if it is still in use.
    let pools = left(std::mem::take);
    drop(pools);
}

fn left<T>(work: impl FnOnce(&mut Vec<Pool>) -> T) -> T {
    work(&mut LEFT.lock().unwrap_or_else(PoisonError::into_inner))
}
