//! Who is on a segment, over links that lose, repeat, reorder and damage frames.

use std::time::Duration;

use underpass::ProtocolHandle;
use underpass::devices::{Instant, LinkConfig};
use underpass::protocols::beacon::{
    Announcement, Beacon, BeaconConfig, BeaconHeader, Change, StationId, Why,
};
use underpass::protocols::header::Header;

use super::segment::Segment;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Something that one station has noticed of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Noticed {
    at: Instant,
    by: usize,
    of: usize,
    change: Change,
}

struct Town {
    segment: Segment,
    /// `None`: detached.
    beacons: Vec<Option<ProtocolHandle<Beacon>>>,
    noticed: Vec<Noticed>,
    seed: u64,
}

impl Town {
    fn new(count: usize, seed: u64, noise: f64) -> Self {
        let link = LinkConfig {
            seed,
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(4),
            // Each frame takes two links.
            loss: noise / 2.0,
            duplicate: noise / 2.0,
            corrupt: noise / 2.0,
            reorder: noise / 2.0,
            ..LinkConfig::default()
        };
        let segment = Segment::new(count, link);
        let mut town = Self { segment, beacons: vec![None; count], noticed: Vec::new(), seed };
        (0..count).for_each(|station| town.attach(station, 1));
        town
    }

    fn attach(&mut self, station: usize, run: u64) {
        let incarnation = run << 32 | self.seed << 8 | station as u64;
        let said = Announcement {
            shards: station as u16 + 1,
            addresses: vec![[10, 0, 0, station as u8 + 1].into()],
            services: vec![7],
        };
        let beacon = Beacon::new(BeaconConfig::new(incarnation), said).unwrap();
        let handle = self.segment.stacks[station].attach(BeaconHeader::SELECTOR, beacon).unwrap();
        self.beacons[station] = Some(handle);
    }

    fn run(&mut self, time: Duration) {
        let Self { segment, beacons, noticed, .. } = self;
        segment.run(time, |at| {
            for (by, beacon) in beacons.iter().enumerate() {
                let Some(beacon) = beacon else { continue };
                while let Some(event) = beacon.with(Beacon::event) {
                    // The links have no check sequence (FCS) for addresses: stations appear that are none.
                    if let Some(of) = (0..beacons.len()).find(|of| id(*of) == event.station) {
                        noticed.push(Noticed { at, by, of, change: event.change });
                    }
                }
            }
        });
    }

    /// What the stations have noticed since this was last asked.
    fn take(&mut self) -> Vec<Noticed> {
        std::mem::take(&mut self.noticed)
    }

    fn assert_knows_all(&self, by: usize) {
        let seed = self.seed;
        self.beacons[by].as_ref().unwrap().with(|beacon| {
            for of in (0..self.beacons.len()).filter(|of| *of != by) {
                let known = beacon.station(id(of));
                let known = known.unwrap_or_else(|| panic!("seed {seed}: {by} knows {of}"));
                assert_eq!(usize::from(known.announcement.shards), of + 1, "seed {seed}");
            }
        });
    }
}

fn id(station: usize) -> StationId {
    StationId { interface: 0, address: Segment::address(station) }
}

#[test]
fn everybody_finds_everybody_and_notices_the_end() {
    for seed in 0..60 {
        let noise = 0.02 * (seed % 6) as f64;
        let mut town = Town::new(5, seed, noise);
        town.run(SECOND);
        let in_a_second = town.take().iter().filter(|new| new.change == Change::Up).count();
        assert!(noise > 0.0 || in_a_second == 20, "seed {seed}: {in_a_second}");
        town.run(SECOND * 20);
        (0..5).for_each(|by| town.assert_knows_all(by));
        town.take();

        // A crash.
        let died = town.segment.now;
        town.segment.cut_off(3);
        town.beacons[3] = None;
        town.run(SECOND * 60);
        let noticed = town.take();
        for by in [0, 1, 2, 4] {
            let of_it: Vec<_> = noticed.iter().filter(|new| new.by == by && new.of == 3).collect();
            let [suspect, down] = of_it[..] else { panic!("seed {seed}: {of_it:?}") };
            assert_eq!((suspect.change, down.change), (Change::Suspect, Change::Down(Why::Silent)));
            let [suspect, down] = [suspect.at - died, down.at - died];
            assert!(suspect > SECOND * 2 && suspect < SECOND * 8, "seed {seed}: {suspect:?}");
            assert!(
                down < suspect + SECOND * 5 + SECOND / 100,
                "seed {seed}: {suspect:?} {down:?}"
            );
        }
        let down = |new: &&Noticed| new.of != 3 && matches!(new.change, Change::Down(_));
        assert_eq!(noticed.iter().find(down), None, "seed {seed}: somebody else");
    }
}

#[test]
fn a_restart_and_a_goodbye_are_noticed() {
    for seed in 0..40 {
        let noise = 0.02 * (seed % 4) as f64;
        let mut town = Town::new(4, seed, noise);
        town.run(SECOND * 20);
        town.take();
        // A crash and a new run, before anybody suspects.
        town.beacons[0] = None;
        town.run(SECOND / 2);
        town.attach(0, 2);
        town.run(SECOND * 20);
        let noticed = town.take();
        for by in 1..4 {
            let of_it: Vec<_> = noticed.iter().filter(|new| new.by == by && new.of == 0).collect();
            let [Noticed { change: Change::Restarted, .. }] = of_it[..] else {
                panic!("seed {seed}: {of_it:?}");
            };
        }
        town.assert_knows_all(0);

        town.beacons[0].as_ref().unwrap().with(Beacon::leave);
        town.run(SECOND / 10);
        assert!(town.beacons[0].take().unwrap().with(|beacon| beacon.has_left()));
        town.run(SECOND * 30);
        let noticed = town.take();
        for by in 1..4 {
            let of_it = noticed.iter().filter(|new| new.by == by && new.of == 0);
            let of_it: Vec<_> = of_it.map(|new| new.change).collect();
            let silent = [Change::Suspect, Change::Down(Why::Silent)];
            assert!(
                of_it == [Change::Down(Why::Goodbye)] || (noise > 0.0 && of_it == silent),
                "seed {seed}: {of_it:?}"
            );
        }
    }
}

/// At 5 % loss, and as much of everything else, nobody is thought to be gone who is not.
#[test]
fn hours_of_loss_bring_nobody_down() {
    for seed in 0..4 {
        let mut town = Town::new(3, seed, 0.05);
        town.run(SECOND * 20);
        (0..3).for_each(|by| town.assert_knows_all(by));
        town.take();
        town.run(HOUR * 6);
        let noticed = town.take();
        let suspected = noticed.iter().filter(|new| new.change == Change::Suspect).count();
        let recovered = noticed.iter().filter(|new| new.change == Change::Recovered).count();
        assert_eq!(noticed.len(), suspected + recovered, "seed {seed}: {noticed:?}");
        // 130,000 beacons, of which six in a row have to be lost or damaged.
        assert!(suspected <= 3, "seed {seed}: {suspected} suspicions");
    }
}
