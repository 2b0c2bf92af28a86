use std::time::Duration;

use underpass_devices::Instant;

use crate::tcp::engine::Sequence;

/// What smoltcp does not tell of a connection, seen at its packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// As of the last segment sent.
    pub(super) sent: Sequence,
    /// Behind the last byte written, be it sent or not.
    pub(super) written: u32,
    /// The first byte not read.
    pub(super) unread: u32,
    /// Behind everything ever sent.
    pub(super) sent_max: u32,
    /// Segments sent again.
    pub(super) retransmissions: u32,
    /// Window field of the last segment sent.
    pub(super) sent_window: u16,
    /// Bytes the peer takes, as of its last segment, and the scale of its window field.
    pub(super) peer_window: u32,
    pub(super) peer_scale: u8,
    /// The round trip being measured: it ends when this is acknowledged.
    timed: Option<(u32, Instant)>,
    rtt: Option<Rtt>,
}

/// RFC 6298 §2, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Rtt {
    smoothed: u32,
    variation: u32,
}

/// One segment, as it is sent.
pub(super) struct SentSegment {
    pub(super) sequence: Sequence,
    pub(super) seq: u32,
    pub(super) data_len: u32,
    pub(super) window: u16,
}

impl Meter {
    /// A connection whose first sequence number is `isn`.
    pub(super) fn new(isn: u32) -> Self {
        Self { written: isn.wrapping_add(1), sent_max: isn, ..Self::default() }
    }

    /// A segment leaves. `una` is the first byte not acknowledged, `size` what goes into one packet.
    pub(super) fn on_sent(&mut self, now: Instant, segment: &SentSegment, una: u32, size: u16) {
        let SentSegment { sequence, seq, data_len, window } = *segment;
        self.sent = sequence;
        self.sent_window = window;
        let end = sequence.snd_nxt;
        if is_before(seq, self.sent_max) {
            // A probe repeats what is acknowledged already.
            if is_before(seq, una) {
                return;
            }
            let again = end.wrapping_sub(seq).min(self.sent_max.wrapping_sub(seq));
            self.retransmissions += again.div_ceil(u32::from(size.max(1)));
            // Which of the two would be acknowledged? (Karn's algorithm)
            self.timed = None;
        } else if self.timed.is_none() && end != seq {
            // The SYN or data; a FIN alone is not timed, for `una` stops before it.
            let is_syn = data_len == 0 && end == self.written;
            let timed = if is_syn { end } else { seq.wrapping_add(data_len) };
            self.timed = (timed != seq).then_some((timed, now));
        }
        if is_before(self.sent_max, end) {
            self.sent_max = end;
        }
    }

    /// A segment of the peer's was taken in, after which `una` is the first byte not acknowledged.
    pub(super) fn on_received(&mut self, now: Instant, ack: u32, una: u32) {
        if let Some((end, at)) = self.timed
            && !is_before(ack, end)
            && !is_before(una, end)
        {
            self.timed = None;
            self.sample(now - at);
        }
    }

    /// Smoothed round-trip time and its mean deviation.
    pub(super) fn rtt(&self) -> Option<(Duration, Duration)> {
        let micros = |n: u32| Duration::from_micros(n.into());
        self.rtt.map(|rtt| (micros(rtt.smoothed), micros(rtt.variation)))
    }

    fn sample(&mut self, rtt: Duration) {
        let sample = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX / 8);
        self.rtt = Some(match self.rtt {
            None => Rtt { smoothed: sample, variation: sample / 2 },
            Some(Rtt { smoothed, variation }) => Rtt {
                variation: variation - variation / 4 + smoothed.abs_diff(sample) / 4,
                smoothed: smoothed - smoothed / 8 + sample / 8,
            },
        });
    }
}

/// True if `a` comes before `b` in sequence space (RFC 9293 §3.4).
pub(super) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn send(meter: &mut Meter, now: u64, seq: u32, data_len: u32, una: u32) {
        let sequence = Sequence { snd_nxt: seq.wrapping_add(data_len), rcv_nxt: 0 };
        let segment = SentSegment { sequence, seq, data_len, window: 7 };
        meter.on_sent(at(now), &segment, una, 100);
    }

    #[test]
    fn retransmissions_are_counted_in_segments_and_are_not_timed() {
        let first = u32::MAX - 50;
        let mut meter = Meter::new(first.wrapping_sub(1));
        meter.written = first.wrapping_add(1000);
        meter.sent_max = first;
        send(&mut meter, 0, first, 250, first);
        assert_eq!(meter.retransmissions, 0);
        // The same and 50 new bytes in one.
        send(&mut meter, 5, first, 300, first);
        assert_eq!((meter.retransmissions, meter.sent_max), (3, first.wrapping_add(300)));
        meter.on_received(at(9), first.wrapping_add(300), first.wrapping_add(300));
        assert_eq!(meter.rtt(), None);
        send(&mut meter, 20, first.wrapping_add(300), 10, first.wrapping_add(300));
        meter.on_received(at(24), first.wrapping_add(305), first.wrapping_add(305));
        assert_eq!(meter.rtt(), None);
        meter.on_received(at(28), first.wrapping_add(310), first.wrapping_add(310));
        let millis = Duration::from_millis;
        assert_eq!(meter.rtt(), Some((millis(8), millis(4))));
    }

    #[test]
    fn a_probe_is_no_retransmission() {
        let mut meter = Meter::new(99);
        meter.sent_max = 200;
        send(&mut meter, 0, 199, 1, 200);
        assert_eq!((meter.retransmissions, meter.sent_max), (0, 200));
    }

    #[test]
    fn a_handshake_is_timed() {
        let mut meter = Meter::new(99);
        let sequence = Sequence { snd_nxt: 100, rcv_nxt: 0 };
        let syn = SentSegment { sequence, seq: 99, data_len: 0, window: 7 };
        meter.on_sent(at(0), &syn, 99, 536);
        meter.on_received(at(3), 100, 100);
        assert_eq!(meter.rtt().map(|(rtt, _)| rtt), Some(Duration::from_millis(3)));
    }
}
