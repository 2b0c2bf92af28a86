//! The module's side of the rings, played in plain memory: for tests, and for the fuzz target.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::area::{Area, Words};
use super::ring::{Consumer, Producer};
use super::uapi::{FRAME_WORDS, state, word};

/// The module, which does as it should with whatever it finds.
#[derive(Debug)]
pub(super) struct Model {
    area: Arc<Area>,
    rx: Producer<Words, FRAME_WORDS>,
    fill: Consumer<Words, 1>,
    tx: Consumer<Words, FRAME_WORDS>,
    completions: Producer<Words, 1>,
}

impl Model {
    /// A module whose interface is up and whose transmit side sleeps.
    pub(super) fn new(area: &Arc<Area>) -> Self {
        let words = || Words(Arc::clone(area));
        words()[word::TX_DOORBELL].store(1, Ordering::Relaxed);
        words()[word::STATE].store(state::UP, Ordering::Relaxed);
        Self {
            rx: Producer::new(words(), area.rx_ring()),
            fill: Consumer::new(words(), area.fill_ring()),
            tx: Consumer::new(words(), area.tx_ring()),
            completions: Producer::new(words(), area.completion_ring()),
            area: Arc::clone(area),
        }
    }

    /// Receives a frame; `known` is what its entry says beside number and length. False: it is lost,
    /// for want of a free frame.
    pub(super) fn deliver(&mut self, frame: &[u8], known: [u32; 3]) -> bool {
        let Some(number) = self.free_frame() else { return false };
        // SAFETY: the device gave this frame away by putting it into the fill ring, and lends none
        // while the model is called.
        unsafe { self.area.bytes(number, frame.len()) }.copy_from_slice(frame);
        let [flags, start, offset] = known;
        let delivered = self.rx.push([number, frame.len() as u32, flags, start, offset]);
        self.rx.publish();
        delivered
    }

    /// A frame to receive into.
    pub(super) fn free_frame(&mut self) -> Option<u32> {
        self.fill.available().ok()?;
        let [number] = self.fill.pop()?;
        self.fill.give_back();
        (number < self.area.rx_slots()).then_some(number)
    }

    /// Writes an entry that says what it likes.
    pub(super) fn claim(&mut self, entry: [u32; FRAME_WORDS]) -> bool {
        let written = self.rx.push(entry);
        self.rx.publish();
        written
    }

    /// Sends the next frame: its bytes, and what its entry says beside number and length.
    pub(super) fn transmit(&mut self) -> Option<(Vec<u8>, [u32; 3])> {
        self.tx.available().ok()?;
        let [number, len, known @ ..] = self.tx.pop()?;
        self.tx.give_back();
        let first = self.area.rx_slots();
        if !(first..first + self.area.tx_slots()).contains(&number) {
            return None;
        }
        // SAFETY: the device gave this frame away by putting it into the transmit ring, and lends
        // none while the model is called.
        let frame = unsafe { self.area.bytes(number, len as usize) }.to_vec();
        self.completions.push([number]);
        self.completions.publish();
        Some((frame, known))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use underpass_devices::conformance::{self, Case, Harness, Peer};
    use underpass_devices::{
        Buffers, Caps, Counters, Device, Instant, MacAddr, PartialChecksum, RxChecksum, RxQueue,
        SegmentKind, Segmentation, SendError, TxMeta, TxQueue, Wake,
    };

    use super::*;
    use crate::kring::rx::{KringRx, broken};
    use crate::kring::tx::Slots;

    const RX_SLOTS: u32 = 16;
    const TX_SLOTS: u32 = 8;
    const FRAME_LEN: u32 = 2048;

    /// The device without system calls.
    struct Plain {
        caps: Caps,
        rx: KringRx,
        tx: PlainTx,
        model: Arc<Mutex<Model>>,
        lost: Arc<AtomicU32>,
    }

    struct PlainTx(Slots);

    impl Plain {
        fn open(caps: Caps) -> (Self, Arc<Area>) {
            let area = Arc::new(Area::allocate(RX_SLOTS, TX_SLOTS, FRAME_LEN).unwrap());
            let model = Arc::new(Mutex::new(Model::new(&area)));
            let rx = KringRx::new(&area);
            let tx = PlainTx(Slots::new(&area, caps.clone()));
            (Self { caps, rx, tx, model, lost: Arc::default() }, area)
        }
    }

    impl TxQueue for &mut PlainTx {
        fn room(&self) -> usize {
            self.0.room()
        }

        fn send<R>(
            &mut self,
            len: usize,
            meta: TxMeta,
            write: impl FnOnce(&mut [u8]) -> R,
        ) -> Result<R, SendError> {
            self.0.send(len, &meta, write)
        }

        fn flush(&mut self, _now: Instant) -> io::Result<()> {
            self.0.publish().map_err(broken)?;
            self.0.reap().map_err(broken)
        }
    }

    impl Device for Plain {
        type Rx<'a> = &'a mut KringRx;
        type Tx<'a> = &'a mut PlainTx;

        fn caps(&self) -> &Caps {
            &self.caps
        }

        fn split(&mut self) -> (&mut KringRx, &mut PlainTx) {
            (&mut self.rx, &mut self.tx)
        }

        fn wake(&mut self) -> io::Result<Wake<'_>> {
            Ok(if self.rx.is_ready()? { Wake::Ready } else { Wake::Spin })
        }

        fn counters(&self) -> Counters {
            let (rx, tx) = (self.rx.counters(), self.tx.0.counters);
            let rx_overruns = self.lost.load(Ordering::Relaxed).into();
            Counters { rx_frames: rx.rx_frames, rx_bytes: rx.rx_bytes, rx_overruns, ..tx }
        }

        fn buffers(&self) -> Buffers {
            self.rx.buffers(self.tx.0.buffers())
        }
    }

    struct ModelPeer {
        model: Arc<Mutex<Model>>,
        lost: Arc<AtomicU32>,
    }

    impl ModelPeer {
        fn of(plain: &Plain) -> Self {
            Self { model: Arc::clone(&plain.model), lost: Arc::clone(&plain.lost) }
        }
    }

    impl Peer for ModelPeer {
        fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
            if !self.model.lock().unwrap().deliver(frame, [0; 3]) {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            Ok(true)
        }

        fn recv(&mut self, _timeout: Duration) -> io::Result<Option<Vec<u8>>> {
            Ok(self.model.lock().unwrap().transmit().map(|(frame, _)| frame))
        }
    }

    struct PlainHarness(Plain, ModelPeer);

    impl Harness for PlainHarness {
        type Device = Plain;
        type Peer = ModelPeer;

        fn parts(&mut self) -> (&mut Plain, &mut ModelPeer) {
            (&mut self.0, &mut self.1)
        }

        fn reopen(&mut self) -> io::Result<()> {
            let (plain, _) = Plain::open(caps());
            let peer = ModelPeer::of(&plain);
            *self = Self(plain, peer);
            Ok(())
        }
    }

    fn caps() -> Caps {
        Caps::ethernet(MacAddr::local(1), 1500)
    }

    #[test]
    fn conforms_in_plain_memory() {
        let (plain, _) = Plain::open(caps());
        let peer = ModelPeer::of(&plain);
        let mut harness = PlainHarness(plain, peer);
        // Miri takes its time: those that go round the rings.
        let cases: &[Case] = if cfg!(miri) { &[Case::TxFull, Case::Release] } else { &Case::ALL };
        println!("{}", conformance::run_cases(&mut harness, cases).unwrap());
    }

    #[test]
    fn requests_and_verdicts_pass_both_ways() {
        let (mut device, _) = Plain::open(caps().with_offloads(2048));
        let meta = TxMeta {
            checksum: Some(PartialChecksum { start: 34, offset: 16 }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Tcp4,
                size: 500.try_into().unwrap(),
                header_len: 54,
            }),
        };
        let (_, mut tx) = device.split();
        tx.send(1800, meta, |slot| slot.fill(7)).unwrap();
        tx.flush(Instant::ZERO).unwrap();
        let mut model = device.model.lock().unwrap();
        let (frame, known) = model.transmit().unwrap();
        assert!(model.deliver(&frame, known));
        drop(model);
        let (rx, _) = device.split();
        assert_eq!(rx.fill(Instant::ZERO).unwrap(), 1);
        let frame = rx.next().unwrap();
        assert_eq!((frame.bytes.len(), frame.bytes[1799]), (1800, 7));
        assert_eq!(frame.meta.segmentation, meta.segmentation.map(|cut| cut.size));
        assert_eq!(Some(frame.meta.checksum), meta.checksum.map(RxChecksum::Partial));
    }

    #[test]
    fn an_interface_that_is_down_or_gone_is_an_error() {
        let (mut device, area) = Plain::open(caps());
        for (value, errno) in [(state::DOWN, libc::ENETDOWN), (state::GONE, libc::ENODEV)] {
            Words(Arc::clone(&area))[word::STATE].store(value, Ordering::Relaxed);
            assert_eq!(device.rx.fill(Instant::ZERO).unwrap_err().raw_os_error(), Some(errno));
            assert_eq!(device.rx.is_ready().unwrap_err().raw_os_error(), Some(errno));
        }
    }

    #[test]
    fn frames_that_were_not_given_or_do_not_fit_are_dropped_and_counted() {
        let (mut device, _) = Plain::open(caps());
        let model = Arc::clone(&device.model);
        let mut model = model.lock().unwrap();
        let mut number = || model.free_frame().unwrap();
        let (long, short, fine, of_unknown_kind) = (number(), number(), number(), number());
        let unknown_kind = u32::from_ne_bytes([0, 9, 0, 0]);
        for entry in [
            [RX_SLOTS, 60, 0, 0, 0],
            [u32::MAX, 60, 0, 0, 0],
            [long, FRAME_LEN + 1, 0, 0, 0],
            [short, 13, 0, 0, 0],
            [fine, 60, 0, 0, 0],
            [fine, 60, 0, 0, 0],
            [of_unknown_kind, 60, unknown_kind, 0, 0],
        ] {
            assert!(model.claim(entry));
        }
        drop(model);
        assert_eq!(device.rx.fill(Instant::ZERO).unwrap(), 1);
        assert_eq!(device.rx.counters().rx_errors, 6);
        assert!(device.buffers().add_up());
        device.rx.release();
        // All but the one that is ready.
        assert_eq!(device.buffers().rx_free, RX_SLOTS as usize - 1);
    }

    /// Words are written at random while the device works: nothing panics, no frame is in two hands, and
    /// the books balance.
    #[test]
    fn nothing_a_hostile_module_writes_leads_astray() {
        let rounds = if cfg!(miri) { 200 } else { 200_000 };
        let mut seed = 1_u64;
        let mut random = move || {
            // Marsaglia's xorshift64.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u32
        };
        let (mut device, mut area) = Plain::open(caps());
        for round in 0..rounds {
            if round % 1000 == 999 {
                // Once the indices are far off, nothing moves any more.
                (device, area) = Plain::open(caps());
            }
            let words = Words(Arc::clone(&area));
            let at = random() as usize % words.len();
            let value = match random() % 3 {
                0 => random(),
                1 => random() % (RX_SLOTS + TX_SLOTS + 2),
                _ => word_near(&words[at], random()),
            };
            words[at].store(value, Ordering::Relaxed);
            let mut lent = Vec::new();
            let (rx, mut tx) = device.split();
            // An error ends a device; this one goes on.
            let _ = rx.fill(Instant::ZERO);
            while let Some(frame) = rx.next() {
                lent.push(frame.bytes.as_ptr());
            }
            let distinct: std::collections::HashSet<_> = lent.iter().collect();
            assert_eq!(distinct.len(), lent.len());
            rx.release();
            let _ = tx.send(60 + round % 1000, TxMeta::default(), |slot| slot.fill(1));
            let _ = tx.flush(Instant::ZERO);
            assert!(device.buffers().add_up());
        }
    }

    fn word_near(word: &AtomicU32, distance: u32) -> u32 {
        word.load(Ordering::Relaxed).wrapping_add(distance % 5).wrapping_sub(2)
    }
}
