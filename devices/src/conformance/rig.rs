//! What every case works with: the two ends, and the audit after every step.

use std::io;
use std::ops::Range;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant as Clock};

use super::probe::Probes;
use super::{Harness, Peer};
use crate::{
    Caps, Counters, Device, Instant, MacAddr, Medium, RxQueue, SendError, TxMeta, TxQueue,
};

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// After this long without a frame, frames that were counted as lost are believed to be.
const QUIET: Duration = Duration::from_millis(30);

/// Why a case did not pass.
#[derive(Debug)]
pub(super) enum Stop {
    Fail(String),
    Skip(String),
}

impl From<String> for Stop {
    fn from(message: String) -> Self {
        Self::Fail(message)
    }
}

/// The time, on one clock for both ends of every link.
pub(super) fn now() -> Instant {
    static STARTED: LazyLock<Clock> = LazyLock::new(Clock::now);
    Instant::ZERO + STARTED.elapsed()
}

pub(super) fn fail<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fail(message.into()))
}

/// A frame that the device lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The probe with this number.
    Probe(usize),
    /// Something else that is on the link.
    Other,
}

/// Where a test began: what is expected afterwards, and how much had been lost before.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) first: usize,
    rx_lost: u64,
    tx_lost: u64,
}

impl Mark {
    /// The same without the first `count` frames.
    pub(super) fn skip(self, count: usize) -> Self {
        Self { first: self.first + count, ..self }
    }
}

pub(super) struct Rig<'h, H> {
    pub(super) harness: &'h mut H,
    pub(super) probes: Probes,
    pub(super) caps: Caps,
    peer_mac: MacAddr,
    expected: Counters,
    notes: Vec<String>,
}

impl<'h, H: Harness> Rig<'h, H> {
    pub(super) fn new(harness: &'h mut H) -> Result<Self, Stop> {
        let peer_mac = harness.peer_mac();
        let (device, _) = harness.parts();
        let caps = device.caps().clone();
        let expected = device.counters();
        if caps.medium != Medium::Ethernet {
            return fail("the kit needs a device whose frames begin with an Ethernet header");
        }
        Ok(Self { harness, probes: Probes::new(), caps, peer_mac, expected, notes: Vec::new() })
    }

    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn device(&mut self) -> &mut H::Device {
        self.harness.parts().0
    }

    pub(super) fn peer(&mut self) -> &mut H::Peer {
        self.harness.parts().1
    }

    /// Slots of the smaller direction.
    pub(super) fn slots(&mut self) -> usize {
        let buffers = self.device().buffers();
        buffers.rx_total.min(buffers.tx_total)
    }

    /// Closes and opens the device.
    pub(super) fn reopen(&mut self) -> Result<(), Stop> {
        self.harness.reopen().map_err(|e| format!("reopening the device: {e}"))?;
        // A device may get another address each time, and so may the peer.
        self.caps = self.device().caps().clone();
        self.peer_mac = self.harness.peer_mac();
        self.expected = self.device().counters();
        // Frames of the closed device that are still on their way are nobody's any more.
        self.probes = Probes::new();
        self.audit("reopen")
    }

    /// The frames made from now on, and the loss from now on.
    pub(super) fn mark(&mut self) -> Mark {
        Mark { first: self.probes.next(), rx_lost: self.rx_lost(), tx_lost: self.tx_lost() }
    }

    /// Frames towards the device that were counted as lost.
    pub(super) fn rx_lost(&mut self) -> u64 {
        let counted = self.device().counters();
        counted.rx_overruns + counted.rx_errors
    }

    /// Frames from the device that were counted as lost.
    fn tx_lost(&mut self) -> u64 {
        self.device().counters().tx_errors + self.peer().dropped()
    }

    /// A new frame towards the device.
    pub(super) fn inbound(&mut self, len: usize) -> (usize, Vec<u8>) {
        self.probes.make(self.caps.mac, len)
    }

    /// The peer sends `count` new frames of lengths `len(0)`, `len(1)`, …
    pub(super) fn inject(
        &mut self,
        count: usize,
        len: impl Fn(usize) -> usize,
    ) -> Result<(), Stop> {
        for at in 0..count {
            let (seq, frame) = self.inbound(len(at));
            let deadline = Clock::now() + PATIENCE;
            while !self.peer().send(&frame).map_err(|e| peer_error("send", &e))? {
                if Clock::now() > deadline {
                    return fail(format!(
                        "the peer could not send frame {seq}: the link stays full"
                    ));
                }
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Queues a new frame of `len` bytes.
    pub(super) fn send(&mut self, len: usize) -> Result<Result<(), SendError>, Stop> {
        let dst = self.peer_mac;
        let (_, frame) = self.probes.make(dst, len);
        self.send_bytes(&frame, TxMeta::default())
    }

    /// Queues these bytes.
    pub(super) fn send_bytes(
        &mut self,
        frame: &[u8],
        meta: TxMeta,
    ) -> Result<Result<(), SendError>, Stop> {
        let room = self.device().split().1.room();
        let mut slot_len = None;
        let result = self.device().split().1.send(frame.len(), meta, |slot| {
            slot_len = Some(slot.len());
            slot.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
        });
        match (result, slot_len) {
            (Ok(()), Some(len)) if len == frame.len() => {
                self.expected.tx_frames += 1;
                self.expected.tx_bytes += len as u64;
            }
            (Ok(()), Some(len)) => {
                return fail(format!("send({}) lent a slot of {len} bytes", frame.len()));
            }
            (Ok(()), None) => return fail("send returned Ok and did not call write"),
            (Err(e), Some(_)) => return fail(format!("send called write and returned {e:?}")),
            (Err(SendError::Full), None) => self.expected.tx_full += 1,
            (Err(SendError::Unsupported), None) => self.expected.tx_unsupported += 1,
        }
        if result == Err(SendError::Full) && room > 0 {
            return fail(format!("room() was {room}, and send returned Full"));
        }
        self.audit("send")?;
        Ok(result)
    }

    /// Waits for what the device still holds: it may give slots back long after frames have arrived.
    pub(super) fn wait_for_room(&mut self) -> Result<(), Stop> {
        let deadline = Clock::now() + PATIENCE;
        while self.device().split().1.room() == 0 {
            self.flush()?;
            if Clock::now() > deadline {
                return fail(format!("room() has been 0 for {PATIENCE:?} of flushing"));
            }
        }
        Ok(())
    }

    /// Queues a new frame, which must be taken as soon as there is room.
    pub(super) fn must_send(&mut self, len: usize) -> Result<(), Stop> {
        self.wait_for_room()?;
        match self.send(len)? {
            Ok(()) => Ok(()),
            Err(e) => fail(format!("expected room for a frame of {len} bytes, got {e:?}")),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let now = now();
        self.device().split().1.flush(now).map_err(|e| format!("flush: {e}"))?;
        self.audit("flush")
    }

    pub(super) fn fill(&mut self) -> Result<usize, Stop> {
        let now = now();
        let ready = self.device().split().0.fill(now).map_err(|e| format!("fill: {e}"))?;
        self.audit("fill")?;
        Ok(ready)
    }

    /// Takes one frame.
    pub(super) fn next(&mut self) -> Result<Option<Received>, Stop> {
        let (mut rx, _) = self.harness.parts().0.split();
        let Some(frame) = rx.next() else {
            return Ok(None);
        };
        self.expected.rx_frames += 1;
        self.expected.rx_bytes += frame.bytes.len() as u64;
        let seq = self.probes.check(frame.bytes).map_err(|e| format!("received: {e}"))?;
        drop(rx);
        self.audit("next")?;
        Ok(Some(seq.map_or(Received::Other, Received::Probe)))
    }

    pub(super) fn release(&mut self) -> Result<(), Stop> {
        self.device().split().0.release();
        self.audit("release")?;
        match self.device().buffers().rx_lent {
            0 => Ok(()),
            lent => fail(format!("{lent} buffers are lent after release")),
        }
    }

    /// One burst: all frames that `fill` announces, and not one more.
    pub(super) fn receive_burst(&mut self) -> Result<Vec<usize>, Stop> {
        let ready = self.fill()?;
        let mut probes = Vec::new();
        for at in 0..ready {
            match self.next()? {
                Some(Received::Probe(seq)) => probes.push(seq),
                Some(Received::Other) => {}
                None => return fail(format!("fill returned {ready}, next only {at} frames")),
            }
        }
        if self.next()?.is_some() {
            return fail(format!("fill returned {ready}, next one frame more"));
        }
        self.release()?;
        Ok(probes)
    }

    /// Everything that arrives before the link falls quiet.
    pub(super) fn receive_all(&mut self) -> Result<Vec<usize>, Stop> {
        let mut got = Vec::new();
        let mut last = Clock::now();
        while last.elapsed() < 3 * QUIET {
            let burst = self.receive_burst()?;
            if !burst.is_empty() {
                last = Clock::now();
                got.extend(burst);
            }
            thread::yield_now();
        }
        Ok(got)
    }

    /// A case took these frames from the device by itself.
    pub(super) fn lent_elsewhere(&mut self, frames: u64, bytes: u64) {
        self.expected.rx_frames += frames;
        self.expected.rx_bytes += bytes;
    }

    /// Receives the frames made since `mark`; all of them, in order, but for counted loss.
    pub(super) fn expect_received(&mut self, mark: &Mark) -> Result<(), Stop> {
        let mut arrivals = Arrivals::new(mark.first..self.probes.next());
        loop {
            arrivals.extend(self.receive_burst()?);
            let lost = self.rx_lost().saturating_sub(mark.rx_lost);
            if arrivals.are_over(lost) {
                return arrivals.check("the device", lost);
            }
            thread::yield_now();
        }
    }

    /// The peer receives the frames made since `mark`; all of them, in order, but for counted loss.
    /// Flushes meanwhile.
    pub(super) fn expect_sent(&mut self, mark: &Mark) -> Result<(), Stop> {
        let mut arrivals = Arrivals::new(mark.first..self.probes.next());
        loop {
            match self.recv()? {
                Some(frame) => {
                    let seq = self.probes.check(&frame);
                    arrivals.extend(seq.map_err(|e| format!("the peer received: {e}"))?);
                }
                None => self.flush()?,
            }
            let lost = self.tx_lost().saturating_sub(mark.tx_lost);
            if arrivals.are_over(lost) {
                return arrivals.check("the peer", lost);
            }
        }
    }

    /// What the peer receives within a millisecond.
    pub(super) fn recv(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        let received = self.peer().recv(Duration::from_millis(1));
        Ok(received.map_err(|e| peer_error("recv", &e))?)
    }

    /// Lets everything in flight arrive, then accounts for every buffer: none is held by anybody.
    pub(super) fn settle(&mut self) -> Result<(), Stop> {
        let deadline = Clock::now() + PATIENCE;
        loop {
            self.flush()?;
            while self.recv()?.is_some() {}
            while self.fill()? > 0 {
                while self.next()?.is_some() {}
                self.release()?;
            }
            let buffers = self.device().buffers();
            if buffers.tx_free == buffers.tx_total && buffers.rx_free == buffers.rx_total {
                return Ok(());
            }
            if Clock::now() > deadline {
                return fail(format!(
                    "expected every buffer free after {PATIENCE:?} without traffic: {buffers:?}"
                ));
            }
        }
    }

    /// Every buffer is somewhere, and every frame was counted once.
    pub(super) fn audit(&mut self, step: &str) -> Result<(), Stop> {
        let (buffers, counted) = (self.device().buffers(), self.device().counters());
        if !buffers.add_up() {
            return fail(format!("after {step}, the buffers do not add up: {buffers:?}"));
        }
        // What the kit cannot foresee is taken over; it may only grow.
        let unforeseen = |c: &Counters| [c.rx_overruns, c.rx_errors, c.tx_errors];
        if unforeseen(&counted).iter().zip(unforeseen(&self.expected)).any(|(n, was)| *n < was) {
            return fail(format!("after {step}, a counter shrank: {counted:?}"));
        }
        self.expected.rx_overruns = counted.rx_overruns;
        self.expected.rx_errors = counted.rx_errors;
        self.expected.tx_errors = counted.tx_errors;
        if counted != self.expected {
            let expected = self.expected;
            return fail(format!("after {step}, expected {expected:?}, counted {counted:?}"));
        }
        Ok(())
    }
}

/// The numbers of the frames that arrived, of those that should.
struct Arrivals {
    want: Range<usize>,
    got: Vec<usize>,
    started: Clock,
    last: Clock,
}

impl Arrivals {
    fn new(want: Range<usize>) -> Self {
        Self { want, got: Vec::new(), started: Clock::now(), last: Clock::now() }
    }

    fn extend(&mut self, seqs: impl IntoIterator<Item = usize>) {
        let before = self.got.len();
        self.got.extend(seqs);
        if self.got.len() > before {
            self.last = Clock::now();
        }
    }

    /// True if there is nothing more to wait for, given that `lost` frames were counted as lost.
    fn are_over(&self, lost: u64) -> bool {
        let arrived = self.got.len();
        arrived >= self.want.len()
            || arrived + lost as usize >= self.want.len() && self.last.elapsed() > QUIET
            || self.started.elapsed() > PATIENCE
    }

    /// All arrived, in order, without at most `lost` of them.
    fn check(&self, who: &str, lost: u64) -> Result<(), Stop> {
        let Self { want, got, .. } = self;
        in_order(who, got)?;
        if let Some(other) = got.iter().find(|seq| !want.contains(seq)) {
            return fail(format!("{who} received frame {other}, expected {want:?} only"));
        }
        let missing = want.len() - got.len();
        if missing as u64 > lost {
            let first = want.clone().zip(got).find(|(want, got)| want != *got);
            let first = first.map_or(want.start + got.len(), |(want, _)| want);
            return fail(format!(
                "{who} received {} of {} frames; frame {first} is missing; {lost} were counted as \
                 lost",
                got.len(),
                want.len(),
            ));
        }
        Ok(())
    }
}

/// No frame came twice, and none overtook another.
pub(super) fn in_order(who: &str, got: &[usize]) -> Result<(), Stop> {
    match got.iter().zip(got.iter().skip(1)).find(|(before, after)| before >= after) {
        Some((before, after)) => fail(format!("{who} received frame {after} after frame {before}")),
        None => Ok(()),
    }
}

pub(super) fn peer_error(what: &str, e: &io::Error) -> String {
    format!("the peer failed to {what}: {e}")
}
