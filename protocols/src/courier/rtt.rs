//! Round-trip time and retransmission time-out, in nanoseconds.

use underpass_devices::Instant;

use super::Config;

/// The least round-trip time is forgotten after ten to twenty seconds: routes change.
const MEMORY_NS: u64 = 10_000_000_000;
/// A time-out is at least this much above the mean: clocks and threads are not more exact.
const GRANULARITY_NS: u64 = 10_000;

/// Estimates as in RFC 6298, from echoed time stamps, so that retransmission makes no sample doubtful.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    mean: u64,
    deviation: u64,
    least: [u64; 2],
    since: Instant,
}

impl Rtt {
    pub(super) fn sample(&mut self, now: Instant, rtt: u64) {
        let rtt = rtt.max(1);
        if self.mean == 0 {
            *self = Self { mean: rtt, deviation: rtt / 2, least: [rtt, rtt], since: now };
            return;
        }
        let error = self.mean.abs_diff(rtt);
        self.deviation = (3 * self.deviation + error) / 4;
        self.mean = (7 * self.mean + rtt) / 8;
        if now.since(self.since).as_nanos() as u64 > MEMORY_NS {
            self.least = [rtt, self.least[0]];
            self.since = now;
        }
        self.least[0] = self.least[0].min(rtt);
    }

    /// The mean, once there is one.
    pub(super) fn mean(&self) -> Option<u64> {
        (self.mean > 0).then_some(self.mean)
    }

    /// The least of the last ten to twenty seconds.
    pub(super) fn least(&self) -> u64 {
        self.least[0].min(self.least[1])
    }

    /// When to send again what has been sent and not acknowledged, after so many times in vain.
    pub(super) fn timeout(&self, config: &Config, tries: u32) -> u64 {
        let [floor, ceiling] = [config.rto_floor, config.rto_ceiling].map(|t| t.as_nanos() as u64);
        let base = match self.mean {
            0 => config.rto_initial.as_nanos() as u64,
            mean => {
                let spread = (4 * self.deviation).max(GRANULARITY_NS);
                mean.saturating_add(spread).saturating_add(config.ack_delay.as_nanos() as u64)
            }
        };
        base.max(floor).saturating_mul(1 << tries.min(32)).clamp(floor, ceiling)
    }
}
