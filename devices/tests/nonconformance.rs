//! The conformance kit over devices with one thing wrong each: every fault is found, by the case
//! that is there for it.

use std::io;

use underpass_devices::conformance::{self, Case, DevicePeer, Harness};
use underpass_devices::{
    Buffers, Caps, Counters, Device, Frame, Instant, MemoryConfig, MemoryDevice, MemoryRx,
    MemoryTx, RxQueue, Selection, SendError, TxMeta, TxQueue, Wake,
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

/// A memory device with a flaw.
struct Broken {
    flaw: Flaw,
    device: MemoryDevice,
    /// One end of a link where nothing ever arrives, and the other end, which keeps it open.
    silent: (MemoryDevice, MemoryDevice),
    lending: Lending,
}

#[derive(Default)]
struct Lending {
    count: u64,
    copy: Vec<u8>,
}

struct BrokenRx<'a> {
    flaw: Flaw,
    queue: &'a mut MemoryRx,
    lending: &'a mut Lending,
}

struct BrokenTx<'a> {
    flaw: Flaw,
    queue: &'a mut MemoryTx,
    longest: usize,
}

impl Device for Broken {
    type Rx<'a> = BrokenRx<'a>;
    type Tx<'a> = BrokenTx<'a>;

    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn split(&mut self) -> (BrokenRx<'_>, BrokenTx<'_>) {
        let flaw = self.flaw;
        let longest = self.device.caps().max_frame();
        let (rx, tx) = self.device.split();
        let rx = BrokenRx { flaw, queue: rx, lending: &mut self.lending };
        let tx = BrokenTx { flaw, queue: tx, longest };
        (rx, tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        match (self.flaw, self.device.wake()?) {
            (Flaw::NeverWakes, _) | (Flaw::IgnoresTheRace, Wake::Ready) => self.silent.0.wake(),
            (Flaw::AlwaysWakes, _) => Ok(Wake::Ready),
            _ => self.device.wake(),
        }
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        self.device.select(wanted)
    }

    fn counters(&self) -> Counters {
        let counted = self.device.counters();
        let extra = u64::from(self.flaw == Flaw::MiscountsFrames && counted.rx_frames > 100);
        Counters { rx_frames: counted.rx_frames + extra, ..counted }
    }

    fn buffers(&self) -> Buffers {
        let buffers = self.device.buffers();
        let lost = usize::from(self.flaw == Flaw::ForgetsABuffer && buffers.rx_lent > 3);
        Buffers { rx_lent: buffers.rx_lent - lost, ..buffers }
    }
}

impl RxQueue for BrokenRx<'_> {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        let ready = self.queue.fill(now)?;
        let extra = self.flaw == Flaw::AnnouncesTooMany && ready == 5;
        Ok(ready + usize::from(extra))
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let frame = self.queue.next()?;
        let Lending { count, copy } = &mut *self.lending;
        *count += 1;
        copy.clear();
        copy.extend_from_slice(frame.bytes);
        match self.flaw {
            Flaw::ChangesAByteOfLongFrames if copy.len() > 1000 => copy[900] ^= 1,
            Flaw::DropsEveryHundredthSilently if count.is_multiple_of(100) => copy[6..12].fill(0),
            _ => {}
        }
        Some(Frame { bytes: copy, meta: frame.meta })
    }

    fn release(&mut self) {
        if self.flaw == Flaw::ReleasesWhatWasNotLent {
            while self.queue.next().is_some() {}
        }
        self.queue.release();
    }
}

impl TxQueue for BrokenTx<'_> {
    fn room(&self) -> usize {
        let never_full = self.flaw == Flaw::LosesWhatIsSentWhenFull;
        self.queue.room().max(usize::from(never_full))
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        match self.flaw {
            Flaw::TakesOversizedFrames if len > self.longest => Ok(write(&mut vec![0; len])),
            Flaw::LosesWhatIsSentWhenFull if self.queue.room() == 0 => Ok(write(&mut vec![0; len])),
            Flaw::DamagesOffloadedFrames => self.queue.send(len, meta, |slot| {
                let value = write(slot);
                // Whoever cuts and completes this must find its headers.
                slot[20] ^= 0xff;
                value
            }),
            _ => self.queue.send(len, meta, write),
        }
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.queue.flush(now)
    }
}

struct Bench {
    device: Broken,
    peer: DevicePeer<MemoryDevice>,
}

impl Bench {
    fn new(flaw: Flaw) -> Self {
        let config = MemoryConfig { slots: 16, offloads: true, ..MemoryConfig::default() };
        let (device, peer) = MemoryDevice::pair(config);
        let device = Broken {
            flaw,
            device,
            silent: MemoryDevice::pair(config),
            lending: Lending::default(),
        };
        Self { device, peer: DevicePeer::new(peer) }
    }
}

impl Harness for Bench {
    type Device = Broken;
    type Peer = DevicePeer<MemoryDevice>;

    fn parts(&mut self) -> (&mut Broken, &mut Self::Peer) {
        (&mut self.device, &mut self.peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::new(self.device.flaw);
        Ok(())
    }

    /// A memory link leaves offloads undone, which is a flaw if it says that it is a wire.
    fn sees_wire(&self) -> bool {
        self.device.flaw == Flaw::LeavesOffloadsUndone
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
