use std::io;
use std::thread;
use std::time::{Duration, Instant as Clock};

use super::Peer;
use super::rig::now;
use crate::{Device, RxQueue, SendError, TxMeta, TxQueue};

/// A [`Peer`] that is itself a device: the other end of a memory or simulated link.
#[derive(Debug)]
pub struct DevicePeer<D> {
    device: D,
}

impl<D: Device> DevicePeer<D> {
    /// The peer that drives `device`.
    pub fn new(device: D) -> Self {
        Self { device }
    }
}

impl<D: Device> Peer for DevicePeer<D> {
    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        let (_, mut tx) = self.device.split();
        match tx.send(frame.len(), TxMeta::default(), |slot| {
            slot.copy_from_slice(frame);
        }) {
            Ok(()) => tx.flush(now()).map(|()| true),
            Err(SendError::Full) => tx.flush(now()).map(|()| false),
            Err(e @ SendError::Unsupported) => Err(io::Error::new(io::ErrorKind::InvalidInput, e)),
        }
    }

    fn recv(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Clock::now() + timeout;
        loop {
            let (mut rx, _) = self.device.split();
            rx.fill(now())?;
            let frame = rx.next().map(|frame| frame.bytes.to_vec());
            rx.release();
            if frame.is_some() || Clock::now() >= deadline {
                return Ok(frame);
            }
            thread::yield_now();
        }
    }
}
