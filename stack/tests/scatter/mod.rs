//! A device with several queues whose steering is hostile, on a simulated link.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use underpass::devices::{
    Buffers, Caps, Counters, Device, Frame, Instant, RxMeta, RxQueue, Selection, SendError,
    SimDevice, TxMeta, TxQueue, Wake,
};

/// Which queue the next received frame goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    /// Any, by this state (SplitMix64).
    Random(u64),
    /// Always this one.
    Fixed(usize),
}

/// One queue of a device whose queues share an end of a link.
pub(crate) struct Scatter {
    caps: Caps,
    rx: ScatterRx,
    tx: ScatterTx,
}

/// What the queues share.
pub(crate) struct Hub {
    device: SimDevice,
    choice: Choice,
    /// Frames that their queue has not taken.
    waiting: Vec<VecDeque<(Vec<u8>, RxMeta)>>,
}

pub(crate) struct ScatterRx {
    hub: Arc<Mutex<Hub>>,
    queue: usize,
    held: VecDeque<(Vec<u8>, RxMeta)>,
    lent: usize,
}

pub(crate) struct ScatterTx {
    hub: Arc<Mutex<Hub>>,
    queued: Vec<(Vec<u8>, TxMeta)>,
}

/// Splits an end of a link into queues.
pub(crate) fn scatter(
    device: SimDevice,
    queues: usize,
    choice: Choice,
) -> (Vec<Scatter>, Arc<Mutex<Hub>>) {
    let caps = device.caps().clone();
    let waiting = (0..queues).map(|_| VecDeque::new()).collect();
    let hub = Arc::new(Mutex::new(Hub { device, choice, waiting }));
    let queue = |queue| Scatter {
        caps: caps.clone(),
        rx: ScatterRx { hub: Arc::clone(&hub), queue, held: VecDeque::new(), lent: 0 },
        tx: ScatterTx { hub: Arc::clone(&hub), queued: Vec::new() },
    };
    ((0..queues).map(queue).collect(), hub)
}

impl Hub {
    /// Frames that wait for a turn of their shard.
    pub(crate) fn has_frames(&self) -> bool {
        self.waiting.iter().any(|queue| !queue.is_empty())
    }

    fn receive(&mut self, now: Instant) -> io::Result<()> {
        let (rx, _) = self.device.split();
        rx.fill(now)?;
        while let Some(frame) = rx.next() {
            let queues = self.waiting.len();
            let queue = match &mut self.choice {
                Choice::Random(state) => {
                    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    (mixed >> 33) as usize % queues
                }
                Choice::Fixed(queue) => *queue,
            };
            self.waiting[queue].push_back((frame.bytes.to_vec(), frame.meta));
        }
        rx.release();
        Ok(())
    }
}

impl Device for Scatter {
    type Rx<'a> = &'a mut ScatterRx;
    type Tx<'a> = &'a mut ScatterTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut ScatterRx, &mut ScatterTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        Ok(Wake::Spin)
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        self.rx.hub.lock().unwrap().device.select(wanted)
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn buffers(&self) -> Buffers {
        Buffers::default()
    }
}

impl RxQueue for ScatterRx {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        let mut hub = self.hub.lock().unwrap();
        hub.receive(now)?;
        let queue = self.queue;
        self.held.append(&mut hub.waiting[queue]);
        Ok(self.held.len() - self.lent)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let (bytes, meta) = self.held.get_mut(self.lent)?;
        self.lent += 1;
        Some(Frame { bytes, meta: *meta })
    }

    fn release(&mut self) {
        self.held.drain(..self.lent);
        self.lent = 0;
    }
}

impl TxQueue for ScatterTx {
    fn room(&self) -> usize {
        64 - self.queued.len()
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        if self.room() == 0 {
            return Err(SendError::Full);
        }
        let mut bytes = vec![0; len];
        let value = write(&mut bytes);
        self.queued.push((bytes, meta));
        Ok(value)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        let mut hub = self.hub.lock().unwrap();
        let (_, tx) = hub.device.split();
        for (bytes, meta) in self.queued.drain(..) {
            tx.send(bytes.len(), meta, |slot| slot.copy_from_slice(&bytes)).unwrap();
            tx.flush(now)?;
        }
        Ok(())
    }
}
