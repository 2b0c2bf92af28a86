//! When to say what.

use std::time::Duration;

use underpass_devices::{Instant, MacAddr};
use zerocopy::FromZeros;

use super::announcement::Lists;
use super::event::Events;
use super::header::{ANSWER, BEACON, BeaconHeader, GOODBYE, SOLICITATION, VERSION};
use super::table::{Ignored, Table};
use super::{
    AnnounceError, Announcement, BeaconCounters, BeaconEvent, DetectorConfig, Station, StationId,
};
use crate::{Incoming, Outbox, Peer, Protocol, Refused, SendError};

/// A station that says who it is, and knows who else is there.
///
/// The application learns of changes through [`event`](Self::event), and says goodbye with
/// [`leave`](Self::leave) before it detaches.
#[derive(Debug)]
pub struct Beacon {
    config: BeaconConfig,
    announcement: Announcement,
    table: Table,
    events: Events,
    counters: BeaconCounters,
    random: u64,
    sequence: u32,
    /// The time of the last call; `None` before the first one.
    now: Option<Instant>,
    /// When the next call is expected.
    expected: Instant,
    next_turn: Instant,
    solicit: bool,
    answer_at: Option<Instant>,
    /// There is no answer before: the last one was just given.
    no_answer_before: Instant,
    presence: Presence,
    /// What is being sent, and the interface it goes out on next.
    outgoing: Option<(u8, usize)>,
}

/// How a [`Beacon`] works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeaconConfig {
    /// Greater than in every run before, and no other station's: nanoseconds since 1970, for example.
    pub incarnation: u64,
    /// Mean time between two beacons, of which each comes up to a tenth earlier or later. At least a
    /// millisecond.
    pub interval: Duration,
    /// Interfaces of the stack that beacons go out on: this many, from the first one on.
    pub interfaces: usize,
    /// Stations that are known at a time. What more there are is refused and counted.
    pub max_stations: usize,
    /// Events that wait to be taken. The oldest one is lost to a new one, and counted.
    pub max_events: usize,
    /// Time between two answers. A solicitation is answered within twice as much.
    pub answer_gap: Duration,
    /// How long a station is suspected before it is down.
    pub grace: Duration,
    /// When a station is suspected.
    pub detector: DetectorConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    Leaving,
    Left,
}

impl BeaconConfig {
    /// A beacon per second on one interface, 256 stations, 1024 events, an answer in 250 ms, 5 s of
    /// grace.
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            interval: Duration::from_secs(1),
            interfaces: 1,
            max_stations: 256,
            max_events: 1024,
            answer_gap: Duration::from_millis(250),
            grace: Duration::from_secs(5),
            detector: DetectorConfig::default(),
        }
    }
}

impl Beacon {
    /// A station that says this of itself, as soon as it is attached.
    ///
    /// # Errors
    /// The announcement is too long, or has an address that no station has.
    pub fn new(config: BeaconConfig, announcement: Announcement) -> Result<Self, AnnounceError> {
        Ok(Self {
            announcement: announcement.checked()?,
            table: Table::new(&config),
            events: Events::new(config.max_events),
            counters: BeaconCounters::default(),
            random: config.incarnation,
            sequence: 0,
            now: None,
            expected: Instant::MAX,
            next_turn: Instant::ZERO,
            solicit: true,
            answer_at: None,
            no_answer_before: Instant::ZERO,
            presence: Presence::Here,
            outgoing: None,
            config,
        })
    }

    /// Takes the next event. The application is woken when there is one.
    pub fn event(&mut self) -> Option<BeaconEvent> {
        self.events.take()
    }

    /// The stations that are there, suspects included.
    pub fn stations(&self) -> impl Iterator<Item = Station<'_>> {
        self.table.iter(self.now.unwrap_or_default())
    }

    /// One of them.
    pub fn station(&self, id: StationId) -> Option<Station<'_>> {
        self.table.get(id, self.now.unwrap_or_default())
    }

    /// Says something else of itself from now on, and does so at once, if it has not just done so.
    ///
    /// # Errors
    /// As of [`new`](Self::new); the old announcement stays.
    pub fn announce(&mut self, announcement: Announcement) -> Result<(), AnnounceError> {
        self.announcement = announcement.checked()?;
        self.answer_at = Some(self.no_answer_before);
        Ok(())
    }

    /// Asks everybody to speak up, as a station does when it begins.
    pub fn solicit(&mut self) {
        self.solicit = true;
    }

    /// Says goodbye, once, and nothing any more. The application is woken when it is said.
    pub fn leave(&mut self) {
        if self.presence == Presence::Here {
            self.presence = Presence::Leaving;
        }
    }

    /// Goodbye is said.
    pub fn has_left(&self) -> bool {
        self.presence == Presence::Left
    }

    /// What was refused or lost.
    pub fn counters(&self) -> BeaconCounters {
        BeaconCounters { lost_events: self.events.lost, ..self.counters }
    }

    /// Begins a call: the time goes on.
    fn begin(&mut self, now: Instant) {
        if self.now.is_none() {
            // Stations that begin together do not go on together.
            self.next_turn = now + self.random_part(self.interval());
        } else if now - self.expected > self.config.detector.pause {
            self.counters.pauses += 1;
            self.table.forgive(now);
        }
        self.now = Some(now);
        self.table.work_off(now, &mut self.events);
    }

    fn end(&mut self, now: Instant, out: &mut Outbox<'_>) {
        self.expected = self.poll_timeout().map_or(Instant::MAX, |at| at.max(now));
        if self.events.take_news() {
            out.notify();
        }
    }

    fn hear(&mut self, now: Instant, frame: &Incoming<'_>) -> Result<(), Refused> {
        let Peer::Station { interface, address } = frame.from else { return Err(Refused) };
        let parsed = Lists::parse(frame.payload).filter(|(header, _)| {
            header.version == VERSION
                && (BEACON..=GOODBYE).contains(&header.kind)
                && address.is_unicast()
        });
        let Some((header, lists)) = parsed else {
            self.counters.malformed += 1;
            return Err(Refused);
        };
        if header.incarnation.get() == self.config.incarnation {
            self.counters.own += 1;
            return Err(Refused);
        }
        let id = StationId { interface, address };
        let heard = self.table.hear(now, id, (header, &lists), &mut self.events);
        heard.map_err(|why| {
            match why {
                Ignored::Stale => self.counters.stale += 1,
                Ignored::NoPlace => self.counters.no_place += 1,
            }
            Refused
        })?;
        if header.kind == SOLICITATION {
            if self.answer_at.is_some() {
                self.counters.merged += 1;
            } else {
                let first = now.max(self.no_answer_before);
                self.answer_at = Some(first + self.random_part(self.config.answer_gap));
            }
        }
        Ok(())
    }

    /// What is to be sent now.
    fn ready(&self, now: Instant) -> Option<u8> {
        match self.presence {
            Presence::Left => None,
            Presence::Leaving => Some(GOODBYE),
            Presence::Here if self.solicit => Some(SOLICITATION),
            Presence::Here if self.next_turn <= now => Some(BEACON),
            Presence::Here => self.answer_at.filter(|at| *at <= now).map(|_| ANSWER),
        }
    }

    /// Sends a frame on the interfaces that are left.
    fn send(&mut self, kind: u8, interface: usize, out: &mut Outbox<'_>) -> Result<(), SendError> {
        let interval = self.interval().as_millis();
        let header = BeaconHeader {
            version: VERSION,
            kind,
            incarnation: self.config.incarnation.into(),
            sequence: self.sequence.into(),
            interval: u32::try_from(interval).unwrap_or(u32::MAX).into(),
            ..BeaconHeader::new_zeroed()
        };
        for interface in interface..self.config.interfaces {
            self.outgoing = Some((kind, interface));
            let everybody = Peer::Station { interface, address: MacAddr::BROADCAST };
            let announcement = &self.announcement;
            let sent = out.send(everybody, announcement.len(), |frame| {
                // There is room for all of it.
                let _ = announcement.emit(&header, frame);
            });
            // What does not go out on one interface does on the others; it is counted.
            if sent == Err(SendError::Full) {
                return Err(SendError::Full);
            }
        }
        Ok(())
    }

    fn sent(&mut self, now: Instant, kind: u8, out: &mut Outbox<'_>) {
        self.outgoing = None;
        self.sequence = self.sequence.wrapping_add(1);
        // Each of them tells everything.
        self.answer_at = None;
        match kind {
            BEACON => {
                let interval = self.interval();
                self.next_turn = now + interval.mul_f64(0.9) + self.random_part(interval / 5);
            }
            SOLICITATION => self.solicit = false,
            GOODBYE => {
                self.presence = Presence::Left;
                out.notify();
            }
            _ => self.no_answer_before = now + self.config.answer_gap,
        }
    }

    fn interval(&self) -> Duration {
        self.config.interval.clamp(Duration::from_millis(1), Duration::from_secs(86_400))
    }

    /// A random part of `whole` (SplitMix64). It need not be hard to guess: it keeps stations apart.
    fn random_part(&mut self, whole: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = u128::from((z ^ z >> 31) >> 32);
        let nanos = (whole.as_nanos().min(u64::MAX.into()) * part) >> 32;
        Duration::from_nanos(nanos as u64)
    }
}

impl Protocol for Beacon {
    fn on_frame(
        &mut self,
        now: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused> {
        self.begin(now);
        let result = self.hear(now, frame);
        self.end(now, out);
        result
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Outbox<'_>) {
        self.begin(now);
        while let Some((kind, interface)) =
            self.outgoing.or_else(|| self.ready(now).map(|kind| (kind, 0)))
            && self.send(kind, interface, out).is_ok()
        {
            self.sent(now, kind, out);
        }
        self.end(now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.now.is_none() {
            return Some(Instant::ZERO);
        }
        let next_turn = (self.presence == Presence::Here).then_some(self.next_turn);
        let answer_at = self.answer_at.filter(|_| self.presence == Presence::Here);
        [next_turn, answer_at, self.table.due()].into_iter().flatten().min()
    }
}
