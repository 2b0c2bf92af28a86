//! The conformance kit over devices with one thing wrong each: every fault is found, by the case
//! that is there for it.

use std::io;

use underpass_devices::conformance::{self, Case, DevicePeer, Harness};
use underpass_devices::{
    Buffers, Caps, Counters, Device, Frame, Instant, MemoryConfig, MemoryDevice, RxQueue,
    SendError, TxMeta, TxQueue, Wake,
};

/// What a [`Broken`] device does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    DropsEveryHundredthSilently,
    ChangesAByteOfLongFrames,
    ReleasesWhatWasNotLent,
    LosesWhatIsSentWhenFull,
    TakesOversizedFrames,
    ForgetsABuffer,
    MiscountsFrames,
    NeverWakes,
    AlwaysWakes,
    IgnoresTheRace,
    AnnouncesTooMany,
    DamagesOffloadedFrames,
    LeavesOffloadsUndone,
}

struct Broken {
    rx: BrokenRx,
    tx: BrokenTx,
    caps: Caps,
}

/// A memory device serves both halves: frames pass through copies.
struct BrokenRx {
    flaw: Flaw,
    device: MemoryDevice,
    copy: Vec<u8>,
    count: u64,
}

struct BrokenTx {
    flaw: Flaw,
    device: MemoryDevice,
}

impl Device for Broken {
    type Rx = BrokenRx;
    type Tx = BrokenTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut BrokenRx, &mut BrokenTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        match (self.rx.flaw, self.rx.device.wake()?) {
            // The descriptor of the other link, where nothing ever arrives.
            (Flaw::NeverWakes, _) | (Flaw::IgnoresTheRace, Wake::Ready) => self.tx.device.wake(),
            (Flaw::AlwaysWakes, _) => Ok(Wake::Ready),
            _ => self.rx.device.wake(),
        }
    }

    fn counters(&self) -> Counters {
        let (rx, tx) = (self.rx.device.counters(), self.tx.device.counters());
        let extra = u64::from(self.rx.flaw == Flaw::MiscountsFrames && rx.rx_frames > 100);
        Counters {
            rx_frames: rx.rx_frames + extra,
            rx_bytes: rx.rx_bytes,
            ..tx
        }
    }

    fn buffers(&self) -> Buffers {
        let (rx, tx) = (self.rx.device.buffers(), self.tx.device.buffers());
        let lost = usize::from(self.rx.flaw == Flaw::ForgetsABuffer && rx.rx_lent > 3);
        Buffers {
            rx_lent: rx.rx_lent - lost,
            tx_total: tx.tx_total,
            tx_free: tx.tx_free,
            tx_busy: tx.tx_busy,
            ..rx
        }
    }
}

impl RxQueue for BrokenRx {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        let ready = self.device.split().0.fill(now)?;
        let extra = self.flaw == Flaw::AnnouncesTooMany && ready == 5;
        Ok(ready + usize::from(extra))
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let frame = self.device.split().0.next()?;
        self.count += 1;
        self.copy.clear();
        self.copy.extend_from_slice(frame.bytes);
        match self.flaw {
            Flaw::ChangesAByteOfLongFrames if self.copy.len() > 1000 => self.copy[900] ^= 1,
            Flaw::DropsEveryHundredthSilently if self.count.is_multiple_of(100) => {
                self.copy[6..12].fill(0);
            }
            _ => {}
        }
        Some(Frame {
            bytes: &self.copy,
            meta: frame.meta,
        })
    }

    fn release(&mut self) {
        let (rx, _) = self.device.split();
        if self.flaw == Flaw::ReleasesWhatWasNotLent {
            while rx.next().is_some() {}
        }
        rx.release();
    }
}

impl TxQueue for BrokenTx {
    fn room(&self) -> usize {
        let tx_full = self.flaw == Flaw::LosesWhatIsSentWhenFull;
        self.device.buffers().tx_free.max(usize::from(tx_full))
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        let longest = self.device.caps().max_frame();
        let (_, tx) = self.device.split();
        match self.flaw {
            Flaw::TakesOversizedFrames if len > longest => Ok(write(&mut vec![0; len])),
            Flaw::LosesWhatIsSentWhenFull if tx.room() == 0 => Ok(write(&mut vec![0; len])),
            Flaw::DamagesOffloadedFrames => tx.send(len, meta, |slot| {
                let value = write(slot);
                // Whoever cuts and completes this must find its headers.
                slot[20] ^= 0xff;
                value
            }),
            _ => tx.send(len, meta, write),
        }
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.device.split().1.flush(now)
    }
}

/// The device receives over one link and sends over another.
struct Bench {
    flaw: Flaw,
    device: Broken,
    peer: TwoPeers,
}

struct TwoPeers(DevicePeer<MemoryDevice>, DevicePeer<MemoryDevice>);

impl conformance::Peer for TwoPeers {
    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        self.0.send(frame)
    }

    fn recv(&mut self, timeout: std::time::Duration) -> io::Result<Option<Vec<u8>>> {
        self.1.recv(timeout)
    }
}

impl Bench {
    fn new(flaw: Flaw) -> Self {
        let config = MemoryConfig {
            slots: 16,
            offloads: true,
            ..MemoryConfig::default()
        };
        let (rx, rx_peer) = MemoryDevice::pair(config);
        let (tx, tx_peer) = MemoryDevice::pair(config);
        let device = Broken {
            caps: rx.caps().clone(),
            rx: BrokenRx {
                flaw,
                device: rx,
                copy: Vec::new(),
                count: 0,
            },
            tx: BrokenTx { flaw, device: tx },
        };
        Self {
            flaw,
            device,
            peer: TwoPeers(DevicePeer::new(rx_peer), DevicePeer::new(tx_peer)),
        }
    }
}

impl Harness for Bench {
    type Device = Broken;
    type Peer = TwoPeers;

    fn parts(&mut self) -> (&mut Broken, &mut TwoPeers) {
        (&mut self.device, &mut self.peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::new(self.flaw);
        Ok(())
    }

    /// A memory link leaves offloads undone, which is a flaw if it says that it is a wire.
    fn sees_wire(&self) -> bool {
        self.flaw == Flaw::LeavesOffloadsUndone
    }
}

fn fails(flaw: Flaw, case: Case) {
    let failures = conformance::run_cases(&mut Bench::new(flaw), &[case]).unwrap_err();
    println!("{failures}");
    assert!(failures.0.iter().any(|failure| failure.case == case));
}

#[test]
fn the_bench_itself_conforms() {
    let report = conformance::run(&mut Bench::new(Flaw::None)).unwrap();
    assert_eq!(report.passed, Case::ALL);
}

#[test]
fn every_flaw_is_found() {
    fails(Flaw::DropsEveryHundredthSilently, Case::Bursts);
    fails(Flaw::ChangesAByteOfLongFrames, Case::RingWrap);
    fails(Flaw::ReleasesWhatWasNotLent, Case::Release);
    fails(Flaw::LosesWhatIsSentWhenFull, Case::TxFull);
    fails(Flaw::TakesOversizedFrames, Case::Oversize);
    fails(Flaw::ForgetsABuffer, Case::Bursts);
    fails(Flaw::MiscountsFrames, Case::Bursts);
    fails(Flaw::NeverWakes, Case::WakeAfterIdle);
    fails(Flaw::AlwaysWakes, Case::WakeAfterIdle);
    fails(Flaw::IgnoresTheRace, Case::WakeRace);
    fails(Flaw::AnnouncesTooMany, Case::Bursts);
    fails(Flaw::DamagesOffloadedFrames, Case::Offloads);
    fails(Flaw::LeavesOffloadsUndone, Case::Offloads);
}
