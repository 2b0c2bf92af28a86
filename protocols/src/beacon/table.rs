//! The other stations.

use std::collections::BTreeMap;
use std::time::Duration;

use underpass_devices::Instant;

use super::announcement::Lists;
use super::detector::{Detector, Tolerance};
use super::event::Events;
use super::header::{BEACON, BeaconHeader, GOODBYE};
use super::{Announcement, BeaconConfig, Change, Station, StationId, Why};

/// The stations that were heard, and when to look at them.
#[derive(Debug)]
pub(super) struct Table {
    stations: BTreeMap<StationId, Entry>,
    limit: usize,
    tolerance: Tolerance,
    grace: Duration,
    remembered: Duration,
    /// Nothing is due before.
    due: Instant,
    /// Everybody was found to be present, and nobody has gone since.
    all_present: bool,
}

/// Why a frame changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// It is older than what is known.
    Stale,
    /// The table is full of stations that are present.
    NoPlace,
}

#[derive(Debug)]
struct Entry {
    incarnation: u64,
    sequence: u32,
    announcement: Announcement,
    detector: Detector,
    state: State,
    /// When the state ends, if nothing is heard.
    due: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Present,
    Suspect,
    /// It has said goodbye. It is remembered for a while, so that a beacon which the goodbye has
    /// overtaken does not bring it back.
    Gone,
}

impl Table {
    pub(super) fn new(config: &BeaconConfig) -> Self {
        Self {
            stations: BTreeMap::new(),
            limit: config.max_stations,
            tolerance: Tolerance::new(config.detector),
            grace: config.grace,
            remembered: config.detector.max_silence,
            due: Instant::MAX,
            all_present: false,
        }
    }

    /// A frame of a station.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        id: StationId,
        (header, lists): (&BeaconHeader, &Lists<'_>),
        events: &mut Events,
    ) -> Result<(), Ignored> {
        let is_goodbye = header.kind == GOODBYE;
        let Some(entry) = self.stations.get_mut(&id) else {
            if is_goodbye {
                return Err(Ignored::Stale);
            }
            self.make_place(events)?;
            let entry = Entry::new(now, header, lists, &self.tolerance);
            self.due = self.due.min(entry.due);
            self.stations.insert(id, entry);
            events.add(id, Change::Up);
            return Ok(());
        };
        if !entry.takes(header) {
            return Err(Ignored::Stale);
        }
        if is_goodbye {
            if entry.state != State::Gone {
                events.add(id, Change::Down(Why::Goodbye));
            }
            (entry.incarnation, entry.sequence) = (header.incarnation.get(), header.sequence.get());
            (entry.state, entry.due) = (State::Gone, now + self.remembered);
            self.all_present = false;
        } else if let Some(change) = entry.update(now, header, lists, &self.tolerance) {
            events.add(id, change);
        }
        self.due = self.due.min(entry.due);
        Ok(())
    }

    /// Suspects and forgets those who were silent for too long.
    pub(super) fn work_off(&mut self, now: Instant, events: &mut Events) {
        if now < self.due {
            return;
        }
        self.due = Instant::MAX;
        self.all_present = false;
        let grace = self.grace;
        self.stations.retain(|id, entry| {
            if entry.due <= now {
                match entry.state {
                    State::Present => {
                        (entry.state, entry.due) = (State::Suspect, now + grace);
                        events.add(*id, Change::Suspect);
                    }
                    State::Suspect => {
                        events.add(*id, Change::Down(Why::Silent));
                        return false;
                    }
                    State::Gone => return false,
                }
            }
            self.due = self.due.min(entry.due);
            true
        });
    }

    /// Starts to wait anew for everybody: nobody could have been heard until now.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.due = Instant::MAX;
        for entry in self.stations.values_mut() {
            match entry.state {
                State::Present => {
                    entry.detector.skip(now);
                    entry.due = entry.detector.deadline(&self.tolerance);
                }
                State::Suspect => entry.due = now + self.grace,
                State::Gone => {}
            }
            self.due = self.due.min(entry.due);
        }
    }

    /// When [`work_off`](Self::work_off) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.due < Instant::MAX).then_some(self.due)
    }

    pub(super) fn get(&self, id: StationId, now: Instant) -> Option<Station<'_>> {
        self.stations.get(&id).and_then(|entry| self.show(id, entry, now))
    }

    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = Station<'_>> {
        self.stations.iter().filter_map(move |(id, entry)| self.show(*id, entry, now))
    }

    fn show<'a>(&self, id: StationId, entry: &'a Entry, now: Instant) -> Option<Station<'a>> {
        (entry.state != State::Gone).then(|| Station {
            id,
            incarnation: entry.incarnation,
            announcement: &entry.announcement,
            is_suspect: entry.state == State::Suspect,
            last_heard: entry.detector.last_heard(),
            phi: entry.detector.phi(now, &self.tolerance),
        })
    }

    /// Forgets who has gone, or else the suspect that was silent for longest, if the table is full.
    fn make_place(&mut self, events: &mut Events) -> Result<(), Ignored> {
        if self.stations.len() < self.limit {
            return Ok(());
        }
        // Else each of a flood of newcomers would cost a search.
        if self.all_present {
            return Err(Ignored::NoPlace);
        }
        let absent = self.stations.iter().filter(|(_, entry)| entry.state != State::Present);
        let weakest = absent
            .min_by_key(|(_, entry)| (entry.state == State::Suspect, entry.detector.last_heard()))
            .map(|(id, entry)| (*id, entry.state));
        let Some((id, state)) = weakest else {
            self.all_present = true;
            return Err(Ignored::NoPlace);
        };
        self.stations.remove(&id);
        if state == State::Suspect {
            events.add(id, Change::Down(Why::Evicted));
        }
        Ok(())
    }
}

impl Entry {
    fn new(now: Instant, header: &BeaconHeader, lists: &Lists<'_>, tolerance: &Tolerance) -> Self {
        let mut announcement = Announcement::default();
        lists.copy_to(&mut announcement);
        let mut detector = new_detector(now, header, tolerance);
        hear(&mut detector, now, header, tolerance);
        Self {
            incarnation: header.incarnation.get(),
            sequence: header.sequence.get(),
            announcement,
            due: detector.deadline(tolerance),
            detector,
            state: State::Present,
        }
    }

    /// The frame is newer than all that was heard. Of a suspect anything else is taken: its clock may
    /// have been set back, or somebody may have spoken in its name with too high a number.
    fn takes(&self, header: &BeaconHeader) -> bool {
        let (incarnation, sequence) = (header.incarnation.get(), header.sequence.get());
        if incarnation != self.incarnation {
            return incarnation > self.incarnation || self.state == State::Suspect;
        }
        let ahead = sequence.wrapping_sub(self.sequence).cast_signed();
        ahead > 0 || (ahead < 0 && self.state == State::Suspect)
    }

    fn update(
        &mut self,
        now: Instant,
        header: &BeaconHeader,
        lists: &Lists<'_>,
        tolerance: &Tolerance,
    ) -> Option<Change> {
        let is_restart = header.incarnation.get() != self.incarnation;
        let is_change = !lists.is(&self.announcement);
        let was = std::mem::replace(&mut self.state, State::Present);
        if is_change {
            lists.copy_to(&mut self.announcement);
        }
        if is_restart || was == State::Gone {
            self.detector = new_detector(now, header, tolerance);
        } else if was == State::Suspect {
            self.detector.skip(now);
        }
        (self.incarnation, self.sequence) = (header.incarnation.get(), header.sequence.get());
        hear(&mut self.detector, now, header, tolerance);
        self.due = self.detector.deadline(tolerance);
        match was {
            State::Gone => Some(Change::Up),
            _ if is_restart => Some(Change::Restarted),
            State::Suspect => Some(Change::Recovered),
            State::Present => is_change.then_some(Change::Changed),
        }
    }
}

fn new_detector(now: Instant, header: &BeaconHeader, tolerance: &Tolerance) -> Detector {
    Detector::new(now, Duration::from_millis(header.interval.get().into()), tolerance)
}

/// Frames out of turn tell that a station is there, and nothing of its rhythm.
fn hear(detector: &mut Detector, now: Instant, header: &BeaconHeader, tolerance: &Tolerance) {
    if header.kind == BEACON {
        detector.beat(now, tolerance);
    } else {
        detector.heard(now);
    }
}
