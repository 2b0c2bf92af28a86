//! A hierarchical timer wheel (Varghese and Lauck, 1987): one timer per key, O(1) to arm, to move
//! and to cancel, whatever the number of timers.

use std::time::Duration;

use underpass_devices::Instant;

use crate::list::{Links, List};

const LEVELS: usize = 6;
const SLOTS: usize = 256;
const DIGIT_BITS: usize = 8;
const LAST_TICK: u64 = (1 << (LEVELS * DIGIT_BITS)) - 1;
/// With ticks of this many nanoseconds, the levels reach the end of [`Instant`].
const MIN_GRANULARITY: u64 = 1 << (64 - LEVELS * DIGIT_BITS);
/// Pseudo-slot of timers that are due already, behind those of the wheel.
const DUE: u16 = (LEVELS * SLOTS) as u16;
/// Pseudo-slot of a key that is not filed.
const IDLE: u16 = u16::MAX;

/// Deadline of a timer that is not armed; it may still be filed.
const NEVER: u64 = u64::MAX;

/// Timers in ticks of a fixed granularity. A timer never fires early, and fires at most one
/// granularity late if the wheel is advanced in time.
///
/// A key is a slot number of the caller's; memory grows with the highest key (40 bytes each).
#[derive(Debug)]
pub(crate) struct TimerWheel {
    granularity: u64,
    /// Every tick up to and with this one has been worked off.
    now: u64,
    timers: Vec<Timer>,
    links: Links,
    /// `LEVELS × SLOTS` lists, then the one of [`DUE`]. A timer is on the level of the highest
    /// digit (base 256) in which its tick differs from `now`, in the slot of that digit.
    lists: Vec<List>,
    /// One bit per slot that may hold a timer.
    occupied: [[u64; SLOTS / 64]; LEVELS],
    armed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// Tick at which it is to fire.
    deadline: u64,
    /// Tick for which it was filed: `deadline` or earlier. Moving a deadline back costs one store;
    /// the timer is filed again only when this tick comes. So does cancelling it: it is forgotten
    /// then, without touching its neighbours on the list.
    filed: u64,
    slot: u16,
}

impl Timer {
    fn is_armed(&self) -> bool {
        self.deadline != NEVER
    }
}

impl TimerWheel {
    /// An empty wheel that starts at `now`. A granularity below 65.536 µs counts as that.
    pub(crate) fn new(granularity: Duration, now: Instant) -> Self {
        let granularity =
            u64::try_from(granularity.as_nanos()).unwrap_or(u64::MAX).max(MIN_GRANULARITY);
        Self {
            granularity,
            now: now.as_nanos() / granularity,
            timers: Vec::new(),
            links: Links::default(),
            lists: vec![List::EMPTY; LEVELS * SLOTS + 1],
            occupied: [[0; SLOTS / 64]; LEVELS],
            armed: 0,
        }
    }

    /// Arms the timer of `key` for `at`, instead of when it was armed for before, if it was.
    pub(crate) fn schedule(&mut self, key: u32, at: Instant) {
        let index = key as usize;
        if index >= self.timers.len() {
            let idle = Timer { deadline: NEVER, filed: 0, slot: IDLE };
            self.timers.resize(index + 1, idle);
        }
        let deadline = at.as_nanos().div_ceil(self.granularity).min(LAST_TICK);
        let timer = &mut self.timers[index];
        if !timer.is_armed() {
            self.armed += 1;
        }
        timer.deadline = deadline;
        if timer.slot == IDLE {
            self.file(key);
        } else if deadline < timer.filed {
            self.unfile(key);
            self.file(key);
        }
    }

    /// Disarms the timer of `key`, if it is armed.
    pub(crate) fn cancel(&mut self, key: u32) {
        if let Some(timer) = self.timers.get_mut(key as usize).filter(|t| t.is_armed()) {
            timer.deadline = NEVER;
            self.armed -= 1;
        }
    }

    /// True if `key` has a timer.
    #[cfg(test)]
    pub(crate) fn is_armed(&self, key: u32) -> bool {
        self.timers.get(key as usize).is_some_and(Timer::is_armed)
    }

    /// Number of armed timers.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.armed
    }

    /// Moves the wheel to `now`, disarms every timer that is due, and hands its key to `fire`, in
    /// order of ticks. Time never goes backwards: an earlier `now` counts as the last one.
    pub(crate) fn advance(&mut self, now: Instant, mut fire: impl FnMut(u32)) {
        let target = (now.as_nanos() / self.granularity).max(self.now);
        self.fire_due(&mut fire);
        while let Some(tick) = self.next_tick().filter(|tick| *tick <= target) {
            self.now = tick;
            self.open(tick);
            self.fire_due(&mut fire);
        }
        self.now = target;
    }

    /// When the wheel should be advanced next; never later than the first timer is due. It can be
    /// earlier (a timer that was moved back or cancelled, or is far away): then advancing fires
    /// nothing.
    pub(crate) fn next(&self) -> Option<Instant> {
        if self.armed == 0 {
            return None;
        }
        let tick =
            if self.lists[usize::from(DUE)].is_empty() { self.next_tick()? } else { self.now };
        Some(Instant::from_nanos(tick.saturating_mul(self.granularity)))
    }

    /// Files the unfiled timer of `key` by its deadline, or forgets it if it was cancelled.
    fn file(&mut self, key: u32) {
        let now = self.now;
        let timer = &mut self.timers[key as usize];
        if !timer.is_armed() {
            timer.slot = IDLE;
            return;
        }
        timer.filed = timer.deadline;
        if timer.filed <= now {
            timer.slot = DUE;
        } else {
            let level = (timer.filed ^ now).ilog2() as usize / DIGIT_BITS;
            let digit = digit(timer.filed, level);
            timer.slot = (level * SLOTS + digit) as u16;
            self.occupied[level][digit / 64] |= 1 << (digit % 64);
        }
        let slot = usize::from(timer.slot);
        self.links.push_back(&mut self.lists[slot], key);
    }

    fn unfile(&mut self, key: u32) {
        let timer = &mut self.timers[key as usize];
        let slot = usize::from(timer.slot);
        timer.slot = IDLE;
        self.links.remove(&mut self.lists[slot], key);
        if slot != usize::from(DUE) && self.lists[slot].is_empty() {
            self.mark_empty(slot);
        }
    }

    fn mark_empty(&mut self, slot: usize) {
        let (level, digit) = (slot / SLOTS, slot % SLOTS);
        self.occupied[level][digit / 64] &= !(1 << (digit % 64));
    }

    /// The first tick after `now` at which a slot is to be opened.
    fn next_tick(&self) -> Option<u64> {
        // Whatever is on a level comes before whatever is on the levels above.
        self.occupied.iter().enumerate().find_map(|(level, words)| {
            let word = words.iter().position(|w| *w != 0)?;
            let digit = (word * 64) as u64 + u64::from(words[word].trailing_zeros());
            let shift = level * DIGIT_BITS;
            let above = self.now & (u64::MAX << (shift + DIGIT_BITS));
            Some(above | digit << shift)
        })
    }

    /// Files the timers of every slot that begins at `tick` again: a level down, or as due.
    fn open(&mut self, tick: u64) {
        for level in 0..LEVELS {
            if tick & ((1 << (level * DIGIT_BITS)) - 1) != 0 {
                break;
            }
            let slot = level * SLOTS + digit(tick, level);
            let mut list = std::mem::replace(&mut self.lists[slot], List::EMPTY);
            self.mark_empty(slot);
            while let Some(key) = self.links.pop_front(&mut list) {
                self.file(key);
            }
        }
    }

    fn fire_due(&mut self, fire: &mut impl FnMut(u32)) {
        while let Some(key) = self.links.pop_front(&mut self.lists[usize::from(DUE)]) {
            let timer = &mut self.timers[key as usize];
            if timer.deadline > self.now {
                self.file(key);
            } else {
                timer.slot = IDLE;
                timer.deadline = NEVER;
                self.armed -= 1;
                fire(key);
            }
        }
    }
}

fn digit(tick: u64, level: usize) -> usize {
    (tick >> (level * DIGIT_BITS)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn fired(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        let mut keys = Vec::new();
        wheel.advance(now, |key| keys.push(key));
        keys
    }

    #[test]
    fn a_timer_in_the_past_fires_at_once() {
        let now = Instant::from_millis(77);
        let mut wheel = TimerWheel::new(MILLI, now);
        wheel.schedule(0, Instant::from_millis(3));
        wheel.schedule(1, now);
        assert!(wheel.next().unwrap() <= now);
        assert_eq!(fired(&mut wheel, now), [0, 1]);
        assert_eq!((wheel.len(), wheel.next()), (0, None));
    }

    #[test]
    fn moving_a_due_timer_back_keeps_it_from_firing() {
        let mut wheel = TimerWheel::new(MILLI, Instant::ZERO);
        wheel.schedule(0, Instant::ZERO);
        wheel.schedule(0, Instant::from_millis(10));
        assert_eq!(fired(&mut wheel, Instant::from_millis(9)), []);
        assert_eq!(fired(&mut wheel, Instant::from_millis(10)), [0]);
    }

    #[test]
    fn the_end_of_time_does_not_fire_early() {
        let mut wheel = TimerWheel::new(MILLI, Instant::ZERO);
        wheel.schedule(5, Instant::MAX);
        assert_eq!(fired(&mut wheel, Instant::from_millis(1 << 40)), []);
        assert_eq!(fired(&mut wheel, Instant::MAX), []);
        assert!(wheel.is_armed(5));
    }

    #[test]
    fn idle_time_is_skipped_not_walked() {
        let mut wheel = TimerWheel::new(MILLI, Instant::ZERO);
        let year = Instant::ZERO + Duration::from_secs(365 * 24 * 3600);
        wheel.schedule(0, year);
        let mut rounds = 0;
        while wheel.len() > 0 {
            let next = wheel.next().unwrap();
            assert!(next <= year);
            wheel.advance(next, |_| ());
            rounds += 1;
        }
        assert!(rounds <= LEVELS, "{rounds} wake-ups for one timer");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn delay() -> impl Strategy<Value = u64> {
        // Every level, in nanoseconds; both sides of the digit boundaries.
        (0_u32..46, 0_u64..1 << 20).prop_map(|(bits, low)| (1 << bits) + low)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u32..40, delay()).prop_map(|(key, delay)| Step::Schedule(key, delay)),
            1 => (0_u32..40).prop_map(Step::Cancel),
            3 => delay().prop_map(Step::Advance),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn agrees_with_a_sorted_map(
            start in 0_u64..1 << 40,
            steps in proptest::collection::vec(step(), 1..200),
            granularity in prop_oneof![Just(1_000_000_u64), Just(MIN_GRANULARITY), Just(100_000)],
        ) {
            let mut now = start;
            let mut wheel = TimerWheel::new(
                Duration::from_nanos(granularity), Instant::from_nanos(start));
            let mut oracle = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Schedule(key, delay) => {
                        wheel.schedule(key, Instant::from_nanos(now + delay));
                        oracle.insert(key, now + delay);
                    }
                    Step::Cancel(key) => {
                        wheel.cancel(key);
                        oracle.remove(&key);
                    }
                    Step::Advance(by) => {
                        now += by;
                        let mut got = fired(&mut wheel, Instant::from_nanos(now));
                        got.sort_unstable();
                        for key in &got {
                            let at = oracle.remove(key);
                            prop_assert!(at.is_some_and(|at| at <= now), "fired early: {:?}", key);
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), oracle.len());
                let first = oracle.values().min().copied();
                prop_assert_eq!(first.is_some(), wheel.next().is_some());
                if let (Some(first), Some(next)) = (first, wheel.next()) {
                    // Not later than the tick of the first timer, and that one is not overdue.
                    let due = first.div_ceil(granularity) * granularity;
                    prop_assert!(next.as_nanos() <= due);
                    prop_assert!(due > now - now % granularity || next.as_nanos() <= now);
                }
            }
        }

        #[test]
        fn sleeping_until_next_fires_each_within_one_granularity(
            delays in proptest::collection::vec(delay(), 1..50),
        ) {
            let mut wheel = TimerWheel::new(MILLI, Instant::ZERO);
            for (key, delay) in delays.iter().enumerate() {
                wheel.schedule(key as u32, Instant::from_nanos(*delay));
            }
            while let Some(next) = wheel.next() {
                wheel.advance(next, |key| {
                    let at = delays[key as usize];
                    assert!((at..at + 1_000_000).contains(&next.as_nanos()));
                });
            }
            prop_assert_eq!(wheel.len(), 0);
        }
    }
}
