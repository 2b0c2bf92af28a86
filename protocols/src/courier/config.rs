//! What a station is told at its start.

use std::time::Duration;

use super::inbox::first_cells;
use super::memory::CELL;
use super::wire::DATA_HEADER_LEN;
use crate::transport;

/// Calls that every station serves at once at least, so that a caller may use as many slots before
/// it has been told how many there are.
pub(super) const LEAST_CALLS: u16 = 8;
/// Shortest packet that every station takes, in bytes.
pub(super) const LEAST_PACKET: usize = DATA_HEADER_LEN + 196;
/// No body is longer, in bytes, whatever the limits say.
const MOST_MESSAGE: usize = 1 << 26;
/// Sessions that an identifier can tell apart.
const MOST_SESSIONS: usize = 1 << 24;

/// Times and sizes of a station. Stations that talk to each other should have equal times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Longest packet, in bytes, headers of this protocol included and others not. The two ends of a
    /// session use the smaller one of theirs.
    pub packet_bytes: u16,
    /// How long an acknowledgement may wait for a packet that takes it along.
    pub ack_delay: Duration,
    /// Shortest retransmission time-out.
    pub rto_floor: Duration,
    /// Longest retransmission time-out.
    pub rto_ceiling: Duration,
    /// Retransmission time-out before the round-trip time is known.
    pub rto_initial: Duration,
    /// A session is lost when nothing has been heard for this long although something is awaited.
    pub dead_after: Duration,
    /// The caller closes a session that has had nothing to do for this long; the other end forgets it
    /// after twice this time.
    pub idle: Duration,
    /// Delay in queues above the least round-trip time at which the congestion window shrinks; at
    /// least half of the least round-trip time is tolerated in any case.
    pub queueing: Duration,
    /// Every limit.
    pub limits: Limits,
}

impl Default for Config {
    /// For UDP over IPv6 in Ethernet frames of 1500 bytes: packets of 1452 bytes; acknowledgements
    /// after 20 µs, time-outs from 30 µs to 100 ms, at first 1 ms; dead after 2 s, idle for 30 s; 25 µs
    /// of queueing.
    fn default() -> Self {
        Self {
            packet_bytes: 1452,
            ack_delay: Duration::from_micros(20),
            rto_floor: Duration::from_micros(30),
            rto_ceiling: Duration::from_millis(100),
            rto_initial: Duration::from_millis(1),
            dead_after: Duration::from_secs(2),
            idle: Duration::from_secs(30),
            queueing: Duration::from_micros(25),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// With values that make no sense replaced by the nearest ones that do.
    pub(super) fn sane(mut self) -> Self {
        self.packet_bytes = self.packet_bytes.max(LEAST_PACKET as u16);
        self.rto_floor = self.rto_floor.max(Duration::from_micros(1));
        self.rto_ceiling = self.rto_ceiling.max(self.rto_floor);
        let limits = &mut self.limits;
        limits.message_bytes = limits.message_bytes.clamp(1, MOST_MESSAGE);
        limits.sessions = limits.sessions.clamp(1, MOST_SESSIONS);
        limits.strangers = limits.strangers.clamp(1, limits.sessions);
        limits.session_calls = limits.session_calls.max(LEAST_CALLS);
        let first = first_cells(limits.message_bytes) as usize * CELL;
        limits.receive_bytes = limits.receive_bytes.max(first);
        self
    }
}

/// Every limit of a station. Reaching one is refused to the application, or counted as a dropped
/// packet.
///
/// Bytes are those of bodies, each rounded up to a power of two and at least 256; what is kept about
/// a body takes less than 256 bytes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest body, in bytes.
    pub message_bytes: usize,
    /// Sessions, in both roles together.
    pub sessions: usize,
    /// Of these, sessions that a peer has asked for and not used yet. One more, and the oldest is
    /// forgotten.
    pub strangers: usize,
    /// Calls under way per session, from 8; the two ends use the smaller one of theirs.
    pub session_calls: u16,
    /// Calls begun whose end has not been told by [`Courier::poll_event`](super::Courier::poll_event).
    pub calls: usize,
    /// Bytes that a session may have on the way to us and in our queue of events. It begins with one
    /// body of the greatest length and 16 KiB, and grows with use.
    pub session_receive_bytes: usize,
    /// The same of all sessions together. A session is refused when there is no room for one body of
    /// the greatest length.
    pub receive_bytes: usize,
    /// Bytes per session that the application has given and the peer has not acknowledged; one body is
    /// taken in any case.
    pub session_send_bytes: usize,
    /// The same of all sessions together.
    pub send_bytes: usize,
    /// Bytes of buffers kept for reuse.
    pub pool_bytes: usize,
    /// Refusals to strangers that wait to be sent.
    pub refusals: usize,
}

impl Default for Limits {
    /// Bodies of 256 KiB; 1024 sessions, 64 of them strangers'; 256 calls per session, 65,536 in all;
    /// 1 MiB received and 1 MiB sent per session, 512 MiB each in all; 4 MiB of buffers kept; 64
    /// refusals.
    fn default() -> Self {
        Self {
            message_bytes: 256 << 10,
            sessions: 1024,
            strangers: 64,
            session_calls: 256,
            calls: 1 << 16,
            session_receive_bytes: 1 << 20,
            receive_bytes: 512 << 20,
            session_send_bytes: 1 << 20,
            send_bytes: 512 << 20,
            pool_bytes: 4 << 20,
            refusals: 64,
        }
    }
}

impl From<transport::Limits> for Limits {
    /// Of a station for messages alone: per peer a session in each direction, and as much on the way from
    /// it as is queued for it.
    fn from(limits: transport::Limits) -> Self {
        let message_bytes = limits.message_bytes as usize;
        let sessions = limits.peers.saturating_mul(2);
        let session_bytes = limits.queue_bytes.max(first_cells(message_bytes) as usize * CELL);
        Self {
            message_bytes,
            sessions,
            strangers: limits.strangers,
            session_receive_bytes: session_bytes,
            receive_bytes: sessions.saturating_mul(session_bytes),
            session_send_bytes: limits.queue_bytes,
            send_bytes: sessions.saturating_mul(limits.queue_bytes),
            ..Self::default()
        }
    }
}
