//! How doubtful it is that a station still is there: the φ accrual failure detector.

use std::collections::VecDeque;
use std::time::Duration;

use underpass_devices::Instant;

/// When a station is suspected. See the module for what is taken from Hayashibara et al.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectorConfig {
    /// φ from which a station is suspected: it would be wrong once in 10^φ beacons, if their intervals
    /// were distributed as they were. From 1 to 16.
    pub threshold: f64,
    /// Intervals that the estimate is made of; the oldest one is forgotten. At least 1.
    pub window: usize,
    /// The standard deviation is taken to be at least this, however regular beacons have been.
    pub min_deviation: Duration,
    /// Silence that is forgiven in any case, on top of what is expected.
    pub pause: Duration,
    /// Silence after which a station is suspected, however irregular its beacons have been.
    pub max_silence: Duration,
}

/// What is known of the rhythm of a station.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    /// The newest last, in microseconds.
    intervals: VecDeque<u32>,
    sum: u64,
    squares: u128,
    last_beacon: Option<Instant>,
    last_heard: Instant,
}

/// What [`DetectorConfig`] comes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    config: DetectorConfig,
    /// [`DetectorConfig::threshold`] in standard deviations from the mean.
    deviations: f64,
}

impl Default for DetectorConfig {
    /// For beacons every second: φ of 8, 100 intervals, 100 ms, a pause of 3 s, 30 s at most.
    fn default() -> Self {
        Self {
            threshold: 8.0,
            window: 100,
            min_deviation: Duration::from_millis(100),
            pause: Duration::from_secs(3),
            max_silence: Duration::from_secs(30),
        }
    }
}

impl Tolerance {
    pub(super) fn new(config: DetectorConfig) -> Self {
        let threshold =
            if config.threshold.is_nan() { 8.0 } else { config.threshold.clamp(1.0, 16.0) };
        // φ grows with the deviations: the place where it crosses is found by halving.
        let (mut low, mut high) = (0.0, 16.0);
        for _ in 0..64 {
            let middle = f64::midpoint(low, high);
            if phi(middle) < threshold {
                low = middle;
            } else {
                high = middle;
            }
        }
        let config = DetectorConfig { threshold, window: config.window.max(1), ..config };
        Self { config, deviations: high }
    }
}

impl Detector {
    /// Of a station that says to have this interval between beacons, of which none has been heard.
    pub(super) fn new(now: Instant, interval: Duration, tolerance: &Tolerance) -> Self {
        let mut detector = Self {
            intervals: VecDeque::with_capacity(tolerance.config.window),
            sum: 0,
            squares: 0,
            last_beacon: None,
            last_heard: now,
        };
        // Two guesses around what it says, as Akka makes them: mean and deviation have a beginning.
        let interval = interval.min(tolerance.config.max_silence);
        for guess in [interval.mul_f64(0.75), interval.mul_f64(1.25)] {
            detector.add(guess, tolerance);
        }
        detector
    }

    /// A beacon of the rhythm has come.
    pub(super) fn beat(&mut self, now: Instant, tolerance: &Tolerance) {
        if let Some(last) = self.last_beacon.replace(now) {
            self.add(now - last, tolerance);
        }
        self.last_heard = now;
    }

    /// It has said something else.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// The next interval is not of its rhythm: it was away, or we were.
    pub(super) fn skip(&mut self, now: Instant) {
        self.last_beacon = None;
        self.last_heard = now;
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// When φ reaches the threshold, if nothing is heard before.
    pub(super) fn deadline(&self, tolerance: &Tolerance) -> Instant {
        let DetectorConfig { pause, max_silence, .. } = tolerance.config;
        let (mean, deviation) = self.estimate(tolerance);
        let expected = Duration::try_from_secs_f64(mean + deviation * tolerance.deviations)
            .unwrap_or(Duration::MAX);
        self.last_heard + max_silence.min(expected.saturating_add(pause))
    }

    /// −log₁₀ of the probability that a station which is there is silent until `now`.
    pub(super) fn phi(&self, now: Instant, tolerance: &Tolerance) -> f64 {
        let (mean, deviation) = self.estimate(tolerance);
        let silence = (now - self.last_heard).saturating_sub(tolerance.config.pause);
        phi((silence.as_secs_f64() - mean) / deviation)
    }

    /// Mean and standard deviation of the intervals, in seconds.
    fn estimate(&self, tolerance: &Tolerance) -> (f64, f64) {
        let count = self.intervals.len().max(1) as f64;
        let mean = self.sum as f64 / count;
        let variance = (self.squares as f64 / count - mean * mean).max(0.0);
        // A deviation of zero is no distribution.
        let least = tolerance.config.min_deviation.max(Duration::from_millis(1)).as_secs_f64();
        (mean * 1e-6, (variance.sqrt() * 1e-6).max(least))
    }

    fn add(&mut self, interval: Duration, tolerance: &Tolerance) {
        let DetectorConfig { window, max_silence, .. } = tolerance.config;
        if self.intervals.len() >= window
            && let Some(oldest) = self.intervals.pop_front()
        {
            self.sum -= u64::from(oldest);
            self.squares -= u128::from(oldest).pow(2);
        }
        let micros = u32::try_from(interval.min(max_silence).as_micros()).unwrap_or(u32::MAX);
        self.intervals.push_back(micros);
        self.sum += u64::from(micros);
        self.squares += u128::from(micros).pow(2);
    }
}

/// φ of a silence that is `y` standard deviations longer than the mean interval. The tail of the normal
/// distribution is approximated by a logistic function (Bowling et al. 2009: wrong by 0.00014 at most), as
/// Akka's `PhiAccrualFailureDetector` does.
fn phi(y: f64) -> f64 {
    let e = (-y * (1.5976 + 0.070_566 * y * y)).exp();
    let later = if y > 0.0 { e / (1.0 + e) } else { 1.0 - 1.0 / (1.0 + e) };
    if e.is_infinite() { 0.0 } else { -later.log10() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After `n` beacons at these intervals, in turn.
    fn after(n: usize, intervals: &[Duration], tolerance: &Tolerance) -> (Detector, Instant) {
        let mut now = Instant::ZERO;
        let mut detector = Detector::new(now, SECOND, tolerance);
        for interval in intervals.iter().cycle().take(n) {
            detector.beat(now, tolerance);
            now += *interval;
        }
        detector.beat(now, tolerance);
        (detector, now)
    }

    #[test]
    fn phi_is_the_tail_of_the_normal_distribution() {
        // 1 − Φ(y), from tables.
        for (y, tail) in [(0.0, 0.5), (1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_350)] {
            let later = 10_f64.powf(-phi(y));
            assert!((later - tail).abs() < 0.000_15, "{y}: {later}");
        }
        assert!(phi(-1e9) == 0.0 && phi(1e9) == f64::INFINITY && phi(-3.0) < 0.001);
        assert!((-100..400).all(|n| phi(f64::from(n) / 10.0) <= phi(f64::from(n + 1) / 10.0)));
    }

    #[test]
    fn the_deadline_is_where_phi_crosses_the_threshold() {
        for threshold in [1.0, 3.0, 8.0, 16.0, 99.0, f64::NAN] {
            let tolerance =
                Tolerance::new(DetectorConfig { threshold, ..DetectorConfig::default() });
            let intervals = [900, 1000, 1300].map(Duration::from_millis);
            let (detector, _) = after(500, &intervals, &tolerance);
            let at = detector.deadline(&tolerance);
            let threshold = tolerance.config.threshold;
            let around = [-1, 1].map(|sign: i64| {
                let at = Instant::from_nanos(at.as_nanos().saturating_add_signed(sign * 1_000_000));
                detector.phi(at, &tolerance)
            });
            assert!(around[0] < threshold && threshold < around[1], "{threshold}: {around:?}");
        }
    }

    #[test]
    fn it_learns_the_rhythm_and_forgets() {
        let tolerance = Tolerance::new(DetectorConfig::default());
        let silence = |intervals: &[Duration]| {
            let (detector, now) = after(1000, intervals, &tolerance);
            assert_eq!(detector.intervals.len(), 100);
            let sum: u64 = detector.intervals.iter().copied().map(u64::from).sum();
            assert_eq!(sum, detector.sum);
            detector.deadline(&tolerance) - now
        };
        let regular = silence(&[SECOND]);
        let irregular = silence(&[SECOND / 2, SECOND, SECOND * 2]);
        let fast = silence(&[SECOND / 10]);
        let wild = silence(&[SECOND / 10, SECOND * 1000]);
        assert!(regular > SECOND * 4 && regular < SECOND * 5, "{regular:?}");
        assert!(irregular > regular && fast < regular, "{irregular:?} {fast:?}");
        assert_eq!(wild, SECOND * 30, "the bound");
    }

    #[test]
    fn extremes_do_not_overflow() {
        for (pause, max_silence) in
            [(Duration::MAX, Duration::MAX), (Duration::ZERO, Duration::ZERO)]
        {
            let (min_deviation, window) = (Duration::ZERO, 0);
            let config =
                DetectorConfig { threshold: 0.0, window, min_deviation, pause, max_silence };
            let tolerance = Tolerance::new(config);
            let (detector, now) = after(10, &[Duration::ZERO, Duration::MAX], &tolerance);
            assert!(detector.deadline(&tolerance) >= now);
            assert!(!detector.phi(now, &tolerance).is_nan());
        }
    }
}
