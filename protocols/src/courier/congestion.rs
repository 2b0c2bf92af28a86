//! How many packets may be on the way.
//!
//! The page of the module says why it is done so.

use underpass_devices::Instant;

use super::Config;
use super::rtt::Rtt;

/// Packets on the way at most: what an acknowledgement can tell apart.
pub(super) const WINDOW: u32 = 64;

/// Of a packet: the window is counted in fractions.
const ONE: u32 = 1 << 10;
/// As RFC 6928 has it, rounded up.
const INITIAL: u32 = 16 * ONE;

/// The congestion window of one direction of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    window: u32,
    /// It doubles per round trip until the first sign of congestion.
    starting: bool,
    next_cut: Instant,
}

impl Congestion {
    pub(super) fn new() -> Self {
        Self { window: INITIAL, starting: true, next_cut: Instant::ZERO }
    }

    /// Whole packets, from 1 to 64.
    pub(super) fn packets(&self) -> u32 {
        self.window / ONE
    }

    /// `acked` packets have arrived while the window was in use to at least its half (`used`).
    pub(super) fn acked(
        &mut self,
        now: Instant,
        acked: u32,
        used: bool,
        sample: Option<u64>,
        rtt: &Rtt,
        config: &Config,
    ) {
        let target = target(rtt, config);
        if let Some(delay) = sample.filter(|delay| *delay > target) {
            // In 1/1024: 0.8 times the excess, at most a half.
            let cut = ((delay - target) * 819 / delay).min(512) as u32;
            self.cut(now, ONE - cut, rtt);
        } else if used {
            let growth = if self.starting { acked * ONE } else { acked * ONE / self.packets() };
            self.window = (self.window + growth).min(WINDOW * ONE);
        }
    }

    /// A packet was lost and others were not.
    pub(super) fn lost(&mut self, now: Instant, rtt: &Rtt) {
        self.cut(now, ONE * 7 / 10, rtt);
    }

    /// Nothing has come back for several time-outs.
    pub(super) fn silence(&mut self) {
        self.window = ONE;
        self.starting = false;
    }

    fn cut(&mut self, now: Instant, to: u32, rtt: &Rtt) {
        self.starting = false;
        if now < self.next_cut {
            return;
        }
        self.window = (u64::from(self.window) * u64::from(to) / u64::from(ONE)) as u32;
        self.window = self.window.max(ONE);
        self.next_cut = Instant::from_nanos(now.as_nanos() + rtt.mean().unwrap_or(0));
    }
}

/// The round-trip time above which there are queues.
fn target(rtt: &Rtt, config: &Config) -> u64 {
    let least = rtt.least();
    least + (least / 2).max(config.queueing.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(delay: u64, acks: u64) -> (Congestion, Rtt) {
        let config = Config::default();
        let mut rtt = Rtt::default();
        rtt.sample(Instant::ZERO, 50_000);
        let mut congestion = Congestion::new();
        for n in 0..acks {
            let now = Instant::from_micros(60 * n);
            rtt.sample(now, delay);
            congestion.acked(now, 1, true, Some(delay), &rtt, &config);
        }
        (congestion, rtt)
    }

    #[test]
    fn the_window_grows_below_the_target_and_shrinks_above() {
        assert_eq!(run(60_000, 100).0.packets(), WINDOW);
        assert_eq!(run(500_000, 100).0.packets(), 1);
    }

    #[test]
    fn it_is_cut_once_per_round_trip() {
        let (mut congestion, rtt) = run(60_000, 100);
        let now = Instant::from_millis(100);
        congestion.lost(now, &rtt);
        let once = congestion.packets();
        congestion.lost(now, &rtt);
        assert_eq!((once, congestion.packets()), (WINDOW * 7 / 10, WINDOW * 7 / 10));
    }
}
