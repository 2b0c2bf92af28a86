//! Threads that the EAL knows have a cache of mbufs of their own in every pool.

use std::cell::Cell;

use dpdk_sys::{rte_thread_register, rte_thread_unregister};

/// Makes the calling thread known, once. Without it everything works, somewhat slower; so it does where
/// there are more threads than the EAL has numbers for.
pub(super) fn register() {
    thread_local! {
        static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
        static REGISTERED: Registered = Registered::new();
    }
    IS_REGISTERED.with(|known| {
        if !known.replace(true) {
            REGISTERED.with(|_| ());
        }
    });
}

/// For as long as the thread lives.
struct Registered(bool);

impl Registered {
    fn new() -> Self {
        // SAFETY: a device exists, so the EAL runs; a thread that is known already is told so.
        Self(unsafe { rte_thread_register() } == 0)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: this thread was registered above.
            unsafe { rte_thread_unregister() };
        }
    }
}
