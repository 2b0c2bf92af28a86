//! A device that loses and damages frames.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::segment::complete_checksum;
use crate::{Device, Hook, Hooked, PartialChecksum, Received, RxChecksum, TxMeta};

/// A device around a device that drops and corrupts frames at random, repeatably.
///
/// ```
/// use underpass_devices::{Device, Fault, FaultConfig, MemoryConfig, MemoryDevice, TxMeta, TxQueue};
///
/// let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
/// let config = FaultConfig { tx_drop: 1.0, ..FaultConfig::default() };
/// let mut device = Fault::new(device, config);
/// device.split().1.send(60, TxMeta::default(), |frame| frame.fill(7))?;
/// assert_eq!(device.stats().tx_dropped, 1);
/// assert_eq!(device.counters().tx_errors, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Fault<D> = Hooked<D, FaultHook>;

/// Probabilities per frame, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultConfig {
    /// Equal seeds and traffic give equal faults.
    pub seed: u64,
    /// A received frame is dropped.
    pub rx_drop: f64,
    /// One bit of a received frame is inverted.
    pub rx_corrupt: f64,
    /// A sent frame is dropped.
    pub tx_drop: f64,
    /// One bit of a sent frame is inverted. A superframe, whose segments would all get right
    /// checksums afterwards, is dropped instead.
    pub tx_corrupt: f64,
}

/// What has been done to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStats {
    /// Received frames dropped.
    pub rx_dropped: u64,
    /// Received frames corrupted.
    pub rx_corrupted: u64,
    /// Sent frames dropped.
    pub tx_dropped: u64,
    /// Sent frames corrupted.
    pub tx_corrupted: u64,
}

impl<D: Device> Fault<D> {
    /// The device with these faults.
    pub fn new(device: D, config: FaultConfig) -> Self {
        let hook = FaultHook {
            config,
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            corrupt_next: None,
            stats: FaultStats::default(),
        };
        Self::around(device, hook)
    }

    /// What has been done so far.
    pub fn stats(&self) -> FaultStats {
        self.hook().stats
    }
}

/// The [`Hook`] of [`Fault`].
#[derive(Debug)]
pub struct FaultHook {
    config: FaultConfig,
    rng: ChaCha8Rng,
    /// The frame being written is to be corrupted; this was asked for it.
    corrupt_next: Option<TxMeta>,
    stats: FaultStats,
}

impl FaultHook {
    fn happens(&mut self, probability: f64) -> bool {
        self.rng.random::<f64>() < probability
    }

    /// Inverts one bit, after the checksum was completed: otherwise whoever completes it would hide
    /// the damage.
    fn corrupt(&mut self, frame: &mut [u8], partial: Option<PartialChecksum>) {
        if let Some(partial) = partial {
            // A request that does not fit the frame leaves nothing to complete.
            let _ = complete_checksum(frame, partial);
        }
        let bit = self.rng.random_range(0..frame.len().max(1) * 8);
        if let Some(byte) = frame.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }
}

impl Hook for FaultHook {
    fn keeps_received(&mut self) -> bool {
        let dropped = self.happens(self.config.rx_drop);
        self.stats.rx_dropped += u64::from(dropped);
        !dropped
    }

    fn received(&mut self, frame: &mut Received<'_>) {
        if self.happens(self.config.rx_corrupt) {
            let partial = frame.meta.checksum.partial();
            self.corrupt(frame.bytes, partial);
            frame.meta.checksum = RxChecksum::Unverified;
            self.stats.rx_corrupted += 1;
        }
    }

    fn before_send(&mut self, meta: &mut TxMeta) -> bool {
        let dropped = self.happens(self.config.tx_drop);
        let corrupted = self.happens(self.config.tx_corrupt);
        if dropped || corrupted && meta.segmentation.is_some() {
            self.stats.tx_dropped += 1;
            return false;
        }
        self.corrupt_next = corrupted.then(|| std::mem::take(meta));
        true
    }

    fn sent(&mut self, frame: &mut [u8], _meta: TxMeta) {
        if let Some(asked) = self.corrupt_next.take() {
            self.corrupt(frame, asked.checksum);
            self.stats.tx_corrupted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::sum;
    use crate::{
        Instant, MemoryConfig, MemoryDevice, RxMeta, RxQueue, SegmentKind, Segmentation, TxQueue,
    };

    const NOW: Instant = Instant::ZERO;

    fn pair(config: FaultConfig) -> (Fault<MemoryDevice>, MemoryDevice) {
        let memory = MemoryConfig { offloads: true, ..MemoryConfig::default() };
        let (device, peer) = MemoryDevice::pair(memory);
        (Fault::new(device, config), peer)
    }

    fn send(device: &mut impl Device, meta: TxMeta) {
        let (_, mut tx) = device.split();
        tx.send(100, meta, |frame| frame.fill(0)).unwrap();
        tx.flush(NOW).unwrap();
    }

    fn receive(device: &mut impl Device) -> Option<(Vec<u8>, RxMeta)> {
        let (mut rx, _) = device.split();
        rx.fill(NOW).unwrap();
        let frame = rx.next().map(|frame| (frame.bytes.to_vec(), frame.meta));
        rx.release();
        frame
    }

    #[test]
    fn fill_announces_only_what_is_kept_and_the_dropped_are_counted() {
        let (mut device, mut peer) = pair(FaultConfig { rx_drop: 0.5, ..FaultConfig::default() });
        let mut received = 0;
        for _ in 0..200 {
            (0..5).for_each(|_| send(&mut peer, TxMeta::default()));
            let (mut rx, _) = device.split();
            let ready = rx.fill(NOW).unwrap();
            let lent = std::iter::from_fn(|| rx.next().map(|_| ())).count();
            assert_eq!(ready, lent);
            rx.release();
            received += lent as u64;
            let buffers = device.buffers();
            assert!(buffers.add_up() && buffers.rx_free == buffers.rx_total);
        }
        let counters = device.counters();
        assert_eq!(counters.rx_frames, received);
        assert_eq!(counters.rx_errors, 1000 - received);
        assert_eq!(device.stats().rx_dropped, 1000 - received);
        assert!((400..600).contains(&received));
    }

    #[test]
    fn a_corrupted_frame_has_one_bit_inverted_and_no_verdict() {
        let (mut device, mut peer) =
            pair(FaultConfig { rx_corrupt: 1.0, ..FaultConfig::default() });
        send(&mut peer, TxMeta::default());
        let (bytes, meta) = receive(&mut device).unwrap();
        assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_eq!(meta.checksum, RxChecksum::Unverified);
        assert_eq!(device.stats().rx_corrupted, 1);
    }

    #[test]
    fn a_partial_checksum_is_completed_before_the_damage() {
        let partial = PartialChecksum { start: 34, offset: 16 };
        let meta = TxMeta { checksum: Some(partial), segmentation: None };
        for (rx_corrupt, tx_corrupt) in [(1.0, 0.0), (0.0, 1.0)] {
            let config = FaultConfig { rx_corrupt, tx_corrupt, ..FaultConfig::default() };
            let (mut device, mut peer) = pair(config);
            let (bytes, meta) = if rx_corrupt > 0.0 {
                send(&mut peer, meta);
                receive(&mut device).unwrap()
            } else {
                send(&mut device, meta);
                receive(&mut peer).unwrap()
            };
            assert_eq!(meta.checksum, RxChecksum::Unverified);
            // All zero with a zero pseudo-header sum completes to 0xffff, but for one bit.
            let transport = sum(&bytes[34..]);
            assert!(transport != 0xffff || bytes[..34].iter().any(|byte| *byte != 0));
            assert_eq!((bytes[50] | bytes[51]).count_ones(), 8);
        }
    }

    #[test]
    fn a_superframe_to_be_corrupted_is_dropped() {
        let (mut device, mut peer) =
            pair(FaultConfig { tx_corrupt: 1.0, ..FaultConfig::default() });
        let meta = TxMeta {
            checksum: Some(PartialChecksum { start: 34, offset: 16 }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Tcp4,
                size: 40.try_into().unwrap(),
                header_len: 54,
            }),
        };
        send(&mut device, meta);
        assert!(receive(&mut peer).is_none());
        assert_eq!(device.stats(), FaultStats { tx_dropped: 1, ..FaultStats::default() });
        assert_eq!((device.counters().tx_frames, device.counters().tx_errors), (1, 1));
    }
}
