//! The part of a bell that needs no operating system, so that loom can try every interleaving
//! (`tests/bell.rs`).

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody has called, and whether the owner is asleep.
///
/// The owner sets `asleep`, then looks at `rung`, and sleeps only if it is not set. A caller sets
/// `rung`, then looks at `asleep`. All four are sequentially consistent, so at least one of them
/// sees the other: no call is lost, and nobody is woken who is awake.
pub(crate) struct Calls {
    rung: AtomicBool,
    asleep: AtomicBool,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self { rung: AtomicBool::new(false), asleep: AtomicBool::new(false) }
    }

    /// Calls the owner. True: it is asleep and must be woken.
    pub(crate) fn ring(&self) -> bool {
        self.rung.store(true, Ordering::SeqCst);
        self.asleep.load(Ordering::SeqCst)
    }

    /// The owner comes to look: a swap, so that it sees what was done before the calls it answers.
    pub(crate) fn answer(&self) {
        self.rung.swap(false, Ordering::SeqCst);
    }

    /// Announces sleep. False: somebody called meanwhile.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.is_rung()
    }

    /// The owner is awake.
    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }
}
