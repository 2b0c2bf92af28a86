use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use underpass_devices::Instant;
use zerocopy::FromBytes;

use super::*;
use crate::header::{Header, test_header};
use crate::{Incoming, Outbox, Peer, Protocol, Reason, Recorder, Refused, SendError, Undelivered};

const US: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const THEM: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn frame(from: IpAddr, to: IpAddr, hop_limit: u8, payload: &[u8]) -> Incoming<'_> {
    let (from, to) = (Peer::Host(from), Peer::Host(to));
    Incoming { from, to, interface: 0, link: None, hop_limit: Some(hop_limit), payload }
}

/// What `probe` sends now.
fn transmit(probe: &mut Probe, now: Instant) -> Vec<Vec<u8>> {
    let mut recorder = Recorder::default();
    probe.poll_transmit(now, &mut Outbox::new(&mut recorder));
    recorder.sent.into_iter().map(|(_, packet)| packet).collect()
}

/// What another station makes of `packet`.
fn reply_to(packet: &[u8], hops: u8) -> Vec<u8> {
    let mut recorder = Recorder::default();
    let frame = frame(US, THEM, 64 - hops, packet);
    let mut them = Probe::new(ProbeConfig::default());
    them.on_frame(Instant::ZERO, &frame, &mut Outbox::new(&mut recorder)).unwrap();
    let [(to, reply)] = &recorder.sent[..] else { panic!("{recorder:?}") };
    assert_eq!((to.peer, to.source), (Peer::Host(US), Some(THEM)));
    reply.clone()
}

fn receive(probe: &mut Probe, now: Instant, from: IpAddr, packet: &[u8]) -> Result<(), Refused> {
    let mut recorder = Recorder::default();
    let frame = frame(from, US, 61, packet);
    probe.on_frame(now, &frame, &mut Outbox::new(&mut recorder))
}

#[test]
fn the_header_is_what_it_is_declared_as() {
    assert_eq!(ProbeHeader::LEN, 20);
    test_header::<ProbeHeader>();
}

#[test]
fn a_reply_tells_time_and_hops() {
    let mut probe = Probe::new(ProbeConfig { session: 7, ..ProbeConfig::default() });
    let start = Instant::from_millis(5);
    let sequence = probe.request(Request { payload: 100, ..Request::to(THEM) }).unwrap();
    let [request] = &transmit(&mut probe, start)[..] else { panic!("one request") };
    assert_eq!(request.len(), 120);
    assert_eq!(probe.poll_timeout(), Some(Instant::from_millis(1005)));

    let reply = reply_to(request, 2);
    assert_eq!(reply.len(), 120);
    let now = start + Duration::from_millis(30);
    assert_eq!(receive(&mut probe, now, US, &reply), Err(Refused), "from somebody else");
    assert_eq!(receive(&mut probe, now, THEM, request), Ok(()), "a request, to be answered");
    assert_eq!(probe.result(), None);
    receive(&mut probe, now, THEM, &reply).unwrap();
    assert_eq!(receive(&mut probe, now, THEM, &reply), Err(Refused), "a duplicate");
    let round_trip = Duration::from_millis(30);
    let outcome = Outcome::Reply { round_trip, hops_there: 2, hops_back: 3 };
    assert_eq!(probe.result(), Some(ProbeResult { sequence, to: THEM, outcome }));
    assert_eq!((probe.result(), probe.poll_timeout()), (None, None));
}

#[test]
fn requests_time_out_one_after_the_other() {
    let mut probe = Probe::new(ProbeConfig::default());
    for at in [0, 300] {
        probe.request(Request::to(THEM)).unwrap();
        assert_eq!(transmit(&mut probe, Instant::from_millis(at)).len(), 1);
    }
    for (at, sequence) in [(1000, 0), (1300, 1)] {
        assert_eq!(probe.poll_timeout(), Some(Instant::from_millis(at)));
        transmit(&mut probe, Instant::from_millis(at - 1));
        assert_eq!(probe.result(), None);
        transmit(&mut probe, Instant::from_millis(at));
        let result = probe.result().unwrap();
        assert_eq!((result.sequence, result.outcome), (sequence, Outcome::TimedOut));
    }
}

#[test]
fn without_room_requests_wait_and_without_a_way_they_end() {
    let mut probe = Probe::new(ProbeConfig { max_requests: 3, ..ProbeConfig::default() });
    for _ in 0..3 {
        probe.request(Request::to(THEM)).unwrap();
    }
    assert!(probe.request(Request::to(THEM)).is_err());
    let mut recorder = Recorder { room: 1, ..Recorder::default() };
    probe.poll_transmit(Instant::ZERO, &mut Outbox::new(&mut recorder));
    assert_eq!((recorder.sent.len(), recorder.notified), (1, 0));
    recorder = Recorder { max_len: 19, ..Recorder::default() };
    probe.poll_transmit(Instant::ZERO, &mut Outbox::new(&mut recorder));
    assert_eq!((recorder.sent.len(), recorder.notified), (0, 1));
    let ends = [(); 3].map(|()| probe.result().map(|result| result.outcome));
    let lost = Some(Outcome::NotSent(SendError::TooLong));
    assert_eq!(ends, [lost, lost, None]);
}

#[test]
fn a_report_from_the_way_ends_a_request() {
    let mut probe = Probe::new(ProbeConfig { session: 7, ..ProbeConfig::default() });
    let sequences =
        [1, 2].map(|hop_limit| probe.request(Request { hop_limit, ..Request::to(THEM) }).unwrap());
    let requests = transmit(&mut probe, Instant::ZERO);
    let router = IpAddr::from([10, 0, 0, 254]);
    let tell = |probe: &mut Probe, to, payload: &[u8]| {
        let report = Undelivered { by: router, to: Peer::Host(to), why: Reason::HopLimit, payload };
        probe.on_undelivered(Instant::from_millis(3), &report)
    };
    let mut other_session = requests[0].clone();
    other_session[5] ^= 1;
    for (to, payload) in [
        (US, &requests[0][..]),
        (THEM, &requests[0][..7]),
        (THEM, &other_session),
        (THEM, &reply_to(&requests[0], 0)),
    ] {
        assert_eq!(tell(&mut probe, to, payload), Err(Refused), "{to} {payload:?}");
    }
    for (sequence, request) in sequences.into_iter().zip(&requests).rev() {
        tell(&mut probe, THEM, &request[..8]).unwrap();
        assert_eq!(tell(&mut probe, THEM, request), Err(Refused), "told already");
        let after = Duration::from_millis(3);
        let outcome = Outcome::Stopped { by: router, why: Reason::HopLimit, after };
        assert_eq!(probe.result(), Some(ProbeResult { sequence, to: THEM, outcome }));
    }
    assert_eq!(probe.poll_timeout(), None);
}

#[test]
fn requests_to_groups_are_not_answered() {
    let mut probe = Probe::new(ProbeConfig::default());
    probe.request(Request::to(THEM)).unwrap();
    let [request] = &transmit(&mut probe, Instant::ZERO)[..] else { panic!("one request") };
    let mut recorder = Recorder::default();
    let frame = frame(THEM, [224, 0, 0, 1].into(), 64, request);
    let refused = probe.on_frame(Instant::ZERO, &frame, &mut Outbox::new(&mut recorder));
    assert_eq!((refused, recorder.sent.len()), (Err(Refused), 0));
}

proptest! {
    /// Whatever arrives: no panic, no results but those that were asked for, one answer at most.
    #[test]
    fn no_packet_is_too_strange(
        packets in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..64)), 0..20),
    ) {
        let mut probe = Probe::new(ProbeConfig::default());
        probe.request(Request::to(THEM)).unwrap();
        transmit(&mut probe, Instant::ZERO);
        for (plausible, mut packet) in packets {
            if plausible && let Ok((header, _)) = ProbeHeader::read_from_prefix(&packet) {
                let header = ProbeHeader { version: 1, kind: packet[1] % 4, ..header };
                header.emit(&mut packet).unwrap();
            }
            let mut recorder = Recorder::default();
            let frame = frame(THEM, US, 64, &packet);
            let _ = probe.on_frame(Instant::ZERO, &frame, &mut Outbox::new(&mut recorder));
            prop_assert!(recorder.sent.len() <= 1 && recorder.notified <= 1);
            let (by, to, why) = (THEM, Peer::Host(THEM), Reason::Refused);
            let report = Undelivered { by, to, why, payload: &packet };
            let _ = probe.on_undelivered(Instant::ZERO, &report);
        }
        prop_assert!(probe.result().is_none() || probe.result().is_none());
    }
}
