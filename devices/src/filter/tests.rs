use super::*;
use crate::{MemoryConfig, MemoryDevice, TxMeta, TxQueue};

const LEN: u64 = 60;

fn udp(source: [u8; 4], port: u16) -> Vec<u8> {
    let head = [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0];
    let [high, low] = port.to_be_bytes();
    let udp = [1, 1, high, low, 0, 26, 0, 0];
    let packet = [&head[..], &source, &[10, 0, 0, 1], &udp, &[0; 18]].concat();
    [&[2; 12][..], &[8, 0], &packet].concat()
}

/// Sends frames, and returns those that are received.
fn pass(
    now: Instant,
    frames: &[Vec<u8>],
    peer: &mut MemoryDevice,
    device: &mut impl Device,
) -> Vec<Vec<u8>> {
    let (_, tx) = peer.split();
    for frame in frames {
        tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(frame)).unwrap();
    }
    tx.flush(now).unwrap();
    let (mut rx, _) = device.split();
    rx.fill(now).unwrap();
    let mut received = Vec::new();
    while let Some(frame) = rx.next() {
        received.push(frame.bytes.to_vec());
    }
    rx.release();
    received
}

fn rule(matches: &str, action: Action) -> Rule {
    Rule { matches: matches.parse().unwrap(), action }
}

fn tally(packets: u64) -> Tally {
    Tally { packets, bytes: packets * LEN }
}

#[test]
fn denied_packets_are_passed_over_and_counted() {
    let (device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
    let rules = FilterHandle::default();
    let mut device = Filter::new(device, rules.clone());
    let frames = [
        udp([192, 0, 2, 1], 53),
        udp([192, 0, 2, 1], 80),
        [&[2; 12][..], &[8, 6], &[0; 46]].concat(),
        udp([10, 0, 0, 9], 53),
    ];
    assert_eq!(pass(Instant::ZERO, &frames, &mut peer, &mut device), frames);
    assert_eq!(rules.totals().redirect, tally(4), "without any rules");

    rules.insert(rule("0.0.0.0/0", Action::Deny)).unwrap();
    rules.insert(rule("192.0.2.0/24,udp/53", Action::Allow)).unwrap();
    let kept = [frames[0].clone(), frames[2].clone()];
    assert_eq!(pass(Instant::ZERO, &frames, &mut peer, &mut device), kept);
    let reports = rules.rules();
    assert_eq!(reports[0].rule, rule("0.0.0.0/0", Action::Deny));
    assert_eq!(reports[0].counts, VerdictCounts { drop: tally(2), ..VerdictCounts::default() });
    assert_eq!(reports[1].counts, VerdictCounts { redirect: tally(1), ..VerdictCounts::default() });
    let totals = rules.totals();
    assert_eq!((totals.redirect, totals.drop, totals.pass), (tally(6), tally(2), tally(0)));
    let counters = device.counters();
    assert_eq!((counters.rx_frames, counters.rx_bytes), (6, 6 * LEN));
    assert_eq!(counters.rx_errors, 2);

    assert_eq!(rules.remove(&reports[0].rule.matches), Some(reports[0]));
    assert_eq!(rules.remove(&reports[0].rule.matches), None);
    rules.remove(&reports[1].rule.matches).unwrap();
    assert_eq!(pass(Instant::ZERO, &frames, &mut peer, &mut device), frames);
    assert_eq!(rules.rules(), []);
}

#[test]
fn sources_are_limited_one_by_one() {
    let (device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
    let rules = FilterHandle::default();
    let mut device = Filter::new(device, rules.clone());
    let limit = |text: &str| rule("0.0.0.0/0", Action::Limit(text.parse().unwrap()));
    rules.insert(limit("100/3")).unwrap();
    let frames: Vec<_> = [1, 1, 1, 1, 2, 2, 1].map(|host| udp([10, 0, 0, host], 1)).into();
    let mut received =
        |millis| pass(Instant::from_millis(millis), &frames, &mut peer, &mut device).len();
    assert_eq!(received(0), 3 + 2);
    assert_eq!(received(9), 1, "the third of the second source");
    assert_eq!(received(10), 1 + 1);
    rules.insert(limit("100/3")).unwrap();
    assert_eq!(received(11), 0, "the same rule again");
    rules.insert(limit("100/2")).unwrap();
    assert_eq!(received(11), 2 + 2, "another rate");
    let counts = rules.rules()[0].counts;
    assert_eq!((counts.redirect, counts.drop), (tally(12), tally(35 - 12)));
}

#[test]
fn queues_share_a_handle() {
    let rules = FilterHandle::new(FilterLimits { rules: 1, ..FilterLimits::default() });
    rules.insert(rule("10.0.0.0/8", Action::Limit("1/2".parse().unwrap()))).unwrap();
    assert_eq!(rules.insert(rule("10.0.0.0/9", Action::Deny)), Err(RuleError::Full(1)));
    let frames = [1, 1, 2].map(|host| udp([10, 0, 0, host], 1));
    for kept in [3, 1] {
        let (device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
        let mut queue = Filter::new(device, rules.clone());
        let received = pass(Instant::ZERO, &frames, &mut peer, &mut queue);
        assert_eq!(received.len(), kept, "of a rate for both");
    }
    assert_eq!((rules.totals().redirect, rules.totals().drop), (tally(4), tally(2)));
}
