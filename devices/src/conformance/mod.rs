//! The device conformance kit: what every [`Device`] must do, as a function that a driver's test
//! calls.
//!
//! The kit drives the device on one side and a [`Peer`] on the other, which may be a real kernel
//! socket at the far end of the link. Its probe frames have EtherType 0x88B5 (IEEE 802 Local
//! Experimental) and a source address that only this run uses; whatever else arrives is ignored.
//! Loss is allowed only as far as something counted it ([`Counters`](crate::Counters) of the
//! device, [`Peer::dropped`]). After every single step the device's buffers must
//! [add up](crate::Buffers::add_up) and its frame and byte counters must be exact.
//!
//! ```
//! use std::io;
//! use underpass_devices::conformance::{self, DevicePeer, Harness};
//! use underpass_devices::{MemoryConfig, MemoryDevice};
//!
//! struct Memory {
//!     device: MemoryDevice,
//!     peer: DevicePeer<MemoryDevice>,
//! }
//!
//! impl Memory {
//!     fn open() -> Self {
//!         let config = MemoryConfig { slots: 16, ..MemoryConfig::default() };
//!         let (device, peer) = MemoryDevice::pair(config);
//!         Self { device, peer: DevicePeer::new(peer) }
//!     }
//! }
//!
//! impl Harness for Memory {
//!     type Device = MemoryDevice;
//!     type Peer = DevicePeer<MemoryDevice>;
//!
//!     fn parts(&mut self) -> (&mut MemoryDevice, &mut Self::Peer) {
//!         (&mut self.device, &mut self.peer)
//!     }
//!
//!     fn reopen(&mut self) -> io::Result<()> {
//!         *self = Self::open();
//!         Ok(())
//!     }
//! }
//!
//! let report = conformance::run(&mut Memory::open()).unwrap();
//! println!("{report}");
//! ```

mod lifecycle;
mod offload;
mod peer;
mod probe;
mod rig;
mod traffic;
mod wake;

use std::fmt;
use std::io;
use std::time::Duration;

use crate::{Device, MacAddr};

pub use self::peer::DevicePeer;
use self::rig::{Rig, Stop};

/// What a test brings: the device, and something at the other end of its link.
///
/// The medium must be Ethernet, and the link must pass frames with any source address both ways.
pub trait Harness {
    /// The device under test.
    type Device: Device;
    /// The other end.
    type Peer: Peer + Send;

    /// Both ends at once.
    fn parts(&mut self) -> (&mut Self::Device, &mut Self::Peer);

    /// Closes the device, with whatever is in flight, and opens it again; the peer may be opened
    /// again too.
    fn reopen(&mut self) -> io::Result<()>;

    /// The address frames from the device are sent to; broadcast unless the link needs better.
    fn peer_mac(&self) -> MacAddr {
        MacAddr::BROADCAST
    }

    /// True if the peer sees frames as they are on a wire: checksums complete, nothing longer than
    /// the MTU. If false, the peer may also see offload requests not carried out yet, as a packet
    /// socket on the same host does.
    fn sees_wire(&self) -> bool {
        false
    }

    /// Why this device cannot take part in `case`, if it cannot. The report names it.
    fn skip(&self, case: Case) -> Option<&'static str> {
        let _ = case;
        None
    }
}

/// The other end of the link: raw Ethernet frames in and out.
///
/// A packet socket needs a receive buffer of some MiB (`SO_RCVBUFFORCE`): the kit sends as many
/// frames as the device has slots before it reads.
pub trait Peer {
    /// Sends a frame towards the device at once. `Ok(false)`: the link is full, try later.
    fn send(&mut self, frame: &[u8]) -> io::Result<bool>;

    /// The next frame the device sent, or whatever else is on the link. `None` after `timeout`.
    fn recv(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>>;

    /// Frames of the device that were lost on the way to `recv`, as far as the peer can tell
    /// (`PACKET_STATISTICS`, drops of the interface). Monotonic.
    fn dropped(&mut self) -> u64 {
        0
    }
}

/// One thing a device must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Case {
    /// Bursts of 1, 2, … 64 frames each way arrive whole and in order.
    Bursts,
    /// Several times as many frames as there are slots, of all lengths, both ways.
    RingWrap,
    /// Sends until [`SendError::Full`](crate::SendError::Full); all that was queued arrives, and
    /// sending works again.
    TxFull,
    /// The peer sends more than the receive slots hold: what arrives is whole and in order, and
    /// receiving works again.
    RxOverrun,
    /// Frames of 14 to 64 bytes and of up to the MTU pass both ways.
    Lengths,
    /// Frames longer than allowed, and offloads the device does not have, are refused and counted.
    Oversize,
    /// `release` gives back what was lent, and nothing that was not.
    Release,
    /// A frame that arrives after `wake` makes its descriptor readable; an idle device lets its
    /// shard sleep.
    WakeAfterIdle,
    /// A frame that arrives between `fill` and `wake` is not slept over.
    WakeRace,
    /// The same with the peer on another thread, at any moment.
    WakeThreads,
    /// Closing with frames received, lent, queued and flushed; the reopened device works.
    Close,
    /// Checksums and segmentation are carried out as asked.
    Offloads,
}

impl Case {
    /// All cases, in the order in which [`run`] runs them.
    pub const ALL: [Self; 12] = [
        Self::Bursts,
        Self::RingWrap,
        Self::TxFull,
        Self::RxOverrun,
        Self::Lengths,
        Self::Oversize,
        Self::Release,
        Self::WakeAfterIdle,
        Self::WakeRace,
        Self::WakeThreads,
        Self::Close,
        Self::Offloads,
    ];
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Runs all cases. A case that fails does not keep the later ones from running.
pub fn run<H: Harness>(harness: &mut H) -> Result<Report, Failures> {
    run_cases(harness, &Case::ALL)
}

/// Runs these cases, in this order.
pub fn run_cases<H: Harness>(harness: &mut H, cases: &[Case]) -> Result<Report, Failures> {
    let mut report = Report::default();
    let mut failures = Failures(Vec::new());
    for &case in cases {
        if let Some(reason) = harness.skip(case) {
            report.skipped.push((case, reason.to_owned()));
            continue;
        }
        match run_case(harness, case, &mut report.notes) {
            Ok(()) => report.passed.push(case),
            Err(Stop::Skip(reason)) => report.skipped.push((case, reason)),
            Err(Stop::Fail(message)) => {
                failures.0.push(Failure { case, message });
                if let Err(e) = harness.reopen() {
                    let message = format!("reopening after the failure: {e}");
                    failures.0.push(Failure { case, message });
                    break;
                }
            }
        }
    }
    if failures.0.is_empty() { Ok(report) } else { Err(failures) }
}

/// What passed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The cases that passed.
    pub passed: Vec<Case>,
    /// The cases that do not apply to this device, and why.
    pub skipped: Vec<(Case, String)>,
    /// What the kit noticed without calling it wrong, such as loss that nothing can count.
    pub notes: Vec<(Case, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases passed", self.passed.len())?;
        for (case, reason) in &self.skipped {
            write!(f, "\n{case}: skipped: {reason}")?;
        }
        for (case, note) in &self.notes {
            write!(f, "\n{case}: note: {note}")?;
        }
        Ok(())
    }
}

/// A case that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub case: Case,
    /// What was expected and what was seen.
    pub message: String,
}

/// All cases that failed; prints one per line, also from `unwrap`.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failures(pub Vec<Failure>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device does not conform:")?;
        self.0.iter().try_for_each(|Failure { case, message }| write!(f, "\n{case}: {message}"))
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn run_case<H: Harness>(
    harness: &mut H,
    case: Case,
    notes: &mut Vec<(Case, String)>,
) -> Result<(), Stop> {
    let mut rig = Rig::new(harness)?;
    rig.settle()?;
    match case {
        Case::Bursts => traffic::bursts(&mut rig),
        Case::RingWrap => traffic::ring_wrap(&mut rig),
        Case::TxFull => traffic::tx_full(&mut rig),
        Case::RxOverrun => traffic::rx_overrun(&mut rig),
        Case::Lengths => traffic::lengths(&mut rig),
        Case::Oversize => traffic::oversize(&mut rig),
        Case::Release => traffic::release(&mut rig),
        Case::WakeAfterIdle => wake::after_idle(&mut rig),
        Case::WakeRace => wake::race(&mut rig),
        Case::WakeThreads => wake::threads(&mut rig),
        Case::Close => lifecycle::close(&mut rig),
        Case::Offloads => offload::offloads(&mut rig),
    }?;
    rig.settle()?;
    notes.extend(rig.into_notes().into_iter().map(|note| (case, note)));
    Ok(())
}
