use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use underpass_devices::{Device, Instant, RxQueue, Selection, TxQueue};

use crate::bell::Bell;
use crate::core::{Core, Turn};
use crate::handover::Siblings;
use crate::runtime::Mailbox;
use crate::stats::Stats;

/// One queue pair of each interface and the part of the stack that runs on it.
///
/// A shard does nothing by itself and reads no clock: whoever owns it calls [`turn`](Self::turn)
/// with the time. [`Builder::build`](crate::Builder::build) gives it to a thread that does so as
/// long as the stack lives; [`Builder::build_shard`](crate::Builder::build_shard) hands it out, for
/// simulations in virtual time and for event loops of your own.
pub struct Shard<D> {
    /// One per interface.
    devices: Vec<D>,
    shared: Arc<Shared>,
    /// Wakers of one turn; kept for its memory.
    wakes: Vec<Waker>,
}

/// The part of a shard that its sockets see.
pub(crate) struct Shared {
    core: Mutex<Core>,
    bell: Arc<Bell>,
    mailbox: Mailbox,
}

impl<D: Device> Shard<D> {
    pub(crate) fn new(devices: Vec<D>, core: Core, bell: Arc<Bell>, mailbox: Mailbox) -> Self {
        let shared = Arc::new(Shared { core: Mutex::new(core), bell, mailbox });
        Self { devices, shared, wakes: Vec::new() }
    }

    /// One round: takes a burst of frames, runs the timers due at `now`, sends what is ready, and
    /// wakes readers and writers. `now` never goes back.
    ///
    /// # Errors
    /// The device is gone. Every socket of this shard fails from now on.
    pub fn turn(&mut self, now: Instant) -> io::Result<Turn> {
        let result = self.fill(now).and_then(|_| self.round(now));
        result.inspect_err(|error| self.fail(error))
    }

    /// Says to the devices what the stack wants, so that it gets it from the start.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let mut core = self.shared.lock();
        core.net.follow_selections();
        let selections = core.net.take_selections();
        drop(core);
        self.select(&selections)
    }

    fn select(&mut self, selections: &[(usize, Selection)]) -> io::Result<()> {
        selections
            .iter()
            .try_for_each(|(interface, wanted)| self.devices[*interface].select(wanted))
    }

    /// The first half of a turn: takes what has arrived, without locking out the sockets.
    pub(crate) fn fill(&mut self, now: Instant) -> io::Result<usize> {
        self.devices
            .iter_mut()
            .try_fold(0, |ready, device| device.split().0.fill(now).map(|n| ready + n))
    }

    /// The second half of a turn. Sockets are locked out only while the core works, not during the
    /// device's system calls.
    pub(crate) fn round(&mut self, now: Instant) -> io::Result<Turn> {
        self.shared.bell.answer();
        let mut core = self.shared.lock();
        let turn = core.turn(now, &mut self.devices);
        std::mem::swap(&mut core.wakes, &mut self.wakes);
        let selections = core.net.take_selections();
        let has_mail = core.siblings.as_ref().is_some_and(Siblings::has_mail);
        drop(core);
        if has_mail {
            // More than one burst: the next round is due.
            self.shared.bell.ring();
        }
        // Before anything leaves that is to be answered.
        let selected = self.select(&selections);
        let flushed = self.devices.iter_mut().try_for_each(|device| device.split().1.flush(now));
        for waker in self.wakes.drain(..) {
            waker.wake();
        }
        selected.and(flushed).map(|()| turn)
    }

    /// Tells every socket that the device is gone.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.shared.with(|core| core.stop(error.to_string()));
    }

    /// The device of each interface, for example to read a wrapper's counters.
    pub fn devices(&self) -> &[D] {
        &self.devices
    }

    pub(crate) fn devices_mut(&mut self) -> &mut [D] {
        &mut self.devices
    }

    /// Which shard of its stack this is, counted from 0.
    pub fn index(&self) -> usize {
        self.shared.with(|core| core.siblings.as_ref().map_or(0, |siblings| siblings.index))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
    /// Runs `f` on the locked core, then wakes whom it made ready and calls the shard if there is
    /// something to send.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        core.net.refresh();
        let result = f(&mut core);
        let dirty = core.is_dirty();
        let wakes = std::mem::take(&mut core.wakes);
        drop(core);
        if dirty {
            self.ring();
        }
        for waker in wakes {
            waker.wake();
        }
        result
    }

    pub(crate) fn stats(&self) -> Stats {
        let mailbox_full = self.mailbox.refused();
        Stats { mailbox_full, ..self.with(|core| core.stats()) }
    }

    /// Calls the shard's owner.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic in a socket's closure leaves the core as consistent as a return would.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
