use proptest::prelude::*;

use super::*;
use crate::checksum::{fold, sum};
use crate::{PartialChecksum, RxChecksum, SegmentKind, Segmentation};

fn send_numbered(device: &mut SimDevice, number: u32) {
    let write = |frame: &mut [u8]| {
        frame.fill(0);
        frame[..4].copy_from_slice(&number.to_be_bytes());
    };
    device.tx.send(100, TxMeta::default(), write).unwrap();
}

/// Everything in flight, jumping from arrival to arrival: (time, frame).
fn drain(device: &mut SimDevice, link: &SimLink) -> Vec<(Instant, Vec<u8>)> {
    let mut received = Vec::new();
    while let Some(arrival) = link.next_arrival() {
        device.rx.fill(arrival).unwrap();
        while let Some(frame) = device.rx.next() {
            received.push((frame.meta.timestamp.unwrap(), frame.bytes.to_vec()));
        }
        device.rx.release();
    }
    received
}

fn numbers(received: &[(Instant, Vec<u8>)]) -> Vec<u32> {
    let number = |bytes: &[u8]| u32::from_be_bytes(*bytes.first_chunk().unwrap());
    received.iter().map(|(_, bytes)| number(bytes)).collect()
}

fn run(config: LinkConfig, frames: u32) -> (Vec<(Instant, Vec<u8>)>, LinkStats) {
    let (mut a, mut b, link) = SimLink::pair(config);
    for number in 0..frames {
        send_numbered(&mut a, number);
        a.tx.flush(Instant::from_micros(u64::from(number) * 10)).unwrap();
    }
    let received = drain(&mut b, &link);
    (received, link.stats())
}

#[test]
fn rate_and_delay_give_the_arrival() {
    // 100 bytes at 8 Mbit/s are 100 µs.
    let config = LinkConfig {
        rate_bits_per_s: Some(8_000_000),
        delay: Duration::from_millis(1),
        ..LinkConfig::default()
    };
    let (mut a, mut b, link) = SimLink::pair(config);
    for number in 0..3 {
        send_numbered(&mut a, number);
    }
    a.tx.flush(Instant::ZERO).unwrap();
    let times: Vec<_> = drain(&mut b, &link).iter().map(|(time, _)| time.as_micros()).collect();
    assert_eq!(times, [1100, 1200, 1300]);
}

#[test]
fn a_full_queue_drops_the_tail_until_it_drains() {
    let config =
        LinkConfig { rate_bits_per_s: Some(8_000_000), queue_bytes: 250, ..LinkConfig::default() };
    let (mut a, mut b, link) = SimLink::pair(config);
    for number in 0..5 {
        send_numbered(&mut a, number);
    }
    a.tx.flush(Instant::ZERO).unwrap();
    send_numbered(&mut a, 5);
    a.tx.flush(Instant::from_micros(100)).unwrap();
    assert_eq!(numbers(&drain(&mut b, &link)), [0, 1, 5]);
    assert_eq!(link.stats().queue_dropped, 3);
}

#[test]
fn each_impairment_happens_about_as_often_as_asked() {
    let impaired = |change: fn(&mut LinkConfig)| {
        let mut config = LinkConfig { delay: Duration::from_millis(5), ..LinkConfig::default() };
        change(&mut config);
        run(config, 1000)
    };
    let near = |count: u64| (70..130).contains(&count);
    let (received, stats) = impaired(|config| config.loss = 0.1);
    assert!(near(stats.lost) && received.len() as u64 == 1000 - stats.lost);
    let (received, stats) = impaired(|config| config.duplicate = 0.1);
    assert!(near(stats.duplicated) && received.len() as u64 == 1000 + stats.duplicated);
    let (received, stats) = impaired(|config| config.reorder = 0.1);
    assert!(near(stats.reordered) && !numbers(&received).is_sorted());
    let (received, stats) = impaired(|config| config.corrupt = 0.1);
    let bits =
        |bytes: &[u8]| bytes[4..].iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    let flipped: u64 = received.iter().map(|(_, bytes)| bits(bytes)).sum();
    assert!(near(stats.corrupted) && (1..=stats.corrupted).contains(&flipped));
    let (received, _) = impaired(|config| config.jitter = Duration::from_millis(3));
    assert!(numbers(&received).is_sorted(), "jitter alone does not reorder");
}

#[test]
fn a_cut_link_loses_everything_until_it_is_mended() {
    let (mut a, mut b, link) = SimLink::pair(LinkConfig::default());
    link.set_loss(1.0);
    send_numbered(&mut a, 0);
    a.tx.flush(Instant::ZERO).unwrap();
    link.set_loss(0.0);
    send_numbered(&mut a, 1);
    a.tx.flush(Instant::ZERO).unwrap();
    assert_eq!(numbers(&drain(&mut b, &link)), [1]);
}

#[test]
fn a_dropped_end_is_seen_after_the_last_frame() {
    let config = LinkConfig { delay: Duration::from_millis(1), ..LinkConfig::default() };
    let (mut a, mut b, link) = SimLink::pair(config);
    send_numbered(&mut a, 0);
    a.tx.flush(Instant::ZERO).unwrap();
    drop(a);
    assert_eq!(b.rx.fill(Instant::ZERO).unwrap(), 0);
    assert_eq!(drain(&mut b, &link).len(), 1);
    assert!(b.rx.fill(Instant::MAX).is_err());
    send_numbered(&mut b, 0);
    b.tx.flush(Instant::ZERO).unwrap();
    assert_eq!(b.counters().tx_errors, 1);
}

/// Ethernet, IPv4, TCP, 3000 bytes of payload.
fn superframe() -> (Vec<u8>, TxMeta) {
    let mut frame = vec![0; 54 + 3000];
    frame[12] = 8;
    frame[14] = 0x45;
    frame[14 + 9] = 6;
    frame[34 + 12] = 0x50;
    let meta = TxMeta {
        checksum: Some(PartialChecksum { start: 34, offset: 16 }),
        segmentation: Some(Segmentation {
            kind: SegmentKind::Tcp4,
            size: 1460.try_into().unwrap(),
            header_len: 54,
        }),
    };
    (frame, meta)
}

#[test]
fn superframes_are_cut_at_the_wire_and_a_corrupted_segment_is_detectable() {
    for corrupt in [0.0, 1.0] {
        let config = LinkConfig { offloads: true, corrupt, ..LinkConfig::default() };
        let (mut a, mut b, link) = SimLink::pair(config);
        let (frame, meta) = superframe();
        a.tx.send(frame.len(), meta, |slot| slot.copy_from_slice(&frame)).unwrap();
        a.tx.flush(Instant::ZERO).unwrap();
        assert_eq!(link.stats().sent, 3);
        assert_eq!(b.rx.fill(Instant::ZERO).unwrap(), 3);
        while let Some(frame) = b.rx.next() {
            assert!(frame.bytes.len() <= 1514);
            let tcp = &frame.bytes[34..];
            let addresses = &frame.bytes[26..34];
            let right =
                fold(u64::from(sum(tcp)) + u64::from(sum(addresses)) + 6 + tcp.len() as u64)
                    == 0xffff;
            if corrupt == 0.0 {
                assert!(right && frame.meta.checksum == RxChecksum::Valid);
            } else {
                assert_eq!(frame.meta.checksum, RxChecksum::Unverified);
            }
        }
    }
}

#[test]
fn a_request_that_does_not_fit_the_frame_is_an_error_of_the_device() {
    let (mut a, _b, link) = SimLink::pair(LinkConfig { offloads: true, ..LinkConfig::default() });
    let (_, meta) = superframe();
    a.tx.send(2000, meta, |slot| slot.fill(0)).unwrap();
    a.tx.flush(Instant::ZERO).unwrap();
    assert_eq!((a.counters().tx_errors, link.stats().sent), (1, 0));
}

fn config() -> impl Strategy<Value = LinkConfig> {
    let probability = || prop_oneof![Just(0.0), 0.0..1.0_f64];
    let rate = prop::option::of(1_000_000..1_000_000_000_u64);
    let times = (0..20_000_u64, 0..20_000_u64);
    let events = (probability(), probability(), probability(), probability());
    (any::<u64>(), rate, times, events, 100..5000_usize).prop_map(
        |(seed, rate_bits_per_s, (delay, jitter), (loss, duplicate, corrupt, reorder), bytes)| {
            LinkConfig {
                seed,
                rate_bits_per_s,
                delay: Duration::from_micros(delay),
                jitter: Duration::from_micros(jitter),
                loss,
                duplicate,
                corrupt,
                reorder,
                queue_bytes: bytes,
                ..LinkConfig::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn every_frame_is_accounted_for_and_a_seed_repeats(config in config()) {
        let (received, stats) = run(config, 200);
        prop_assert_eq!(stats.sent, 200);
        prop_assert_eq!(stats.delivered, received.len() as u64);
        prop_assert_eq!(
            stats.sent + stats.duplicated,
            stats.delivered + stats.lost + stats.queue_dropped
        );
        prop_assert!(received.is_sorted_by_key(|(time, _)| *time));
        prop_assert_eq!(run(config, 200), (received, stats));
    }
}
