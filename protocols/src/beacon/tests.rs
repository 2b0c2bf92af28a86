use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use underpass_devices::{Instant, MacAddr};
use zerocopy::FromBytes;

use super::*;
use crate::beacon::announcement::Lists;
use crate::beacon::header::{ANSWER, BEACON, GOODBYE, SOLICITATION, VERSION};
use crate::header::{Header, fuzz_header, test_header};
use crate::{Incoming, Outbox, Peer, Protocol, Recorder, Refused};

const SECOND: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn id(n: u64) -> StationId {
    StationId { interface: 0, address: MacAddr::local(n) }
}

fn said(addresses: &[&str]) -> Announcement {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Announcement { shards: 2, addresses, services: vec![80, 443] }
}

fn beacon(config: BeaconConfig) -> Beacon {
    Beacon::new(config, said(&["10.0.0.1"])).unwrap()
}

/// A frame of another station.
fn frame(kind: u8, incarnation: u64, sequence: u32, said: &Announcement) -> Vec<u8> {
    let header = BeaconHeader {
        version: VERSION,
        kind,
        incarnation: incarnation.into(),
        sequence: sequence.into(),
        interval: 1000.into(),
        ..FromBytes::read_from_bytes(&[0; BeaconHeader::LEN]).unwrap()
    };
    let mut frame = vec![0; said.len()];
    said.emit(&header, &mut frame).unwrap();
    frame
}

fn hear(beacon: &mut Beacon, now: Instant, from: StationId, payload: &[u8]) -> Result<(), Refused> {
    let to = Peer::Station { interface: from.interface, address: MacAddr::BROADCAST };
    let (from, interface) = (from.into(), from.interface);
    let frame = Incoming { from, to, interface, link: None, hop_limit: None, payload };
    let mut recorder = Recorder::default();
    let result = beacon.on_frame(now, &frame, &mut Outbox::new(&mut recorder));
    assert_eq!(recorder.sent, [], "frames are sent in turn only");
    result
}

/// The kinds of what it sends now.
fn transmit(beacon: &mut Beacon, now: Instant) -> Vec<u8> {
    let mut recorder = Recorder::default();
    beacon.poll_transmit(now, &mut Outbox::new(&mut recorder));
    recorder.sent.iter().map(|(_, frame)| frame[1]).collect()
}

/// What it sends until `end`, if it is asked when it wants to be.
fn run(beacon: &mut Beacon, end: Instant) -> Vec<(Instant, u8)> {
    let mut sent = Vec::new();
    while let Some(now) = beacon.poll_timeout().filter(|at| *at < end) {
        sent.extend(transmit(beacon, now).into_iter().map(|kind| (now, kind)));
    }
    sent
}

fn changes(beacon: &mut Beacon) -> Vec<Change> {
    std::iter::from_fn(|| beacon.event()).map(|event| event.change).collect()
}

#[test]
fn the_header_is_what_it_is_declared_as() {
    assert_eq!(BeaconHeader::LEN, 28);
    test_header::<BeaconHeader>();
}

#[test]
fn announcements_are_checked() {
    let new = |said| Beacon::new(BeaconConfig::new(1), said).map(|_| ());
    let many = |count, services| Announcement {
        shards: 1,
        addresses: vec![[10, 0, 0, 1].into(); count],
        services: vec![7; services],
    };
    assert_eq!(new(many(16, 32)), Ok(()));
    assert_eq!(new(many(17, 0)), Err(AnnounceError::TooManyAddresses));
    assert_eq!(new(many(0, 33)), Err(AnnounceError::TooManyServices));
    for strange in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"]
    {
        let address: IpAddr = strange.parse().unwrap();
        assert_eq!(new(said(&[strange])), Err(AnnounceError::NotAStation(address)));
    }
}

#[test]
fn what_is_announced_is_known() {
    let mut beacon = beacon(BeaconConfig::new(1));
    let mixed = said(&["fd00::2", "10.0.0.2", "10.0.0.3"]).checked().unwrap();
    // Padding of a short frame, with whatever is in it.
    let padded = [&frame(BEACON, 7, 1, &mixed)[..], &[0xaa; 5]].concat();
    hear(&mut beacon, at(0), id(2), &padded).unwrap();
    assert_eq!(beacon.event(), Some(BeaconEvent { station: id(2), change: Change::Up }));
    let station = beacon.station(id(2)).unwrap();
    assert_eq!((station.announcement, station.incarnation), (&mixed, 7));
    assert!(!station.is_suspect && station.phi < 1.0);

    hear(&mut beacon, at(1000), id(2), &frame(BEACON, 7, 2, &mixed)).unwrap();
    assert_eq!(beacon.event(), None);
    let other = said(&["10.0.0.9"]);
    hear(&mut beacon, at(1100), id(2), &frame(ANSWER, 7, 3, &other)).unwrap();
    assert_eq!(changes(&mut beacon), [Change::Changed]);
    assert_eq!(beacon.station(id(2)).unwrap().announcement, &other);
    hear(&mut beacon, at(1200), id(2), &frame(SOLICITATION, 8, 0, &mixed)).unwrap();
    assert_eq!(changes(&mut beacon), [Change::Restarted]);
    assert_eq!(beacon.stations().count(), 1);
}

#[test]
fn silence_is_suspect_and_then_the_end() {
    let mut beacon = beacon(BeaconConfig::new(1));
    let said = said(&[]);
    for n in 0..60 {
        run(&mut beacon, at(1000 * n));
        hear(&mut beacon, at(1000 * n), id(2), &frame(BEACON, 7, n as u32, &said)).unwrap();
    }
    run(&mut beacon, at(59_000 + 3900));
    assert_eq!(changes(&mut beacon), [Change::Up]);
    run(&mut beacon, at(59_000 + 5500));
    assert_eq!(changes(&mut beacon), [Change::Suspect]);
    let station = beacon.station(id(2)).unwrap();
    assert!(station.is_suspect && station.phi > 8.0, "{station:?}");
    run(&mut beacon, at(59_000 + 8900));
    // The same again is no sign of life, something older is.
    assert_eq!(hear(&mut beacon, at(67_900), id(2), &frame(BEACON, 7, 59, &said)), Err(Refused));
    hear(&mut beacon, at(67_950), id(2), &frame(BEACON, 7, 3, &said)).unwrap();
    assert_eq!(changes(&mut beacon), [Change::Recovered]);
    run(&mut beacon, at(67_950 + 11_000));
    assert_eq!(changes(&mut beacon), [Change::Suspect, Change::Down(Why::Silent)]);
    assert_eq!(beacon.stations().count(), 0);
}

#[test]
fn goodbyes_are_final_for_a_run() {
    let mut beacon = beacon(BeaconConfig::new(1));
    let said = said(&[]);
    assert_eq!(hear(&mut beacon, at(0), id(2), &frame(GOODBYE, 7, 1, &said)), Err(Refused));
    hear(&mut beacon, at(0), id(2), &frame(BEACON, 7, 1, &said)).unwrap();
    hear(&mut beacon, at(1), id(2), &frame(GOODBYE, 7, 3, &said)).unwrap();
    assert_eq!(changes(&mut beacon), [Change::Up, Change::Down(Why::Goodbye)]);
    assert!(beacon.station(id(2)).is_none() && beacon.stations().count() == 0);
    for late in
        [frame(BEACON, 7, 2, &said), frame(GOODBYE, 7, 3, &said), frame(BEACON, 6, 9, &said)]
    {
        assert_eq!(hear(&mut beacon, at(2), id(2), &late), Err(Refused));
    }
    hear(&mut beacon, at(3), id(2), &frame(BEACON, 8, 0, &said)).unwrap();
    assert_eq!(changes(&mut beacon), [Change::Up]);
    assert_eq!(beacon.counters().stale, 4);
}

#[test]
fn leaving_is_said_once() {
    let config = BeaconConfig { interfaces: 2, ..BeaconConfig::new(1) };
    let mut beacon = beacon(config);
    run(&mut beacon, at(5000));
    beacon.leave();
    assert!(!beacon.has_left());
    assert_eq!(transmit(&mut beacon, at(5000)), [GOODBYE; 2]);
    assert!(beacon.has_left());
    beacon.leave();
    beacon.solicit();
    assert_eq!((transmit(&mut beacon, at(9000)), beacon.poll_timeout()), (vec![], None));
}

#[test]
fn beacons_keep_their_interval_and_go_out_everywhere() {
    let mut beacon = beacon(BeaconConfig { interfaces: 2, ..BeaconConfig::new(1) });
    let mut recorder = Recorder { room: 1, ..Recorder::default() };
    beacon.poll_transmit(at(0), &mut Outbox::new(&mut recorder));
    recorder.room = 9;
    beacon.poll_transmit(at(0), &mut Outbox::new(&mut recorder));
    let everybody = |interface| Peer::Station { interface, address: MacAddr::BROADCAST };
    let to: Vec<_> = recorder.sent.iter().map(|(to, _)| to.peer).collect();
    assert_eq!(to, [everybody(0), everybody(1)]);
    assert_eq!(recorder.sent[0].1, recorder.sent[1].1);

    let sent = run(&mut beacon, at(100_000));
    assert!((195..205).contains(&sent.len()) && sent.iter().all(|(_, kind)| *kind == BEACON));
    let times: Vec<_> = sent.iter().step_by(2).map(|(now, _)| *now).collect();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let (least, most) = (gaps.clone().min().unwrap(), gaps.max().unwrap());
    assert!(least >= SECOND * 9 / 10 && most <= SECOND * 11 / 10 && most > least + SECOND / 10);
}

#[test]
fn many_solicitations_are_one_answer() {
    let mut beacon = beacon(BeaconConfig { interval: SECOND * 1000, ..BeaconConfig::new(1) });
    run(&mut beacon, at(1));
    let mut answers = 0;
    for n in 0..1000 {
        let asks = frame(SOLICITATION, 7, n, &said(&[]));
        hear(&mut beacon, at(10 + u64::from(n)), id(u64::from(n % 10)), &asks).unwrap();
        answers += run(&mut beacon, at(11 + u64::from(n))).len();
    }
    answers += run(&mut beacon, at(2000)).len();
    assert!((3..=5).contains(&answers), "{answers}");
    let counters = beacon.counters();
    assert_eq!(counters.merged + answers as u64, 1000);
}

#[test]
fn news_are_told_at_once() {
    let mut beacon = beacon(BeaconConfig { interval: SECOND * 1000, ..BeaconConfig::new(1) });
    assert_eq!(transmit(&mut beacon, at(0)), [SOLICITATION]);
    beacon.announce(said(&["10.0.0.9"])).unwrap();
    assert_eq!(transmit(&mut beacon, at(1)), [ANSWER]);
    beacon.announce(said(&["10.0.0.8"])).unwrap();
    assert_eq!(transmit(&mut beacon, at(2)), []);
    assert_eq!(run(&mut beacon, at(300)), [(at(251), ANSWER)]);
    assert!(beacon.announce(said(&["0.0.0.0"])).is_err());
}

#[test]
fn a_full_table_keeps_who_is_present() {
    let config = BeaconConfig { max_stations: 3, max_events: 4, ..BeaconConfig::new(1) };
    let mut beacon = beacon(config);
    let newcomer = |beacon: &mut Beacon, millis, n| {
        run(beacon, at(millis));
        hear(beacon, at(millis), id(n), &frame(BEACON, 7, 1, &said(&[])))
    };
    for n in 2..5 {
        newcomer(&mut beacon, 10 * n, n).unwrap();
    }
    for n in 5..100 {
        assert_eq!(newcomer(&mut beacon, 10 * n, n), Err(Refused));
    }
    assert_eq!(beacon.counters().no_place, 95);
    assert_eq!(changes(&mut beacon), [Change::Up; 3]);
    // Who has gone makes place, and then the suspect that was silent for longest.
    hear(&mut beacon, at(1000), id(4), &frame(GOODBYE, 7, 2, &said(&[]))).unwrap();
    newcomer(&mut beacon, 1001, 5).unwrap();
    let end = at(5500);
    hear(&mut beacon, at(4000), id(5), &frame(BEACON, 7, 2, &said(&[]))).unwrap();
    run(&mut beacon, end);
    assert_eq!(
        changes(&mut beacon),
        [Change::Down(Why::Goodbye), Change::Up, Change::Suspect, Change::Suspect]
    );
    newcomer(&mut beacon, 5500, 6).unwrap();
    let evicted = BeaconEvent { station: id(2), change: Change::Down(Why::Evicted) };
    assert_eq!(beacon.event(), Some(evicted));
    for n in [8, 9, 10, 11] {
        hear(&mut beacon, end, id(6), &frame(BEACON, n, 2, &said(&[]))).unwrap();
    }
    assert_eq!(changes(&mut beacon), [Change::Restarted; 4]);
    assert_eq!(beacon.counters().lost_events, 1);
}

#[test]
fn our_own_silence_is_not_theirs() {
    let mut beacon = beacon(BeaconConfig::new(1));
    hear(&mut beacon, at(0), id(2), &frame(BEACON, 7, 1, &said(&[]))).unwrap();
    run(&mut beacon, at(2000));
    // The machine slept for an hour.
    transmit(&mut beacon, at(3_600_000));
    assert_eq!((changes(&mut beacon), beacon.counters().pauses), (vec![Change::Up], 1));
    run(&mut beacon, at(3_620_000));
    assert_eq!(changes(&mut beacon), [Change::Suspect, Change::Down(Why::Silent)]);
}

#[test]
fn strange_frames_are_refused_and_counted() {
    let mut beacon = beacon(BeaconConfig::new(1));
    let good = frame(BEACON, 7, 1, &said(&["10.0.0.2", "fd00::2"]));
    for len in 0..good.len() {
        assert_eq!(hear(&mut beacon, at(0), id(2), &good[..len]), Err(Refused), "{len} bytes");
        let mut damaged = good.clone();
        damaged[len] ^= 0x10;
        assert_eq!(hear(&mut beacon, at(0), id(2), &damaged), Err(Refused), "byte {len}");
    }
    let group = StationId { interface: 0, address: MacAddr::BROADCAST };
    assert_eq!(hear(&mut beacon, at(0), group, &good), Err(Refused));
    for kind in [0, 5, 255] {
        let other = frame(kind, 7, 1, &said(&[]));
        assert_eq!(hear(&mut beacon, at(0), id(2), &other), Err(Refused));
    }
    let lies = Announcement { addresses: vec![[127, 0, 0, 1].into()], ..said(&[]) };
    assert_eq!(hear(&mut beacon, at(0), id(2), &frame(BEACON, 7, 1, &lies)), Err(Refused));
    let long = Announcement { services: vec![7; 33], ..said(&[]) };
    assert_eq!(hear(&mut beacon, at(0), id(2), &frame(BEACON, 7, 1, &long)), Err(Refused));
    assert_eq!(beacon.counters().malformed, 2 * good.len() as u64 + 6);
    assert_eq!(hear(&mut beacon, at(0), id(2), &frame(BEACON, 1, 1, &said(&[]))), Err(Refused));
    assert_eq!((beacon.counters().own, beacon.stations().count()), (1, 0));
}

prop_compose! {
    fn any_announcement()(
        shards: u16,
        v4 in prop::collection::vec(any::<[u8; 4]>(), 0..=8),
        v6 in prop::collection::vec(any::<[u8; 16]>(), 0..=8),
        services in prop::collection::vec(any::<u16>(), 0..=MAX_SERVICES),
    ) -> Announcement {
        let addresses = v4.into_iter().map(IpAddr::from).chain(v6.into_iter().map(IpAddr::from));
        Announcement { shards, addresses: addresses.collect(), services }
    }
}

proptest! {
    #[test]
    fn what_is_sent_is_what_is_parsed(
        said in any_announcement(), padding in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let Ok(said) = said.checked() else { return Ok(()) };
        let mut bytes = frame(BEACON, 7, 1, &said);
        fuzz_header::<BeaconHeader>(&bytes);
        bytes.extend(padding);
        let (_, lists) = Lists::parse(&bytes).unwrap();
        prop_assert!(lists.is(&said));
        let mut copy = Announcement::default();
        lists.copy_to(&mut copy);
        prop_assert_eq!(copy, said);
    }

    /// Whatever arrives, and whenever: no panic, and everything stays bounded.
    #[test]
    fn no_frame_is_too_strange(
        frames in prop::collection::vec(
            (0..4_u64, any::<[u8; 64]>(), 0..=64_usize, any::<bool>(), 0..20_000_u64), 0..60,
        ),
        max_stations in 0..3_usize,
    ) {
        let config = BeaconConfig { max_stations, max_events: 8, ..BeaconConfig::new(1) };
        let mut beacon = beacon(config);
        let mut now = 0;
        for (from, mut bytes, mut len, plausible, later) in frames {
            now += later;
            if plausible && let Ok(header) = BeaconHeader::read_from_bytes(&bytes[..28]) {
                let [kind, ipv4, services] = [1, 23, 24].map(|at| bytes[at]);
                let header = BeaconHeader {
                    version: VERSION,
                    kind: kind % 6,
                    ipv4: ipv4 % 4,
                    ipv6: 0,
                    services: services % 4,
                    incarnation: u64::from(kind % 3).into(),
                    ..header
                };
                len = 28 + usize::from(header.ipv4) * 4 + usize::from(header.services) * 2;
                header.emit(&mut bytes[..len]).unwrap();
            }
            let _ = hear(&mut beacon, at(now), id(from), &bytes[..len]);
            prop_assert!(transmit(&mut beacon, at(now)).len() <= 3);
            prop_assert!(beacon.stations().count() <= max_stations);
            prop_assert!(beacon.stations().all(|station| !station.phi.is_nan()));
        }
        prop_assert!(changes(&mut beacon).len() <= 8);
    }
}
