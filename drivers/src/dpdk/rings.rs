//! Two ports that are joined by rings in memory (`net_ring`): an mbuf that one sends is received by the
//! other, where it is.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk_sys::{
    SOCKET_ID_ANY, rte_eth_from_rings, rte_ring, rte_ring_create, rte_ring_free, up_ring_drain,
};

use super::eal::{Eal, error_text};
use super::port::Port;

/// A ring of mbufs on their way from one port to the other.
#[derive(Debug)]
pub(super) struct Ring(NonNull<rte_ring>);

// SAFETY: the ring is made for threads.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// For so many mbufs: all that the sender has, so that it is never full.
    pub(super) fn new(_eal: &Eal, mbufs: usize) -> Result<Self, String> {
        let name = fresh_name("wire");
        let count = (mbufs + 1).next_power_of_two() as u32;
        // SAFETY: the EAL runs; the name is copied.
        let ring = unsafe { rte_ring_create(name.as_ptr(), count, SOCKET_ID_ANY, 0) };
        NonNull::new(ring).map(Self).ok_or_else(|| format!("making a ring: {}", error_text(-1)))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the ports that used it are gone.
        unsafe {
            up_ring_drain(self.0.as_ptr());
            rte_ring_free(self.0.as_ptr());
        }
    }
}

/// A port that receives from one ring and sends into the other. The rings must outlive it.
pub(super) fn port(_eal: &Eal, from: &Ring, to: &Ring) -> Result<Port, String> {
    let name = fresh_name("underpass");
    let (from, to) = (from.0.as_ptr(), to.0.as_ptr());
    // SAFETY: the EAL runs; name and rings live.
    let id = unsafe { rte_eth_from_rings(name.as_ptr(), &raw const from, 1, &raw const to, 1, 0) };
    u16::try_from(id)
        .map(|id| Port::of_driver(id, &format!("net_ring_{}", name.to_string_lossy())))
        .map_err(|_| format!("making a port: {}", error_text(-1)))
}

fn fresh_name(what: &str) -> CString {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let name = format!("{what}{}", MADE.fetch_add(1, Ordering::Relaxed));
    CString::new(name).unwrap_or_default()
}
