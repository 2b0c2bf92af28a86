//! A device that shares its interface with a kernel: it gives the stack what it has selected, and
//! nothing else.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use underpass::devices::{
    Buffers, Caps, Counters, Device, Frame, Instant, IpSelector, RxMeta, RxQueue, Selection,
    Selector, Wake,
};

/// Around another device.
pub(crate) struct Sharing<D> {
    device: D,
    /// Selectors that the kernel takes.
    most: usize,
    received: Received,
    said: Said,
}

/// Every selection so far, the first one first.
pub(crate) type Said = Arc<Mutex<Vec<Vec<Selector>>>>;

#[derive(Default)]
struct Received {
    wanted: Selection,
    frames: VecDeque<(Vec<u8>, RxMeta)>,
    lent: usize,
    /// Frames that the kernel has got.
    left: u64,
}

pub(crate) struct SharingRx<'a, Q> {
    queue: Q,
    received: &'a mut Received,
}

impl<D> Sharing<D> {
    pub(crate) fn new(device: D) -> Self {
        Self::of_at_most(device, usize::MAX)
    }

    pub(crate) fn of_at_most(device: D, most: usize) -> Self {
        Self { device, most, received: Received::default(), said: Said::default() }
    }

    pub(crate) fn said(&self) -> Vec<Vec<Selector>> {
        self.said.lock().unwrap().clone()
    }

    /// The same, to be looked at while the device has been given away.
    pub(crate) fn saying(&self) -> Said {
        Arc::clone(&self.said)
    }

    /// What is selected now.
    pub(crate) fn wanted(&self) -> &[Selector] {
        &self.received.wanted.selectors
    }

    /// Frames that the stack has not got.
    pub(crate) fn left(&self) -> u64 {
        self.received.left
    }
}

/// Everything to each of these addresses.
pub(crate) fn addresses(ips: &[&str]) -> Vec<Selector> {
    ips.iter().map(|ip| Selector::address(ip.parse().unwrap())).collect()
}

/// A protocol to all stations of its IP version.
pub(crate) fn to_everybody(protocol: u8) -> Selector {
    let to: IpAddr = if protocol == 2 { "224.0.0.1" } else { "ff02::1" }.parse().unwrap();
    Selector::Ip(IpSelector { to: Some(to), protocol: Some(protocol), port: None })
}

impl<D: Device> Device for Sharing<D> {
    type Rx<'a>
        = SharingRx<'a, D::Rx<'a>>
    where
        Self: 'a;
    type Tx<'a>
        = D::Tx<'a>
    where
        Self: 'a;

    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        let (queue, tx) = self.device.split();
        (SharingRx { queue, received: &mut self.received }, tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        self.device.wake()
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        if wanted.selectors.len() > self.most {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too much is selected"));
        }
        self.received.wanted = wanted.clone();
        self.said.lock().unwrap().push(wanted.selectors.clone());
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.device.counters()
    }

    fn buffers(&self) -> Buffers {
        self.device.buffers()
    }
}

impl<Q: RxQueue> RxQueue for SharingRx<'_, Q> {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        let Received { wanted, frames, lent, left } = self.received;
        self.queue.fill(now)?;
        while let Some(frame) = self.queue.next() {
            if wanted.matches(frame.bytes) {
                frames.push_back((frame.bytes.to_vec(), frame.meta));
            } else {
                *left += 1;
            }
        }
        self.queue.release();
        Ok(frames.len() - *lent)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let (bytes, meta) = self.received.frames.get_mut(self.received.lent)?;
        self.received.lent += 1;
        Some(Frame { bytes, meta: *meta })
    }

    fn release(&mut self) {
        self.received.frames.drain(..self.received.lent);
        self.received.lent = 0;
    }
}
