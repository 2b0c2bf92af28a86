//! The part of a bell that needs no operating system, so that loom can try every interleaving
//! (`tests/bell.rs`).

#[cfg(model)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(model))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether somebody has called, and whether the owner is asleep.
///
/// The owner sets `asleep`, then looks at `rung`, and sleeps only if it is not set. A caller sets
/// `rung`, then looks at `asleep`. Between the two is a sequentially consistent fence on either side,
/// so one of them comes first, and the other side sees what is before it: no call is lost, and nobody
/// is woken who is awake.
pub(crate) struct Calls {
    rung: AtomicBool,
    asleep: AtomicBool,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self { rung: AtomicBool::new(false), asleep: AtomicBool::new(false) }
    }

    /// Calls the owner. True: it is asleep and must be woken.
    ///
    /// A swap and not a store: only so does the owner, who sees the last of several calls, see what
    /// was done before the others, too. Who finds the bell rung leaves the rest to the one who rang.
    pub(crate) fn ring(&self) -> bool {
        if self.rung.swap(true, Ordering::AcqRel) {
            return false;
        }
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed)
    }

    /// The owner comes to look: a swap, so that it sees what was done before the calls it answers.
    pub(crate) fn answer(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// Announces sleep. False: somebody called meanwhile.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.is_rung()
    }

    /// The owner is awake.
    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}
