//! The sending half of a session against a receiver that loses packets at random.

use proptest::prelude::*;
use std::time::Duration;

use super::*;

/// A receiver that takes what it is given and tells what it has, as `Inbox` does.
#[derive(Debug, Default)]
struct Receiver {
    next: u32,
    seen: u64,
}

impl Receiver {
    fn take(&mut self, seq: u32) -> bool {
        let ahead = seq.wrapping_sub(self.next);
        if ahead >= 64 || (ahead > 0 && self.seen >> (ahead - 1) & 1 == 1) {
            return false;
        }
        if ahead > 0 {
            self.seen |= 1 << (ahead - 1);
            return true;
        }
        let run = self.seen.trailing_ones();
        self.next = self.next.wrapping_add(run + 1);
        self.seen = self.seen.checked_shr(run + 1).unwrap_or(0);
        true
    }
}

/// An outbox whose numbers begin shortly before they wrap.
fn outbox(first: u32, credit: u32) -> Outbox {
    let mut outbox = Outbox::new();
    (outbox.first, outbox.next) = (first, first);
    (outbox.used, outbox.credit) = (credit, credit);
    outbox.open(Instant::ZERO, 100, &Config::default());
    outbox
}

proptest! {
    #[test]
    fn all_bodies_arrive_whole_and_are_given_back(
        first in prop_oneof![Just(0), (0_u32..200).prop_map(|n| u32::MAX - n), any::<u32>()],
        bodies in proptest::collection::vec((0_usize..1500, any::<bool>()), 1..40),
        events in proptest::collection::vec((0_u8..100, 0_u8..100), 50..400),
    ) {
        let config = Config::default();
        let mut pool = Pool::new(0);
        let mut outbox = outbox(first, first);
        let mut receiver = Receiver { next: first, seen: 0 };
        let mut now = Instant::from_millis(1);
        let (mut charged, mut freed) = (0, 0);
        for (number, (len, is_message)) in bodies.iter().enumerate() {
            let kind = if *is_message { Kind::Message } else { Kind::Request };
            outbox.push(now, (kind, 0, number as u32), vec![number as u8; *len], 3, &config);
            charged += 3;
        }
        let mut missing: Vec<usize> = bodies.iter().map(|(len, _)| (*len).max(1)).collect();
        let mut events = events.iter().copied().cycle();
        for round in 0.. {
            prop_assert!(round < 100_000, "it does not end: {outbox:?}");
            let (loss, what) = events.next().unwrap();
            while let Some(pick) = outbox.pick() {
                let part = outbox.part(pick).unwrap();
                let (seq, number) = (part.seq, part.header.number.get() as usize);
                let len = part.bytes.len().max(1);
                prop_assert!(part.bytes.iter().all(|byte| *byte == number as u8));
                outbox.sent(now, pick, &config);
                prop_assert!(outbox.next.wrapping_sub(outbox.first) <= WINDOW);
                let (chance, _) = events.next().unwrap();
                if chance >= loss / 2 && receiver.take(seq) {
                    missing[number] -= len;
                }
            }
            now += Duration::from_micros(u64::from(what));
            if what < 70 {
                let told = (receiver.next, receiver.seen);
                freed += outbox.acked(now, told, Some(20_000), &mut pool, &config);
                outbox.credit(outbox.used.wrapping_add(8));
            }
            if outbox.timeout() <= now {
                outbox.timed_out(now, &config);
            } else if what >= 95 {
                now = now.max(if outbox.timeout() == Instant::MAX { now } else { outbox.timeout() });
                outbox.timed_out(now, &config);
            }
            if outbox.is_empty() {
                break;
            }
        }
        prop_assert_eq!(missing, vec![0; bodies.len()]);
        prop_assert_eq!((freed, outbox.cells()), (charged, 0));
        prop_assert!(!outbox.is_eager());
    }

    #[test]
    fn nonsense_acknowledgements_do_nothing(ack: u32, sack: u64) {
        let config = Config::default();
        let mut outbox = outbox(1000, 0);
        outbox.credit(100);
        outbox.push(Instant::ZERO, (Kind::Message, 0, 0), vec![1; 1000], 4, &config);
        for _ in 0..5 {
            let pick = outbox.pick().unwrap();
            outbox.sent(Instant::ZERO, pick, &config);
        }
        let mut pool = Pool::new(0);
        outbox.acked(Instant::from_micros(9), (ack, sack), None, &mut pool, &config);
        let told = if (1000..=1005).contains(&ack) {
            (0..5).filter(|n| 1000 + n < ack || (1000 + n > ack && sack >> (999 + n - ack) & 1 == 1)).count()
        } else {
            0
        };
        prop_assert_eq!(outbox.unacked.count_ones(), 5 - told as u32);
    }
}

#[test]
fn a_lost_packet_is_found_by_those_after_it() {
    let config = Config::default();
    let mut pool = Pool::new(0);
    let mut outbox = outbox(0, 0);
    outbox.credit(100);
    outbox.push(Instant::ZERO, (Kind::Message, 0, 0), vec![1; 1000], 4, &config);
    for _ in 0..6 {
        let pick = outbox.pick().unwrap();
        outbox.sent(Instant::ZERO, pick, &config);
    }
    // Packets 1 and 2 have come: 0 may only be late. With 3 it is lost.
    let now = Instant::from_micros(20);
    outbox.acked(now, (0, 0b11), Some(20_000), &mut pool, &config);
    assert!(matches!(outbox.pick(), Some(Pick::New(_))));
    outbox.acked(now, (0, 0b111), Some(20_000), &mut pool, &config);
    assert!(matches!(outbox.pick(), Some(Pick::Again(0))));
}

#[test]
fn a_lost_tail_is_found_by_a_time_out() {
    let config = Config::default();
    let mut outbox = outbox(0, 0);
    outbox.credit(100);
    outbox.rtt.sample(Instant::ZERO, 20_000);
    outbox.push(Instant::ZERO, (Kind::Request, 0, 1), vec![1; 250], 1, &config);
    while let Some(pick) = outbox.pick() {
        outbox.sent(Instant::ZERO, pick, &config);
    }
    let first = outbox.timeout();
    assert!(first >= Instant::from_micros(30) && first <= Instant::from_micros(100), "{first}");
    assert!(!outbox.timed_out(first, &config));
    // The first and the last of the three.
    for expected in [0, 2] {
        let Some(pick @ Pick::Again(seq)) = outbox.pick() else { panic!() };
        assert_eq!(seq, expected);
        outbox.sent(first, pick, &config);
    }
    assert!(outbox.pick().is_none());
    assert_eq!(outbox.timeout().since(first), 2 * first.since(Instant::ZERO));
}
