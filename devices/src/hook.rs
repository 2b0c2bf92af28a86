//! Devices around a device.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::io;

use crate::{
    Buffers, Caps, Counters, Device, Frame, Instant, RxMeta, RxQueue, Selection, SendError, TxMeta,
    TxQueue, Wake,
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

    /// A frame is about to be lent to the stack. The hook may change it.
    fn received(&mut self, frame: &mut Received<'_>) {
        let _ = frame;
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

/// A received frame in the hands of a [`Hook`], where the device wrote it.
#[derive(Debug)]
pub struct Received<'a> {
    /// What the device knows of it.
    pub meta: RxMeta,
    /// The frame.
    pub bytes: &'a mut [u8],
}

/// A device with a [`Hook`] on its frames.
///
/// Frames stay where the device has them, in its receive buffers and transmit slots. Frames that the hook drops are counted as `rx_errors` and
/// `tx_errors`.
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
/// assert_eq!(device.hook().0, 60);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Hooked<D, H> {
    device: D,
    /// Both halves call it, one call at a time: no borrow outlives a call of the hook.
    hook: RefCell<H>,
    rx: RxState,
    tx: TxState,
}

/// The receive half of a [`Hooked`] device, around the one of the device inside.
#[derive(Debug)]
pub struct HookedRx<'a, Q, H> {
    queue: Q,
    hook: &'a RefCell<H>,
    state: &'a mut RxState,
}

/// The transmit half of a [`Hooked`] device, around the one of the device inside.
#[derive(Debug)]
pub struct HookedTx<'a, Q, H> {
    queue: Q,
    hook: &'a RefCell<H>,
    state: &'a mut TxState,
}

#[derive(Debug, Default)]
struct RxState {
    /// One for each frame that the device filled and did not lend: is it kept?
    verdicts: VecDeque<bool>,
    /// How many of them are.
    kept: usize,
    /// A frame was lent, and not released.
    lending: bool,
    dropped_frames: u64,
    dropped_bytes: u64,
}

#[derive(Debug)]
struct TxState {
    caps: Caps,
    /// Where frames are written that are dropped.
    discard: Vec<u8>,
    dropped_frames: u64,
    dropped_bytes: u64,
}

impl<D: Device, H: Hook> Hooked<D, H> {
    /// The device with the hook.
    pub fn around(device: D, hook: H) -> Self {
        let tx = TxState {
            caps: device.caps().clone(),
            discard: Vec::new(),
            dropped_frames: 0,
            dropped_bytes: 0,
        };
        Self { device, hook: RefCell::new(hook), rx: RxState::default(), tx }
    }

    /// The hook.
    pub fn hook(&self) -> Ref<'_, H> {
        self.hook.borrow()
    }

    /// The hook, to be changed.
    pub fn hook_mut(&mut self) -> &mut H {
        self.hook.get_mut()
    }
}

impl<D: Device, H: Hook> Device for Hooked<D, H> {
    type Rx<'a>
        = HookedRx<'a, D::Rx<'a>, H>
    where
        Self: 'a;
    type Tx<'a>
        = HookedTx<'a, D::Tx<'a>, H>
    where
        Self: 'a;

    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        let (rx, tx) = self.device.split();
        let hook = &self.hook;
        let rx = HookedRx { queue: rx, hook, state: &mut self.rx };
        let tx = HookedTx { queue: tx, hook, state: &mut self.tx };
        (rx, tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        self.hook.get_mut().idle();
        self.device.wake()
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        self.device.select(wanted)
    }

    fn counters(&self) -> Counters {
        let counted = self.device.counters();
        Counters {
            rx_frames: counted.rx_frames - self.rx.dropped_frames,
            rx_bytes: counted.rx_bytes - self.rx.dropped_bytes,
            rx_errors: counted.rx_errors + self.rx.dropped_frames,
            tx_frames: counted.tx_frames + self.tx.dropped_frames,
            tx_bytes: counted.tx_bytes + self.tx.dropped_bytes,
            tx_errors: counted.tx_errors + self.tx.dropped_frames,
            ..counted
        }
    }

    fn buffers(&self) -> Buffers {
        self.device.buffers()
    }
}

impl<Q: RxQueue, H: Hook> HookedRx<'_, Q, H> {
    /// Takes the frames in front that are not kept from the device.
    fn skip_dropped(&mut self) {
        while self.state.verdicts.front() == Some(&false) {
            self.state.verdicts.pop_front();
            if let Some(frame) = self.queue.next() {
                self.state.dropped_frames += 1;
                self.state.dropped_bytes += frame.bytes.len() as u64;
            }
        }
    }
}

impl<Q: RxQueue, H: Hook> RxQueue for HookedRx<'_, Q, H> {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        let mut hook = self.hook.borrow_mut();
        hook.tick(now);
        let ready = self.queue.fill(now)?;
        while self.state.verdicts.len() < ready {
            let kept = hook.keeps_received();
            self.state.verdicts.push_back(kept);
            self.state.kept += usize::from(kept);
        }
        drop(hook);
        if self.state.kept == 0 && !self.state.lending && ready > 0 {
            // Nobody will ask for these, so nobody would release them.
            self.skip_dropped();
            self.queue.release();
        }
        Ok(self.state.kept)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        self.skip_dropped();
        self.state.verdicts.pop_front()?;
        self.state.kept -= 1;
        self.state.lending = true;
        let frame = self.queue.next()?;
        let mut received = Received { meta: frame.meta, bytes: frame.bytes };
        self.hook.borrow_mut().received(&mut received);
        Some(Frame { bytes: received.bytes, meta: received.meta })
    }

    fn release(&mut self) {
        self.skip_dropped();
        self.queue.release();
        self.state.lending = false;
    }
}

impl<Q: TxQueue, H: Hook> TxQueue for HookedTx<'_, Q, H> {
    fn room(&self) -> usize {
        self.queue.room()
    }

    fn send<R>(
        &mut self,
        len: usize,
        mut meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        if !self.state.caps.takes(len, &meta) || self.queue.room() == 0 {
            // The device refuses and counts it; the hook has nothing to see.
            return self.queue.send(len, meta, write);
        }
        if self.hook.borrow_mut().before_send(&mut meta) {
            return self.queue.send(len, meta, |slot| {
                let value = write(slot);
                self.hook.borrow_mut().sent(slot, meta);
                value
            });
        }
        self.state.dropped_frames += 1;
        self.state.dropped_bytes += len as u64;
        self.state.discard.resize(len, 0);
        Ok(write(&mut self.state.discard))
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.hook.borrow_mut().tick(now);
        self.queue.flush(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryConfig, MemoryDevice};

    const NOW: Instant = Instant::ZERO;

    /// Notes where every frame is, and changes those that begin with 1.
    #[derive(Default)]
    struct Look(Vec<usize>);

    impl Hook for Look {
        fn received(&mut self, frame: &mut Received<'_>) {
            self.0.push(frame.bytes.as_ptr().addr());
            if frame.bytes[0] == 1 {
                frame.bytes[1] = 9;
            }
        }
    }

    fn receive(device: &mut impl Device, byte: u8, peer: &mut MemoryDevice) -> (Vec<u8>, usize) {
        let (_, peer) = peer.split();
        peer.send(60, TxMeta::default(), |frame| frame.fill(byte)).unwrap();
        peer.flush(NOW).unwrap();
        let (mut rx, _) = device.split();
        assert_eq!(rx.fill(NOW).unwrap(), 1);
        let bytes = rx.next().unwrap().bytes;
        let received = (bytes.to_vec(), bytes.as_ptr().addr());
        rx.release();
        received
    }

    #[test]
    fn frames_are_changed_where_they_are() {
        let (device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
        let mut device = Hooked::around(device, Look::default());
        let (bytes, at) = receive(&mut device, 2, &mut peer);
        assert_eq!((bytes, at), (vec![2; 60], device.hook().0[0]));
        let (bytes, at) = receive(&mut device, 1, &mut peer);
        assert_eq!(bytes[..3], [1, 9, 1]);
        assert_eq!(at, device.hook().0[1]);
        let (bytes, _) = receive(&mut device, 2, &mut peer);
        assert_eq!(bytes, [2; 60]);
    }

    #[test]
    fn a_hooked_device_moves_to_the_thread_of_its_shard() {
        let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
        let device = Hooked::around(device, Look::default());
        let mtu = std::thread::spawn(move || device.caps().mtu).join().unwrap();
        assert_eq!(mtu, 1500);
    }

    #[test]
    fn a_frame_may_be_written_while_another_is_taken() {
        let (device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
        let mut device = Hooked::around(device, Look::default());
        let (_, peer_tx) = peer.split();
        peer_tx.send(60, TxMeta::default(), |frame| frame.fill(2)).unwrap();
        peer_tx.flush(NOW).unwrap();
        let (mut rx, mut tx) = device.split();
        rx.fill(NOW).unwrap();
        tx.send(60, TxMeta::default(), |slot| {
            slot.copy_from_slice(rx.next().unwrap().bytes);
        })
        .unwrap();
        tx.flush(NOW).unwrap();
        let (peer_rx, _) = peer.split();
        peer_rx.fill(NOW).unwrap();
        assert_eq!(peer_rx.next().unwrap().bytes, [2; 60]);
    }
}
