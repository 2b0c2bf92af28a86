use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use underpass_devices::Instant;
use zerocopy::{FromZeros, IntoBytes};

use super::header::{ProbeHeader, REPLY, REQUEST, VERSION};
use crate::header::{Checksum, Header};
use crate::{
    Destination, Incoming, Outbox, Peer, Protocol, Reason, Refused, SendError, Undelivered,
};

/// Of packets whose hop limit nobody has chosen (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// What every ICMP error quotes (RFC 792): all up to the sequence number.
const QUOTED_LEN: usize = 8;

/// Sends requests, answers those of others, and keeps what has come of its own.
#[derive(Debug)]
pub struct Probe {
    config: ProbeConfig,
    next_sequence: u16,
    waiting: VecDeque<Numbered>,
    /// In the order in which they were sent, which is that of their deadlines.
    sent: VecDeque<Sent>,
    results: VecDeque<ProbeResult>,
}

/// How a [`Probe`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// A random number, another one for each run: replies to another run are not taken.
    pub session: u16,
    /// How long a reply may take.
    pub timeout: Duration,
    /// Requests that wait, or are on their way, or whose results nobody has taken.
    pub max_requests: usize,
}

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// To whom.
    pub to: IpAddr,
    /// How many routers may pass it on, and one more. 0 counts as 1.
    pub hop_limit: u8,
    /// Bytes of zeroes behind the header.
    pub payload: u16,
}

/// What has come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// Number of the request, as [`Probe::request`] has given it.
    pub sequence: u16,
    /// Where it went.
    pub to: IpAddr,
    /// Whether there is a reply.
    pub outcome: Outcome,
}

/// How a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host has answered.
    Reply {
        /// From the request to the reply.
        round_trip: Duration,
        /// Routers on the way there, as the host says.
        hops_there: u8,
        /// Routers on the way back.
        hops_back: u8,
    },
    /// It got no further than here.
    Stopped {
        /// Who says so: a router, or the host.
        by: IpAddr,
        /// Why: [`Reason::HopLimit`] on the way.
        why: Reason,
        /// From the request to the report.
        after: Duration,
    },
    /// There was no reply in time.
    TimedOut,
    /// It could not be sent.
    NotSent(SendError),
}

/// [`ProbeConfig::max_requests`] is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {0} requests is reached: take results, or wait for them")]
pub struct TooManyRequests(usize);

#[derive(Clone, Copy, Debug)]
struct Numbered {
    sequence: u16,
    request: Request,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u16,
    to: IpAddr,
    at: Instant,
}

impl Default for ProbeConfig {
    /// Session 0, one second, 64 requests.
    fn default() -> Self {
        Self { session: 0, timeout: Duration::from_secs(1), max_requests: 64 }
    }
}

impl Request {
    /// With a hop limit of 64 and no payload.
    pub const fn to(to: IpAddr) -> Self {
        Self { to, hop_limit: HOP_LIMIT, payload: 0 }
    }
}

impl Probe {
    /// A station that has sent nothing yet.
    pub fn new(config: ProbeConfig) -> Self {
        Self {
            config,
            next_sequence: 0,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            results: VecDeque::new(),
        }
    }

    /// Sends a request as soon as it can be, and returns its number.
    pub fn request(&mut self, request: Request) -> Result<u16, TooManyRequests> {
        if self.waiting.len() + self.sent.len() + self.results.len() >= self.config.max_requests {
            return Err(TooManyRequests(self.config.max_requests));
        }
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        self.waiting.push_back(Numbered { sequence, request });
        Ok(sequence)
    }

    /// Takes what has come of a request. The application is woken when there is something.
    pub fn result(&mut self) -> Option<ProbeResult> {
        self.results.pop_front()
    }

    fn answer(
        request: &ProbeHeader,
        payload: &[u8],
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused> {
        if frame.is_to_group() {
            return Err(Refused);
        }
        let to = Destination { hop_limit: Some(HOP_LIMIT), ..frame.reply() };
        let reply = ProbeHeader {
            kind: REPLY,
            hop_limit: HOP_LIMIT,
            hops_there: hops(request, frame),
            ..*request
        };
        // Where there is no room, the reply is lost, as it might be anywhere; it is counted.
        let _ = out.send(to, ProbeHeader::LEN + payload.len(), |packet| {
            packet[ProbeHeader::LEN..].copy_from_slice(payload);
            reply.emit(packet)
        });
        Ok(())
    }

    fn on_reply(
        &mut self,
        now: Instant,
        reply: &ProbeHeader,
        frame: &Incoming<'_>,
    ) -> Result<(), Refused> {
        let is_it = |sent: &Sent| {
            Peer::Host(sent.to) == frame.from
                && sent.sequence == reply.sequence.get()
                && sent.at.as_nanos() == reply.sent_at.get()
        };
        let ours = reply.session.get() == self.config.session;
        let found = self.sent.iter().position(is_it).filter(|_| ours).ok_or(Refused)?;
        let Sent { sequence, to, at } = self.sent.remove(found).ok_or(Refused)?;
        let outcome = Outcome::Reply {
            round_trip: now - at,
            hops_there: reply.hops_there,
            hops_back: hops(reply, frame),
        };
        self.results.push_back(ProbeResult { sequence, to, outcome });
        Ok(())
    }

    fn send(
        &self,
        now: Instant,
        numbered: &Numbered,
        out: &mut Outbox<'_>,
    ) -> Result<(), SendError> {
        let Numbered { sequence, request } = *numbered;
        let hop_limit = request.hop_limit.max(1);
        let header = ProbeHeader {
            version: VERSION,
            kind: REQUEST,
            checksum: Checksum::default(),
            session: self.config.session.into(),
            sequence: sequence.into(),
            sent_at: now.as_nanos().into(),
            hop_limit,
            hops_there: 0,
            reserved: 0.into(),
        };
        let to = Destination { hop_limit: Some(hop_limit), ..Peer::Host(request.to).into() };
        out.send(to, ProbeHeader::LEN + usize::from(request.payload), |packet| {
            packet.fill(0);
            // There is room for the header.
            let _ = header.emit(packet);
        })
    }
}

impl Protocol for Probe {
    fn on_frame(
        &mut self,
        now: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused> {
        let (header, payload) = ProbeHeader::parse(frame.payload)?;
        match (header.version, header.kind) {
            (VERSION, REQUEST) => Self::answer(header, payload, frame, out),
            (VERSION, REPLY) => {
                self.on_reply(now, header, frame)?;
                out.notify();
                Ok(())
            }
            _ => Err(Refused),
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Outbox<'_>) {
        let before = self.results.len();
        while let Some(first) = self.sent.front()
            && first.at + self.config.timeout <= now
            && let Some(Sent { sequence, to, .. }) = self.sent.pop_front()
        {
            self.results.push_back(ProbeResult { sequence, to, outcome: Outcome::TimedOut });
        }
        while let Some(numbered) = self.waiting.front() {
            let (sequence, to) = (numbered.sequence, numbered.request.to);
            match self.send(now, numbered, out) {
                Ok(()) => self.sent.push_back(Sent { sequence, to, at: now }),
                Err(SendError::Full) => break,
                Err(error) => {
                    let outcome = Outcome::NotSent(error);
                    self.results.push_back(ProbeResult { sequence, to, outcome });
                }
            }
            self.waiting.pop_front();
        }
        if self.results.len() > before {
            out.notify();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.sent.front().map(|first| first.at + self.config.timeout)
    }

    fn on_undelivered(&mut self, now: Instant, report: &Undelivered<'_>) -> Result<(), Refused> {
        // The rest is not there in every report, and not looked at.
        let mut header = ProbeHeader::new_zeroed();
        let len = report.payload.len().min(QUOTED_LEN);
        header.as_mut_bytes()[..len].copy_from_slice(&report.payload[..len]);
        if (len, header.version, header.kind) != (QUOTED_LEN, VERSION, REQUEST)
            || header.session.get() != self.config.session
        {
            return Err(Refused);
        }
        let is_it = |sent: &Sent| {
            Peer::Host(sent.to) == report.to && sent.sequence == header.sequence.get()
        };
        let found = self.sent.iter().position(is_it).ok_or(Refused)?;
        let Sent { sequence, to, at } = self.sent.remove(found).ok_or(Refused)?;
        let outcome = Outcome::Stopped { by: report.by, why: report.why, after: now - at };
        self.results.push_back(ProbeResult { sequence, to, outcome });
        Ok(())
    }
}

/// Routers that a packet has passed; each takes one of its hop limit.
fn hops(header: &ProbeHeader, frame: &Incoming<'_>) -> u8 {
    header.hop_limit.saturating_sub(frame.hop_limit.unwrap_or(header.hop_limit))
}
