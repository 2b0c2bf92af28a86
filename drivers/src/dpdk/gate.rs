//! Keeps bursts and control messages of `net_memif` apart. Its driver takes the memory of a link down on
//! the EAL's interrupt thread, as soon as the peer says so or dies, and a burst on another thread would
//! read it in that moment (DPDK 22.11 to 26.07).
//!
//! The interrupt thread spends its time in a callback of ours, and leaves it every few milliseconds to do
//! its work; meanwhile no burst begins.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use dpdk_sys::rte_eal_alarm_set;

/// How long bursts are free between two times that the interrupt thread works.
const OPEN: Duration = Duration::from_millis(10);
/// How long it works at least, in microseconds: the EAL calls back at once, without a look at anything else,
/// if the time has come when a callback returns.
const WORK: u64 = 200;
/// Set while the interrupt thread works.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// [`CLOSED`], and the number of bursts under way.
static BURSTS: AtomicUsize = AtomicUsize::new(CLOSED);

/// Ports that go through the gate.
static PORTS: Mutex<Ports> = Mutex::new(Ports { open: 0, attended: false });

struct Ports {
    open: usize,
    /// The interrupt thread comes back to our callback.
    attended: bool,
}

/// A port that goes through the gate.
#[derive(Debug)]
pub(super) struct Gate(());

impl Gate {
    pub(super) fn new() -> Self {
        ports(|ports| {
            ports.open += 1;
            if !ports.attended {
                ports.attended = call_back();
            }
        });
        Self(())
    }

    /// For one burst; `None`: not now.
    #[allow(clippy::unused_self, reason = "whoever has a gate may pass")]
    pub(super) fn pass(&self) -> Option<Pass> {
        if BURSTS.load(Ordering::SeqCst) & CLOSED != 0 {
            return None;
        }
        // In front of what follows, and seen by the interrupt thread before it goes.
        if BURSTS.fetch_add(1, Ordering::SeqCst) & CLOSED == 0 {
            return Some(Pass { gated: true });
        }
        BURSTS.fetch_sub(1, Ordering::SeqCst);
        None
    }

    /// The same, as soon as it may be.
    pub(super) fn wait(&self) -> Pass {
        loop {
            if let Some(pass) = self.pass() {
                return pass;
            }
            thread::yield_now();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        ports(|ports| ports.open -= 1);
    }
}

/// Leave to do one burst. As long as one lives, the interrupt thread does nothing.
#[derive(Debug)]
pub(super) struct Pass {
    gated: bool,
}

impl Pass {
    /// For a port that needs no gate.
    pub(super) fn free() -> Self {
        Self { gated: false }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.gated {
            BURSTS.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Runs on the interrupt thread.
unsafe extern "C" fn attend(_: *mut c_void) {
    BURSTS.fetch_and(!CLOSED, Ordering::SeqCst);
    thread::sleep(OPEN);
    BURSTS.fetch_or(CLOSED, Ordering::SeqCst);
    while BURSTS.load(Ordering::SeqCst) != CLOSED {
        // A burst takes microseconds, unless its thread is not running.
        thread::yield_now();
    }
    ports(|ports| ports.attended = ports.open > 0 && call_back());
}

/// Has the interrupt thread come back after it has done its work.
fn call_back() -> bool {
    // SAFETY: the EAL runs; the callback needs no argument and is there as long as the process.
    unsafe { rte_eal_alarm_set(WORK, Some(attend), ptr::null_mut()) == 0 }
}

fn ports<T>(work: impl FnOnce(&mut Ports) -> T) -> T {
    work(&mut PORTS.lock().unwrap_or_else(PoisonError::into_inner))
}
