//! Devices joined in memory: two, or two times several queues.

mod mesh;

use std::io;

use crate::caps::MAX_SUPERFRAME;
use crate::{
    Buffers, Caps, Counters, Device, FlowHash, Frame, Instant, MacAddr, Medium, RxMeta, RxQueue,
    SendError, Steering, TxMeta, TxQueue, Wake,
};

use self::mesh::{Receiver, Sender, mesh};

/// How the two ends of a memory link are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Frame buffers of each direction and sending queue; at least one.
    pub slots: usize,
    /// Largest IP packet in one frame, in bytes.
    pub mtu: usize,
    /// Addresses of the first and the second end.
    pub macs: [MacAddr; 2],
    /// Both ends take partial checksums and TCP superframes of up to 65,549 bytes, and hand them to
    /// the other end as they are.
    pub offloads: bool,
}

impl Default for MemoryConfig {
    /// 256 slots, an MTU of 1500, no offloads.
    fn default() -> Self {
        Self {
            slots: 256,
            mtu: 1500,
            macs: [MacAddr::local(1), MacAddr::local(2)],
            offloads: false,
        }
    }
}

impl MemoryConfig {
    fn caps(&self, mac: MacAddr) -> Caps {
        let caps = Caps::ethernet(mac, self.mtu);
        if self.offloads { caps.with_offloads(MAX_SUPERFRAME) } else { caps }
    }

    fn slot_len(&self) -> usize {
        self.caps(self.macs[0]).max_tx_frame()
    }
}

/// One end of a link that exists in memory alone.
///
/// A frame is written once, into a buffer that then moves to the other end and back: no copy, no
/// allocation per frame. Both ends are `Send`; each may be driven by its own thread. A full link
/// pushes back ([`SendError::Full`]) and loses nothing. When one end is dropped, the other one
/// receives what had been flushed; then its `fill` fails with `ConnectionReset` and the frames it
/// sends are counted as `tx_errors`.
///
/// ```
/// use underpass_devices::{Device, Instant, MemoryConfig, MemoryDevice, RxQueue, TxMeta, TxQueue};
///
/// let (mut a, mut b) = MemoryDevice::pair(MemoryConfig::default());
/// let (_, tx) = a.split();
/// tx.send(60, TxMeta::default(), |frame| frame.fill(7))?;
/// tx.flush(Instant::ZERO)?;
///
/// let (rx, _) = b.split();
/// assert_eq!(rx.fill(Instant::ZERO)?, 1);
/// assert_eq!(rx.next().unwrap().bytes, [7; 60]);
/// rx.release();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MemoryDevice {
    caps: Caps,
    rx: MemoryRx,
    tx: MemoryTx,
}

/// The receive half of a [`MemoryDevice`].
#[derive(Debug)]
pub struct MemoryRx {
    mesh: Receiver,
    counters: Counters,
}

/// The transmit half of a [`MemoryDevice`].
#[derive(Debug)]
pub struct MemoryTx {
    caps: Caps,
    steering: Steering,
    mesh: Sender,
    counters: Counters,
}

impl MemoryDevice {
    /// Both ends of a new link.
    pub fn pair(config: MemoryConfig) -> (Self, Self) {
        let (mut a, mut b) = Self::pair_queues(config, 1);
        (a.remove(0), b.remove(0))
    }

    /// Both ends of a new link, each with `queues` queues (at least one): any queue can send to all
    /// queues of the other end, and which of them receives a frame is told by its flow
    /// ([`FlowHash::Software`]). Nothing is lost on the way, and frames of one flow sent by one
    /// queue stay in order.
    pub fn pair_queues(config: MemoryConfig, queues: usize) -> (Vec<Self>, Vec<Self>) {
        let queues = queues.max(1);
        let [mac_a, mac_b] = config.macs;
        let [slots, slot_len] = [config.slots.max(1), config.slot_len()];
        let (tx_a, rx_b) = mesh(queues, slots, slot_len);
        let (tx_b, rx_a) = mesh(queues, slots, slot_len);
        let end = |mac, rx: Vec<Receiver>, tx: Vec<Sender>| {
            let steering = (queues > 1).then_some(FlowHash::Software);
            let caps = Caps { steering, ..config.caps(mac) };
            let both = rx.into_iter().zip(tx);
            both.map(|(rx, tx)| Self::new(caps.clone(), rx, tx, queues)).collect()
        };
        (end(mac_a, rx_a, tx_a), end(mac_b, rx_b, tx_b))
    }

    fn new(caps: Caps, rx: Receiver, tx: Sender, queues: usize) -> Self {
        Self {
            rx: MemoryRx { mesh: rx, counters: Counters::default() },
            tx: MemoryTx {
                caps: caps.clone(),
                steering: Steering::new(FlowHash::Software, queues),
                mesh: tx,
                counters: Counters::default(),
            },
            caps,
        }
    }
}

impl Device for MemoryDevice {
    type Rx<'a> = &'a mut MemoryRx;
    type Tx<'a> = &'a mut MemoryTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut MemoryRx, &mut MemoryTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        self.rx.mesh.wake()
    }

    fn counters(&self) -> Counters {
        Counters {
            rx_frames: self.rx.counters.rx_frames,
            rx_bytes: self.rx.counters.rx_bytes,
            ..self.tx.counters
        }
    }

    fn buffers(&self) -> Buffers {
        let (rx, tx) = (&self.rx.mesh, &self.tx.mesh);
        Buffers {
            rx_total: rx.total(),
            rx_free: rx.free(),
            rx_ready: rx.ready(),
            rx_lent: rx.lent(),
            tx_total: tx.total(),
            tx_free: tx.free(),
            tx_busy: tx.busy(),
        }
    }
}

impl RxQueue for MemoryRx {
    fn fill(&mut self, _now: Instant) -> io::Result<usize> {
        self.mesh.fill()
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let frame = self.mesh.next()?;
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.bytes.len() as u64;
        Some(frame)
    }

    fn release(&mut self) {
        self.mesh.release();
    }
}

impl TxQueue for MemoryTx {
    fn room(&self) -> usize {
        self.mesh.room()
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
        let choose = |frame: &[u8]| self.steering.queue_of_frame(Medium::Ethernet, frame);
        let Some(value) = self.mesh.send(len, RxMeta::from(meta), write, choose) else {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        };
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        Ok(value)
    }

    fn flush(&mut self, _now: Instant) -> io::Result<()> {
        self.counters.tx_errors += self.mesh.flush() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;
