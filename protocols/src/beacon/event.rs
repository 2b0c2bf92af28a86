//! What the application is told, and what is counted.

use std::collections::VecDeque;
use std::fmt;

use underpass_devices::{Instant, MacAddr};

use super::Announcement;
use crate::Peer;

/// A station, as the segment knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StationId {
    /// Of ours, by which it is reached; counted from 0.
    pub interface: usize,
    /// Its address there.
    pub address: MacAddr,
}

/// What is known of a station.
#[derive(Clone, Copy, Debug)]
pub struct Station<'a> {
    /// Which one.
    pub id: StationId,
    /// Greater in each of its runs.
    pub incarnation: u64,
    /// What it says of itself.
    pub announcement: &'a Announcement,
    /// It has been silent for too long.
    pub is_suspect: bool,
    /// When something was heard of it.
    pub last_heard: Instant,
    /// How doubtful it is that it still is there, when the beacon was last at work: −log₁₀ of the
    /// probability of such a silence.
    pub phi: f64,
}

/// Something has happened to a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeaconEvent {
    /// To which one.
    pub station: StationId,
    /// What.
    pub change: Change,
}

/// What happens to stations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is here, and was not known.
    Up,
    /// It says something else of itself.
    Changed,
    /// It is a new run of itself: what it knew of us is gone.
    Restarted,
    /// It has been silent for longer than can be explained.
    Suspect,
    /// It was suspected, and is heard again.
    Recovered,
    /// It is not here any more, and forgotten.
    Down(Why),
}

/// Why a station is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has said goodbye.
    Goodbye,
    /// It was suspected, and stayed silent.
    Silent,
    /// It was suspected, and a newcomer needed its place.
    Evicted,
}

/// What a beacon has refused or lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BeaconCounters {
    /// Frames that were no beacons, or said what cannot be.
    pub malformed: u64,
    /// Frames older than what is known: repeated, overtaken, or goodbyes of strangers.
    pub stale: u64,
    /// Frames in our own name: a loop, a clone with our incarnation, or somebody who pretends.
    pub own: u64,
    /// Newcomers for whom there was no place.
    pub no_place: u64,
    /// Solicitations that are answered together with an earlier one.
    pub merged: u64,
    /// Events that nobody took in time; the oldest ones are lost.
    pub lost_events: u64,
    /// Times that we were not called for so long that the silence was ours.
    pub pauses: u64,
}

/// Events until they are taken.
#[derive(Debug)]
pub(super) struct Events {
    queue: VecDeque<BeaconEvent>,
    limit: usize,
    pub(super) lost: u64,
    is_news: bool,
}

impl From<StationId> for Peer {
    fn from(StationId { interface, address }: StationId) -> Self {
        Self::Station { interface, address }
    }
}

/// Its address, without the interface.
impl fmt::Display for StationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Events {
    pub(super) fn new(limit: usize) -> Self {
        Self { queue: VecDeque::new(), limit: limit.max(1), lost: 0, is_news: false }
    }

    pub(super) fn add(&mut self, station: StationId, change: Change) {
        if self.queue.len() >= self.limit {
            self.queue.pop_front();
            self.lost += 1;
        }
        self.queue.push_back(BeaconEvent { station, change });
        self.is_news = true;
    }

    pub(super) fn take(&mut self) -> Option<BeaconEvent> {
        self.queue.pop_front()
    }

    /// Something was added since this was last asked.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }
}
