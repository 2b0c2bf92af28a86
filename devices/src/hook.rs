//! Devices around a device.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    Buffers, Caps, Counters, Device, Frame, Instant, RxMeta, RxQueue, SendError, TxMeta, TxQueue,
    Wake,
};

/// What happens to the frames of a [`Hooked`] device on their way. Every method does nothing by
/// default.
pub trait Hook {
    /// The latest time the shard gave to `fill` or `flush`.
    fn tick(&mut self, now: Instant) {
        let _ = now;
    }

    /// Asked once per received frame, in order, before it is looked at: false drops it.
    fn keeps_received(&mut self) -> bool {
        true
    }

    /// A frame is lent to the stack. It is a copy, which the hook may change.
    fn received(&mut self, frame: &mut [u8], meta: &mut RxMeta) {
        let _ = (frame, meta);
    }

    /// Asked once per frame to be queued: false drops it. The hook may take requests out of `meta`
    /// and then has to carry them out in [`sent`](Hook::sent).
    fn before_send(&mut self, meta: &mut TxMeta) -> bool {
        let _ = meta;
        true
    }

    /// A frame that `before_send` kept was written into its slot, and is being queued with `meta`.
    /// The hook may change it.
    fn sent(&mut self, frame: &mut [u8], meta: TxMeta) {
        let _ = (frame, meta);
    }

    /// The shard has nothing to do, and may sleep.
    fn idle(&mut self) {}
}

/// A device with a [`Hook`] on its frames.
///
/// Received frames are copied, so that a hook can change them; sent ones stay in their slot. Frames
/// that the hook drops are counted as `rx_errors` and `tx_errors`.
///
/// ```
/// use underpass_devices::{Device, Hook, Hooked, MemoryConfig, MemoryDevice, TxMeta, TxQueue};
///
/// #[derive(Default)]
/// struct Longest(usize);
///
/// impl Hook for Longest {
///     fn sent(&mut self, frame: &mut [u8], _: TxMeta) {
///         self.0 = self.0.max(frame.len());
///     }
/// }
///
/// let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
/// let mut device = Hooked::around(device, Longest::default());
/// device.split().1.send(60, TxMeta::default(), |frame| frame.fill(7))?;
/// assert_eq!(device.with_hook(|longest| longest.0), 60);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Hooked<D, H> {
    caps: Caps,
    rx: HookedRx<D, H>,
    tx: HookedTx<D, H>,
    /// Another descriptor of the device's wake-up, which can be lent without the lock.
    bell: Option<OwnedFd>,
}

/// The receive half of a [`Hooked`] device.
#[derive(Debug)]
pub struct HookedRx<D, H> {
    shared: Shared<D, H>,
    /// One for each frame that the device filled and did not lend: is it kept?
    verdicts: VecDeque<bool>,
    /// The frame that is lent.
    copy: Vec<u8>,
    lending: bool,
}

/// The transmit half of a [`Hooked`] device.
#[derive(Debug)]
pub struct HookedTx<D, H> {
    shared: Shared<D, H>,
    /// Where frames are written that are dropped.
    discard: Vec<u8>,
}

impl<D: Device, H: Hook> Hooked<D, H> {
    /// The device with the hook.
    pub fn around(device: D, hook: H) -> Self {
        let caps = device.caps().clone();
        let inner = Inner {
            device,
            hook,
            dropped: Counters::default(),
        };
        let shared = Shared(Arc::new(Mutex::new(inner)));
        Self {
            caps,
            rx: HookedRx {
                shared: shared.clone(),
                verdicts: VecDeque::new(),
                copy: Vec::new(),
                lending: false,
            },
            tx: HookedTx {
                shared,
                discard: Vec::new(),
            },
            bell: None,
        }
    }

    /// Looks into the hook.
    pub fn with_hook<R>(&self, look: impl FnOnce(&mut H) -> R) -> R {
        look(&mut self.rx.shared.lock().hook)
    }
}

impl<D: Device, H: Hook> Device for Hooked<D, H> {
    type Rx = HookedRx<D, H>;
    type Tx = HookedTx<D, H>;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut HookedRx<D, H>, &mut HookedTx<D, H>) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        let mut inner = self.rx.shared.lock();
        inner.hook.idle();
        match inner.device.wake()? {
            Wake::Ready => return Ok(Wake::Ready),
            Wake::Spin => return Ok(Wake::Spin),
            Wake::Fd(fd) if self.bell.is_none() => self.bell = Some(fd.try_clone_to_owned()?),
            Wake::Fd(_) => {}
        }
        Ok(self
            .bell
            .as_ref()
            .map_or(Wake::Spin, |bell| Wake::Fd(bell.as_fd())))
    }

    fn counters(&self) -> Counters {
        let inner = self.rx.shared.lock();
        let (counted, dropped) = (inner.device.counters(), &inner.dropped);
        Counters {
            rx_frames: counted.rx_frames - dropped.rx_frames,
            rx_bytes: counted.rx_bytes - dropped.rx_bytes,
            rx_errors: counted.rx_errors + dropped.rx_frames,
            tx_frames: counted.tx_frames + dropped.tx_frames,
            tx_bytes: counted.tx_bytes + dropped.tx_bytes,
            tx_errors: counted.tx_errors + dropped.tx_frames,
            ..counted
        }
    }

    fn buffers(&self) -> Buffers {
        self.rx.shared.lock().device.buffers()
    }
}

impl<D: Device, H: Hook> RxQueue for HookedRx<D, H> {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        let mut inner = self.shared.lock();
        inner.hook.tick(now);
        let ready = inner.device.split().0.fill(now)?;
        while self.verdicts.len() < ready {
            self.verdicts.push_back(inner.hook.keeps_received());
        }
        let kept = self.verdicts.iter().filter(|keep| **keep).count();
        if kept == 0 && !self.lending {
            // Nobody will ask for these, so nobody would release them.
            inner.skip_dropped(&mut self.verdicts);
            inner.device.split().0.release();
        }
        Ok(kept)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let mut inner = self.shared.lock();
        let inner = &mut *inner;
        inner.skip_dropped(&mut self.verdicts);
        self.verdicts.pop_front()?;
        let frame = inner.device.split().0.next()?;
        self.copy.clear();
        self.copy.extend_from_slice(frame.bytes);
        let mut meta = frame.meta;
        self.lending = true;
        inner.hook.received(&mut self.copy, &mut meta);
        Some(Frame {
            bytes: &self.copy,
            meta,
        })
    }

    fn release(&mut self) {
        let mut inner = self.shared.lock();
        inner.skip_dropped(&mut self.verdicts);
        inner.device.split().0.release();
        self.lending = false;
    }
}

impl<D: Device, H: Hook> TxQueue for HookedTx<D, H> {
    fn room(&self) -> usize {
        self.shared.lock().device.split().1.room()
    }

    fn send<R>(
        &mut self,
        len: usize,
        mut meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        let mut inner = self.shared.lock();
        let Inner {
            device,
            hook,
            dropped,
        } = &mut *inner;
        let taken = device.caps().takes(len, &meta);
        let (_, tx) = device.split();
        if !taken || tx.room() == 0 {
            // The device refuses and counts it; the hook has nothing to see.
            return tx.send(len, meta, write);
        }
        if hook.before_send(&mut meta) {
            return tx.send(len, meta, |slot| {
                let value = write(slot);
                hook.sent(slot, meta);
                value
            });
        }
        dropped.tx_frames += 1;
        dropped.tx_bytes += len as u64;
        self.discard.resize(len, 0);
        Ok(write(&mut self.discard))
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        let mut inner = self.shared.lock();
        inner.hook.tick(now);
        inner.device.split().1.flush(now)
    }
}

/// What both halves need. The lock is never contended: both belong to one shard.
#[derive(Debug)]
struct Shared<D, H>(Arc<Mutex<Inner<D, H>>>);

#[derive(Debug)]
struct Inner<D, H> {
    device: D,
    hook: H,
    /// What the hook dropped; only the frame and byte counts are used.
    dropped: Counters,
}

impl<D, H> Shared<D, H> {
    fn lock(&self) -> MutexGuard<'_, Inner<D, H>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D, H> Clone for Shared<D, H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: Device, H> Inner<D, H> {
    /// Takes the frames in front that are not kept from the device.
    fn skip_dropped(&mut self, verdicts: &mut VecDeque<bool>) {
        while verdicts.front() == Some(&false) {
            verdicts.pop_front();
            if let Some(frame) = self.device.split().0.next() {
                self.dropped.rx_frames += 1;
                self.dropped.rx_bytes += frame.bytes.len() as u64;
            }
        }
    }
}
