//! Who is on this segment, which addresses and shards do they have, and are they still there?
//!
//! A protocol on bare Ethernet, with the EtherType 0x88b5, which IEEE 802 sets aside for experiments: it
//! needs neither an address nor a server. Every station says once per interval who it is, to everybody,
//! and [`Beacon`] tells its application of the others: `Up`, `Changed`, `Restarted`, `Suspect`,
//! `Recovered`, `Down`.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |    version    |     kind      |           checksum            |
//! +---------------+---------------+-------------------------------+
//! |                          incarnation                          |
//! |                                                               |
//! +---------------------------------------------------------------+
//! |                           sequence                            |
//! +---------------------------------------------------------------+
//! |                           interval                            |
//! +-------------------------------+---------------+---------------+
//! |            shards             |     ipv4      |     ipv6      |
//! +---------------+---------------+---------------+---------------+
//! |   services    |                   reserved                    |
//! +---------------+-----------------------------------------------+
//! |  `ipv4` addresses of 4 bytes, `ipv6` addresses of 16 bytes,
//! |  `services` numbers of 2 bytes …
//! ```
//!
//! Every frame says everything, so nothing has to be acknowledged. There are four kinds:
//! - A *beacon* is sent once per `interval` (milliseconds), up to a tenth earlier or later, so that
//!   stations do not fall into step.
//! - A *solicitation* is the first frame of a station, or [`Beacon::solicit`]: the others are to speak up.
//! - An *answer* is sent after a solicitation, to everybody, at a random time within
//!   [`answer_gap`](BeaconConfig::answer_gap), and not again before the gap is over: however many ask, a
//!   station says little, and one answer serves all who have asked.
//! - A *goodbye* is the last frame ([`Beacon::leave`]). Detaching sends nothing, as the crash of a process
//!   does not.
//!
//! `incarnation` grows from one run of a station to the next, `sequence` with each frame of a run. What
//! is older than what is known is refused: frames that were repeated or overtaken bring back neither what
//! was said before nor who has said goodbye. A station whose clock was set back between two runs is heard
//! when its former run has become suspect.
//!
//! The checksum is over header and lists, and not over what Ethernet pads short frames with. The address of
//! the station is that of the Ethernet header, which only Ethernet's own check sequence protects.
//!
//! # When a station is suspected
//!
//! From Hayashibara, Défago, Yared and Katayama, "The φ Accrual Failure Detector" (2004), are taken: the
//! window of the newest intervals between beacons, the normal distribution that they are taken to have,
//! and φ = −log₁₀ P(a silence is longer than this one), in [`Station::phi`] for applications that decide
//! for themselves. Lost beacons count as long intervals: on a lossy link a detector grows patient by
//! itself. Not taken is a threshold per application: events are at one threshold.
//!
//! As the tails of real intervals are heavier than normal ones, and a regular station has hardly any
//! deviation, it is bounded as Akka's and Cassandra's are ([`DetectorConfig`]): by a minimum of the
//! deviation, and by a pause that is forgiven in any case. New here is `max_silence`: whatever its
//! rhythm was, a silent station is `Suspect` after this time, and `Down` when the
//! [`grace`](BeaconConfig::grace) is over as well. Silence that ends a suspicion is not part of the
//! rhythm; nor are answers, which others cause. A station that was itself not called for longer than the
//! pause, as its machine slept, has heard nobody for its own fault, and begins to wait anew.
//!
//! With the defaults a station that falls silent is suspect after some 5 s and down after 10 s; on a link
//! that loses 5 % of the frames, it takes a second more.
//!
//! # Limits
//!
//! A station has at most [`MAX_ADDRESSES`] addresses and [`MAX_SERVICES`] services; a frame with more is
//! malformed. [`max_stations`](BeaconConfig::max_stations) are known. When there are more, the ones that
//! have gone give place to newcomers, then suspects, the longest silent first. Nobody who is present
//! does: a flood of invented stations keeps newcomers out while it lasts, but no station that is known.
//!
//! # Lies
//!
//! Nothing is signed. Whoever can send on the segment can do so with the address of another station, and
//! say anything in its name: that it has gone, that it has restarted, that it has other addresses. Switches
//! that bind addresses to ports, or an own VLAN, keep strangers out; this protocol does not, and an
//! application that must know whom it talks to lets the peer prove it. What a stranger cannot do is have
//! more than `max_stations` remembered, or make a station answer more than once per gap.
//!
//! Addresses are claims. Group, broadcast, loopback and unspecified ones are refused, but a station may
//! announce what is another one's: that two of [`Beacon::stations`] announce the same address is for the
//! application to notice, and that an address is announced is no reason to trust it. Frames with our own
//! incarnation, from a loop or a clone of this machine, are refused and counted.
//!
//! ```
//! use underpass_devices::{Instant, MacAddr};
//! use underpass_protocols::beacon::{Announcement, Beacon, BeaconConfig, Change};
//! use underpass_protocols::{Incoming, Outbox, Peer, Protocol, Recorder};
//!
//! let said = Announcement { shards: 2, services: vec![80], ..Announcement::default() };
//! let mut ada = Beacon::new(BeaconConfig::new(1), said)?;
//! let mut bob = Beacon::new(BeaconConfig::new(2), Announcement::default())?;
//!
//! let mut sent = Recorder::default();
//! ada.poll_transmit(Instant::ZERO, &mut Outbox::new(&mut sent));
//! let station = |address| Peer::Station { interface: 0, address };
//! let frame = Incoming {
//!     from: station(MacAddr::local(1)),
//!     to: station(MacAddr::BROADCAST),
//!     interface: 0,
//!     link: None,
//!     hop_limit: None,
//!     payload: &sent.sent[0].1,
//! };
//! let mut answers = Recorder::default();
//! bob.on_frame(Instant::ZERO, &frame, &mut Outbox::new(&mut answers))?;
//! let event = bob.event().ok_or("an event")?;
//! assert_eq!(event.change, Change::Up);
//! let ada = bob.station(event.station).ok_or("a station")?;
//! assert_eq!((ada.announcement.shards, &ada.announcement.services[..]), (2, &[80][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod announcement;
mod detector;
mod event;
mod header;
mod machine;
mod table;
#[cfg(test)]
mod tests;

pub use self::announcement::{AnnounceError, Announcement, MAX_ADDRESSES, MAX_SERVICES};
pub use self::detector::DetectorConfig;
pub use self::event::{BeaconCounters, BeaconEvent, Change, Station, StationId, Why};
pub use self::header::BeaconHeader;
pub use self::machine::{Beacon, BeaconConfig};
