use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use underpass_devices::{Buffers, Caps, Counters, Instant, SendError, TxMeta, TxQueue};

use super::ring::WriteRing;
use super::{IoMode, Slot, gone, is_gone, slots};
use crate::vnet_hdr;

/// Up to this many frames in one flush are written one by one: a single frame through the ring
/// costs half a `write` more, and the difference shrinks with the burst.
const DIRECT_WRITES: usize = 8;

/// The transmit half of a [`TapDevice`](super::TapDevice).
#[derive(Debug)]
pub struct TapTx {
    file: Arc<OwnedFd>,
    ring: Option<WriteRing>,
    caps: Caps,
    total: usize,
    free: Vec<Slot>,
    queued: VecDeque<Queued>,
    /// Where frames wait that the kernel could not take, while a flush looks at the others.
    refused: Vec<Queued>,
    stalled: bool,
    counters: Counters,
}

/// A slot whose first `len` bytes are to be written.
#[derive(Debug)]
pub(super) struct Queued {
    slot: Slot,
    len: usize,
}

impl TapTx {
    pub(super) fn new(
        file: Arc<OwnedFd>,
        ring: Option<WriteRing>,
        caps: Caps,
        total: usize,
    ) -> Self {
        Self {
            file,
            ring,
            total,
            free: slots(total, caps.max_tx_frame()),
            queued: VecDeque::with_capacity(total),
            refused: Vec::with_capacity(total),
            stalled: false,
            counters: Counters::default(),
            caps,
        }
    }

    pub(super) fn io_mode(&self) -> IoMode {
        match self.ring {
            Some(_) => IoMode::Uring,
            None => IoMode::Plain,
        }
    }

    /// True if the last flush left frames that the kernel could not take.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// What was sent.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The transmit slots.
    pub(super) fn buffers(&self) -> Buffers {
        Buffers {
            tx_total: self.total,
            tx_free: self.free.len(),
            tx_busy: self.queued.len() + self.in_kernel(),
            ..Buffers::default()
        }
    }

    fn in_kernel(&self) -> usize {
        self.ring.as_ref().map_or(0, WriteRing::in_kernel)
    }

    /// Writes the queue until the kernel takes no more. Returns what says that the device is gone.
    fn write_each(&mut self) -> Option<Errno> {
        let mut gone = None;
        while let Some(frame) = self.queued.pop_front() {
            match rustix::io::write(&self.file, frame.bytes()) {
                Err(Errno::INTR) => self.queued.push_front(frame),
                Err(Errno::AGAIN) => {
                    self.queued.push_front(frame);
                    break;
                }
                result => {
                    gone = gone.or(account_for(result, &mut self.counters));
                    self.free.push(frame.slot);
                }
            }
        }
        gone
    }
}

impl TxQueue for TapTx {
    fn room(&self) -> usize {
        self.free.len()
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
        // The slot freed last is the one still in the processor's cache.
        let Some(mut slot) = self.free.pop() else {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        };
        let parts = slot.split_first_chunk_mut().and_then(|(header, rest)| {
            let frame = rest.get_mut(..len)?;
            Some((header, frame))
        });
        // Slots hold the longest frame that is sendable.
        let Some((header, frame)) = parts else {
            self.free.push(slot);
            self.counters.tx_unsupported += 1;
            return Err(SendError::Unsupported);
        };
        *header = vnet_hdr::encode(&meta);
        let result = write(frame);
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        self.queued.push_back(Queued::new(slot, vnet_hdr::LEN + len));
        Ok(result)
    }

    fn flush(&mut self, _now: Instant) -> io::Result<()> {
        if self.queued.is_empty() && self.in_kernel() == 0 {
            return Ok(());
        }
        let deleted = match &mut self.ring {
            // Frames still in the ring go first.
            Some(ring) if ring.in_kernel() > 0 || self.queued.len() > DIRECT_WRITES => {
                let mut deleted = None;
                let entered = ring.write(&mut self.queued, |frame, result| {
                    if let Err(Errno::AGAIN | Errno::INTR | Errno::CANCELED) = result {
                        self.refused.push(frame);
                    } else {
                        deleted = deleted.or(account_for(result, &mut self.counters));
                        self.free.push(frame.slot);
                    }
                });
                while let Some(frame) = self.refused.pop() {
                    self.queued.push_front(frame);
                }
                entered?;
                deleted
            }
            _ => self.write_each(),
        };
        self.stalled = !self.queued.is_empty() || self.in_kernel() > 0;
        deleted.map_or(Ok(()), |errno| Err(gone(errno)))
    }
}

impl Queued {
    pub(super) fn new(slot: Slot, len: usize) -> Self {
        Self { slot, len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.slot.get(..self.len).unwrap_or_default()
    }
}

/// Counts a frame the kernel did not take. Returns the error if it means that the device is gone.
fn account_for(result: Result<usize, Errno>, counters: &mut Counters) -> Option<Errno> {
    let errno = result.err()?;
    counters.tx_errors += 1;
    is_gone(errno).then_some(errno)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;
    use std::os::unix::net::UnixDatagram;

    use underpass_devices::{MacAddr, PartialChecksum, SegmentKind, Segmentation};

    use super::*;

    /// Enough for bursts of both kinds.
    const SLOTS: usize = 2 * DIRECT_WRITES;

    /// A transmit half over one end of a socket pair; `None` where its mode cannot be had.
    fn pair(mode: IoMode) -> Option<(TapTx, UnixDatagram)> {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let file = Arc::new(OwnedFd::from(near));
        let ring = match mode {
            IoMode::Plain => None,
            IoMode::Uring => match WriteRing::new(Arc::clone(&file), SLOTS) {
                Ok(ring) => Some(ring),
                Err(error) => {
                    eprintln!("not tested: {error}");
                    return None;
                }
            },
        };
        let caps = Caps::ethernet(MacAddr::local(1), 1500).with_offloads(vnet_hdr::MAX_SUPERFRAME);
        Some((TapTx::new(file, ring, caps, SLOTS), far))
    }

    fn for_each_mode(mut test: impl FnMut(TapTx, UnixDatagram)) {
        for mode in [IoMode::Plain, IoMode::Uring] {
            if let Some((tx, far)) = pair(mode) {
                assert_eq!(tx.io_mode(), mode);
                test(tx, far);
            }
        }
    }

    fn send(tx: &mut TapTx, number: u8) -> Result<(), SendError> {
        let len = 60 + usize::from(number % 7);
        tx.send(len, TxMeta::default(), |frame| {
            assert_eq!(frame.len(), len);
            frame.fill(number);
        })
    }

    fn flush(tx: &mut TapTx) {
        tx.flush(Instant::ZERO).unwrap();
        audit(tx);
    }

    fn audit(tx: &TapTx) -> Buffers {
        let buffers = tx.buffers();
        assert!(buffers.add_up(), "{buffers:?}");
        buffers
    }

    /// The numbers of the frames that arrived, each checked to be whole.
    fn received(far: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| far.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec()))
            .map(|bytes| {
                let (header, frame) = bytes.split_at(vnet_hdr::LEN);
                assert_eq!(header, [0; vnet_hdr::LEN]);
                let number = frame[0];
                assert_eq!(frame, vec![number; 60 + usize::from(number % 7)]);
                number
            })
            .collect()
    }

    #[test]
    fn bursts_of_all_sizes_leave_in_order_with_the_flush() {
        for_each_mode(|mut tx, far| {
            let mut number = 0;
            for burst in (0..=SLOTS).cycle().take(100) {
                let numbers: Vec<_> = (0..burst as u8).map(|i| number + i).collect();
                for &number in &numbers {
                    send(&mut tx, number).unwrap();
                }
                assert_eq!(audit(&tx).tx_busy, burst);
                flush(&mut tx);
                assert_eq!(audit(&tx).tx_free, SLOTS);
                assert_eq!(received(&far), numbers);
                number = number.wrapping_add(burst as u8) % 200;
            }
        });
    }

    #[test]
    fn a_full_queue_refuses_and_counts() {
        for_each_mode(|mut tx, far| {
            while tx.room() > 0 {
                send(&mut tx, 1).unwrap();
            }
            assert_eq!(send(&mut tx, 2), Err(SendError::Full));
            assert_eq!(tx.counters.tx_full, 1);
            assert_eq!(tx.counters.tx_frames, SLOTS as u64);
            flush(&mut tx);
            assert_eq!(tx.room(), SLOTS);
            assert_eq!(received(&far), [1; SLOTS]);
        });
    }

    #[test]
    fn what_the_kernel_cannot_take_stays_queued_in_order() {
        for_each_mode(|mut tx, far| {
            let mut sent = 0;
            while !tx.is_stalled() {
                while tx.room() > 0 {
                    send(&mut tx, sent).unwrap();
                    sent = (sent + 1) % 250;
                }
                flush(&mut tx);
            }
            assert!(audit(&tx).tx_busy > 0);
            let mut arrived = received(&far);
            while tx.is_stalled() {
                flush(&mut tx);
                arrived.extend(received(&far));
            }
            flush(&mut tx);
            arrived.extend(received(&far));
            assert_eq!(arrived.len() as u64, tx.counters.tx_frames);
            assert!(arrived.iter().zip((0..250).cycle()).all(|(a, b)| *a == b));
            assert_eq!(tx.counters.tx_errors, 0);
        });
    }

    #[test]
    fn a_frame_the_kernel_refuses_is_counted_and_its_slot_comes_back() {
        for_each_mode(|mut tx, far| {
            drop(far);
            for number in 0..SLOTS as u8 {
                send(&mut tx, number).unwrap();
            }
            flush(&mut tx);
            assert_eq!(tx.counters.tx_errors, SLOTS as u64);
            assert_eq!(tx.room(), SLOTS);
        });
    }

    #[test]
    fn requests_are_written_in_front_of_the_frame() {
        for_each_mode(|mut tx, far| {
            let meta = TxMeta {
                checksum: Some(PartialChecksum { start: 34, offset: 16 }),
                segmentation: Some(Segmentation {
                    kind: SegmentKind::Tcp4,
                    size: NonZeroU16::new(1460).unwrap(),
                    header_len: 54,
                }),
            };
            tx.send(20_000, meta, |frame| frame.fill(9)).unwrap();
            flush(&mut tx);
            let mut buffer = vec![0; 70_000];
            let len = far.recv(&mut buffer).unwrap();
            assert_eq!(len, vnet_hdr::LEN + 20_000);
            assert_eq!(buffer[..vnet_hdr::LEN], vnet_hdr::encode(&meta));
            assert!(buffer[vnet_hdr::LEN..len].iter().all(|byte| *byte == 9));
        });
    }

    #[test]
    fn what_the_device_cannot_do_is_refused_and_counted() {
        for_each_mode(|mut tx, _far| {
            for len in [0, 13, 1515, 65_535, usize::MAX] {
                let result = tx.send(len, TxMeta::default(), |_| panic!("{len} bytes"));
                assert_eq!(result.err(), Some(SendError::Unsupported));
            }
            assert_eq!(tx.counters.tx_unsupported, 5);
            assert_eq!(audit(&tx).tx_free, SLOTS);
        });
    }
}
