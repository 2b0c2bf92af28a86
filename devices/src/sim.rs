//! Two devices joined by a simulated link in virtual time.

mod wire;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::caps::MAX_SUPERFRAME;
use crate::{
    Buffers, Caps, Counters, Device, Frame, Instant, MacAddr, RxQueue, SendError, TxMeta, TxQueue,
    Wake,
};

use self::wire::{InFlight, Wire};

/// Frames that one end can hold in each direction.
const SLOTS: usize = 1024;

/// What a simulated link does to the frames on it, the same in each direction. Probabilities are
/// per frame on the wire, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Equal seeds, traffic and times give equal events.
    pub seed: u64,
    /// Largest IP packet in one frame, in bytes.
    pub mtu: usize,
    /// Serialisation takes the bits of the frame divided by this; `None`: no time.
    pub rate_bits_per_s: Option<u64>,
    /// From the last bit sent to the arrival.
    pub delay: Duration,
    /// Up to this much more, evenly distributed. Frames do not overtake each other by it.
    pub jitter: Duration,
    /// The frame does not arrive.
    pub loss: f64,
    /// The frame arrives twice.
    pub duplicate: f64,
    /// One bit of the frame arrives inverted.
    pub corrupt: f64,
    /// The frame is held back for up to one more `delay` (at least a millisecond), so that later
    /// ones overtake it.
    pub reorder: f64,
    /// Bytes that wait for serialisation, the frame being sent included; a frame that does not fit
    /// is dropped (drop-tail). An idle link takes any frame.
    pub queue_bytes: usize,
    /// The ends complete checksums and cut TCP superframes of up to 65,549 bytes, as a NIC does:
    /// what is on the wire is complete and not longer than the MTU.
    pub offloads: bool,
}

impl Default for LinkConfig {
    /// A perfect link: no delay, no limit of rate, no event; MTU 1500, a queue of 1 MiB.
    fn default() -> Self {
        Self {
            seed: 0,
            mtu: 1500,
            rate_bits_per_s: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            reorder: 0.0,
            queue_bytes: 1 << 20,
            offloads: false,
        }
    }
}

/// What has happened on a link, both directions together. Counts are of frames on the wire:
/// `sent + duplicated == delivered + lost + queue_dropped`, and those in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Given to the link.
    pub sent: u64,
    /// Received by the other end.
    pub delivered: u64,
    /// Lost at random.
    pub lost: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Arrived, or will, with one bit inverted.
    pub corrupted: u64,
    /// Held back.
    pub reordered: u64,
    /// Dropped because the queue was full.
    pub queue_dropped: u64,
}

/// The link between two [`SimDevice`]s: its clockwork and its counts.
///
/// ```
/// use std::time::Duration;
/// use underpass_devices::{Device, Instant, LinkConfig, RxQueue, SimLink, TxMeta, TxQueue};
///
/// let config = LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() };
/// let (mut a, mut b, link) = SimLink::pair(config);
/// let (_, tx) = a.split();
/// tx.send(60, TxMeta::default(), |frame| frame.fill(7))?;
/// tx.flush(Instant::ZERO)?;
///
/// let (rx, _) = b.split();
/// assert_eq!(rx.fill(Instant::from_millis(19))?, 0);
/// let arrival = link.next_arrival().unwrap();
/// assert_eq!(arrival, Instant::from_millis(20));
/// assert_eq!(rx.fill(arrival)?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SimLink {
    wires: [SharedWire; 2],
}

impl SimLink {
    /// Both ends of a new link, with the addresses 02:00:00:00:00:01 and …:02, and the link itself.
    pub fn pair(config: LinkConfig) -> (SimDevice, SimDevice, Self) {
        let [there, back] = [0, 1].map(|direction| SharedWire::new(Wire::new(config, direction)));
        let link = Self { wires: [there.clone(), back.clone()] };
        let end = |mac, rx: &SharedWire, tx: &SharedWire| SimDevice::new(config, mac, rx, tx);
        let a = end(MacAddr::local(1), &back, &there);
        let b = end(MacAddr::local(2), &there, &back);
        (a, b, link)
    }

    /// When the next frame in flight arrives, at either end: the time to jump to when both ends
    /// have nothing to do.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.wires.iter().filter_map(|wire| wire.lock().next_arrival()).min()
    }

    /// What has happened so far.
    pub fn stats(&self) -> LinkStats {
        let [a, b] = self.wires.each_ref().map(|wire| wire.lock().stats);
        LinkStats {
            sent: a.sent + b.sent,
            delivered: a.delivered + b.delivered,
            lost: a.lost + b.lost,
            duplicated: a.duplicated + b.duplicated,
            corrupted: a.corrupted + b.corrupted,
            reordered: a.reordered + b.reordered,
            queue_dropped: a.queue_dropped + b.queue_dropped,
        }
    }

    /// Changes the probability of loss from now on, in both directions: 1 cuts the link.
    pub fn set_loss(&self, loss: f64) {
        for wire in &self.wires {
            wire.lock().set_loss(loss);
        }
    }
}

/// One end of a simulated link. Frames leave with `flush(now)` and arrive when `fill(now)` is called
/// with their time of arrival or later. It cannot wake anybody: time is virtual.
#[derive(Debug)]
pub struct SimDevice {
    caps: Caps,
    rx: SimRx,
    tx: SimTx,
}

impl SimDevice {
    fn new(config: LinkConfig, mac: MacAddr, rx: &SharedWire, tx: &SharedWire) -> Self {
        let caps = Caps::ethernet(mac, config.mtu);
        let caps = if config.offloads { caps.with_offloads(MAX_SUPERFRAME) } else { caps };
        Self {
            rx: SimRx {
                wire: rx.clone(),
                held: VecDeque::new(),
                lent: 0,
                counters: Counters::default(),
            },
            tx: SimTx {
                wire: tx.clone(),
                caps: caps.clone(),
                queued: Vec::new(),
                counters: Counters::default(),
            },
            caps,
        }
    }
}

/// The receive half of a [`SimDevice`].
#[derive(Debug)]
pub struct SimRx {
    wire: SharedWire,
    /// What has arrived; the first `lent` frames are lent.
    held: VecDeque<InFlight>,
    lent: usize,
    counters: Counters,
}

/// The transmit half of a [`SimDevice`].
#[derive(Debug)]
pub struct SimTx {
    wire: SharedWire,
    caps: Caps,
    queued: Vec<(Vec<u8>, TxMeta)>,
    counters: Counters,
}

impl Device for SimDevice {
    type Rx<'a> = &'a mut SimRx;
    type Tx<'a> = &'a mut SimTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut SimRx, &mut SimTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        Ok(if self.rx.held.len() > self.rx.lent { Wake::Ready } else { Wake::Spin })
    }

    fn counters(&self) -> Counters {
        Counters {
            rx_frames: self.rx.counters.rx_frames,
            rx_bytes: self.rx.counters.rx_bytes,
            ..self.tx.counters
        }
    }

    fn buffers(&self) -> Buffers {
        Buffers {
            rx_total: SLOTS,
            rx_free: SLOTS - self.rx.held.len(),
            rx_ready: self.rx.held.len() - self.rx.lent,
            rx_lent: self.rx.lent,
            tx_total: SLOTS,
            tx_free: SLOTS - self.tx.queued.len(),
            tx_busy: self.tx.queued.len(),
        }
    }
}

impl RxQueue for SimRx {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        let mut wire = self.wire.lock();
        while self.held.len() < SLOTS
            && let Some(frame) = wire.receive(now)
        {
            self.held.push_back(frame);
        }
        let ready = self.held.len() - self.lent;
        if ready == 0 && wire.sender_gone && wire.next_arrival().is_none() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the other end of the simulated link was dropped",
            ));
        }
        Ok(ready)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let frame = self.held.get_mut(self.lent)?;
        self.lent += 1;
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.bytes.len() as u64;
        let meta = frame.meta();
        Some(Frame { bytes: &mut frame.bytes, meta })
    }

    fn release(&mut self) {
        let mut wire = self.wire.lock();
        self.held.drain(..self.lent).for_each(|frame| wire.recycle(frame.bytes));
        self.lent = 0;
    }
}

impl TxQueue for SimTx {
    fn room(&self) -> usize {
        SLOTS - self.queued.len()
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        if !self.caps.takes(len, &meta) {
            self.counters.tx_unsupported += 1;
            return Err(SendError::Unsupported);
        }
        if self.room() == 0 {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        }
        let mut bytes = self.wire.lock().buffer();
        bytes.resize(len, 0);
        let value = write(&mut bytes);
        self.queued.push((bytes, meta));
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        Ok(value)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        let mut wire = self.wire.lock();
        for (mut bytes, meta) in self.queued.drain(..) {
            if wire.receiver_gone || wire.send(now, &mut bytes, meta).is_err() {
                self.counters.tx_errors += 1;
            }
            wire.recycle(bytes);
        }
        Ok(())
    }
}

impl Drop for SimRx {
    fn drop(&mut self) {
        self.wire.lock().receiver_gone = true;
    }
}

impl Drop for SimTx {
    fn drop(&mut self) {
        self.wire.lock().sender_gone = true;
    }
}

/// One direction, shared by its two ends and the link.
#[derive(Clone, Debug)]
struct SharedWire(Arc<Mutex<Wire>>);

impl SharedWire {
    fn new(wire: Wire) -> Self {
        Self(Arc::new(Mutex::new(wire)))
    }

    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
