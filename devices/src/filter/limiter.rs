use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;

use super::Rate;
use crate::Instant;

/// Who has sent how much lately: the generic cell rate algorithm (ITU-T I.371 §A.1) for every rule
/// and source. What is remembered of a source is one time, until which it has used up its rate.
pub(super) struct Limiter {
    used_until: LruCache<(u64, IpAddr), Instant, RandomState>,
}

impl Limiter {
    /// Remembers at most `sources`; the one not seen for the longest time is forgotten, and its memory
    /// used again.
    pub(super) fn new(sources: NonZeroUsize) -> Self {
        Self { used_until: LruCache::with_hasher(sources, RandomState::new()) }
    }

    /// A packet of a source under a rule. False: it is above the rate.
    pub(super) fn admits(&mut self, now: Instant, rule: u64, source: IpAddr, rate: Rate) -> bool {
        let interval = (1_000_000_000 / u64::from(rate.per_second.get())).max(1);
        let tolerance = interval * u64::from(rate.burst.get() - 1);
        let used_until = self.used_until.get_or_insert_mut((rule, source), || Instant::ZERO);
        if used_until.as_nanos() > now.as_nanos().saturating_add(tolerance) {
            return false;
        }
        let start = (*used_until).max(now).as_nanos();
        *used_until = Instant::from_nanos(start.saturating_add(interval));
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limiter(sources: usize) -> Limiter {
        Limiter::new(NonZeroUsize::new(sources).unwrap())
    }

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (mut limiter, rate) = (limiter(1), rate("1000/5"));
        let mut sent = |now, count: usize| {
            (0..count).filter(|_| limiter.admits(at(now), 0, SOURCE, rate)).count()
        };
        assert_eq!(sent(7, 9), 5);
        assert_eq!(sent(1_000_006, 9), 0, "a nanosecond early");
        assert_eq!(sent(1_000_007, 9), 1);
        assert_eq!(sent(4_000_006, 9), 2);
        assert_eq!(sent(5_000_006, 9), 1);
        assert_eq!(sent(8_999_999, 9), 4);
    }

    #[test]
    fn the_ends_of_every_number() {
        let slowest = format!("1/{}", u32::MAX);
        let fastest = format!("{0}/1", u32::MAX);
        let mut limiter = limiter(1);
        for now in [0, 1, u64::MAX - 1, u64::MAX] {
            assert!(limiter.admits(at(now), 0, SOURCE, rate(&slowest)));
            assert!(limiter.admits(at(now), 1, SOURCE, rate(&fastest)));
        }
        assert!(limiter.admits(at(0), 2, SOURCE, rate(&fastest)));
        assert!(!limiter.admits(at(0), 2, SOURCE, rate(&fastest)), "one per nanosecond");
    }

    #[test]
    fn rules_and_sources_are_apart_and_the_oldest_is_forgotten() {
        let (mut limiter, rate) = (limiter(2), rate("1/1"));
        let mut admits = |rule, last| limiter.admits(at(0), rule, [10, 0, 0, last].into(), rate);
        assert!(admits(0, 1) && !admits(0, 1) && admits(1, 1));
        // It was heard of again, so the other one goes.
        assert!(!admits(0, 1) && admits(0, 2) && !admits(0, 1));
        assert!(admits(1, 1));
        assert!(admits(0, 2), "forgotten");
    }

    /// A bucket of nanoseconds: a packet costs an interval, and time fills it up.
    struct Bucket {
        credit: u128,
        full: u128,
        cost: u128,
        last: u64,
    }

    impl Bucket {
        fn new(rate: Rate) -> Self {
            let cost = u128::from((1_000_000_000 / rate.per_second.get()).max(1));
            let full = cost * u128::from(rate.burst.get());
            Self { credit: full, full, cost, last: 0 }
        }

        fn takes(&mut self, now: u64) -> bool {
            self.credit = (self.credit + u128::from(now - self.last)).min(self.full);
            self.last = now;
            let enough = self.credit >= self.cost;
            self.credit -= if enough { self.cost } else { 0 };
            enough
        }
    }

    proptest! {
        #[test]
        fn it_is_a_bucket(
            per_second in prop_oneof![
                1..5_u32, 999..1002_u32, 400_000_000..2_000_000_000_u32, Just(u32::MAX),
            ],
            burst in prop_oneof![1..20_u32, Just(u32::MAX)],
            // Multiples of the interval and their neighbours.
            steps in prop::collection::vec((0..6_u64, -1_i64..2, 1..8_usize), 1..60),
        ) {
            let rate: Rate = format!("{per_second}/{burst}").parse().unwrap();
            let (mut limiter, mut bucket) = (limiter(1), Bucket::new(rate));
            let mut now = 0_u64;
            for (intervals, off, packets) in steps {
                now = (now + intervals * bucket.cost as u64).saturating_add_signed(off).max(now);
                for _ in 0..packets {
                    let admitted = limiter.admits(at(now), 0, SOURCE, rate);
                    prop_assert_eq!(admitted, bucket.takes(now));
                }
            }
        }
    }
}
