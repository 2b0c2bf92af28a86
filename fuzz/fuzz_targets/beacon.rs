//! Frames of strangers for a beacon, some with a correct checksum, while time passes and the application
//! does what it may. Its table and its queue stay within their limits, what it sends is understood by
//! another beacon, and events tell the same as the table.

#![no_main]

use std::collections::HashMap;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass_devices::{Instant, MacAddr};
use underpass_protocols::beacon::{
    Announcement, Beacon, BeaconConfig, BeaconHeader, Change, StationId,
};
use underpass_protocols::header::Header;
use underpass_protocols::{Incoming, Outbox, Peer, Protocol, Recorder};
use zerocopy::FromBytes;

#[derive(Arbitrary, Debug)]
enum Call {
    /// From one of eight stations on two interfaces.
    Frame(u8, Vec<u8>),
    /// The same with sensible numbers and a correct checksum.
    Plausible(u8, [u8; 28], Vec<u8>),
    Wait(u16),
    Announce(u16, Vec<u16>),
    Solicit,
    Leave,
    Events,
}

const CALLS: usize = 200;
const MAX_STATIONS: usize = 4;
const MAX_EVENTS: usize = 6;

struct World {
    beacon: Beacon,
    /// Hears what the first one sends.
    friend: Beacon,
    now: Instant,
    /// What events have said of each station: it is here.
    told: HashMap<StationId, bool>,
}

fn beacon(incarnation: u64) -> Beacon {
    let config = BeaconConfig {
        interfaces: 2,
        max_stations: MAX_STATIONS,
        max_events: MAX_EVENTS,
        ..BeaconConfig::new(incarnation)
    };
    Beacon::new(config, Announcement::default()).expect("nothing is announced")
}

fn hear(beacon: &mut Beacon, now: Instant, from: u8, payload: &[u8]) -> bool {
    let interface = usize::from(from / 4 % 2);
    let station = |address| Peer::Station { interface, address };
    let frame = Incoming {
        from: station(MacAddr::local((from % 4).into())),
        to: station(MacAddr::BROADCAST),
        interface,
        link: None,
        hop_limit: None,
        payload,
    };
    let mut sent = Recorder::default();
    let heard = beacon.on_frame(now, &frame, &mut Outbox::new(&mut sent)).is_ok();
    assert!(sent.sent.is_empty(), "answers have their time");
    heard
}

impl World {
    fn call(&mut self, call: Call) {
        match call {
            Call::Frame(from, bytes) => drop(hear(&mut self.beacon, self.now, from, &bytes)),
            Call::Plausible(from, header, lists) => {
                let Ok(header) = BeaconHeader::read_from_bytes(&header) else { return };
                let header = BeaconHeader {
                    version: 1,
                    kind: header.kind % 5,
                    incarnation: (header.incarnation.get() % 4).into(),
                    sequence: (header.sequence.get() % 16).into(),
                    ipv4: header.ipv4 % 10,
                    ipv6: header.ipv6 % 10,
                    services: header.services % 40,
                    ..header
                };
                let len = usize::from(header.ipv4) * 4
                    + usize::from(header.ipv6) * 16
                    + usize::from(header.services) * 2;
                let mut frame = vec![0; BeaconHeader::LEN];
                frame.extend(lists.iter().chain(&[10; 400]).take(len));
                header.emit(&mut frame).expect("it is long enough");
                hear(&mut self.beacon, self.now, from, &frame);
            }
            Call::Wait(millis) => self.now += Duration::from_millis(millis.into()),
            Call::Announce(shards, services) => {
                let said = Announcement { shards, services, ..Announcement::default() };
                let _ = self.beacon.announce(said);
            }
            Call::Solicit => self.beacon.solicit(),
            Call::Leave => self.beacon.leave(),
            Call::Events => self.events(),
        }
        self.transmit();
        self.check();
    }

    fn transmit(&mut self) {
        let mut sent = Recorder::default();
        self.beacon.poll_transmit(self.now, &mut Outbox::new(&mut sent));
        assert!(sent.sent.len() <= 6, "at most three kinds on two interfaces");
        for (_, frame) in &sent.sent {
            let malformed = self.friend.counters().malformed;
            hear(&mut self.friend, self.now, 0, frame);
            assert_eq!(self.friend.counters().malformed, malformed, "{frame:02x?}");
        }
        while self.friend.event().is_some() {}
    }

    fn events(&mut self) {
        let mut count = 0;
        while let Some(event) = self.beacon.event() {
            count += 1;
            let is_here = !matches!(event.change, Change::Down(_));
            self.told.insert(event.station, is_here);
        }
        assert!(count <= MAX_EVENTS);
        if self.beacon.counters().lost_events == 0 {
            let here = |told: &HashMap<StationId, bool>| {
                let mut here: Vec<_> =
                    told.iter().filter(|(_, here)| **here).map(|(id, _)| *id).collect();
                here.sort_unstable_by_key(|id| (id.interface, id.address));
                here
            };
            let mut known: Vec<_> = self.beacon.stations().map(|station| station.id).collect();
            known.sort_unstable_by_key(|id| (id.interface, id.address));
            assert_eq!(here(&self.told), known, "events and table");
        }
    }

    fn check(&self) {
        assert!(self.beacon.stations().count() <= MAX_STATIONS);
        for station in self.beacon.stations() {
            assert!(!station.phi.is_nan() && station.last_heard <= self.now);
            assert!(self.beacon.station(station.id).is_some());
        }
    }
}

fuzz_target!(|calls: Vec<Call>| {
    let mut world = World {
        beacon: beacon(3),
        friend: beacon(9),
        now: Instant::from_millis(1),
        told: HashMap::new(),
    };
    for call in calls.into_iter().take(CALLS) {
        world.call(call);
    }
    world.events();
});
