//! One session: an association of two stations in which one calls and the other serves.

use std::time::Duration;

use underpass_devices::Instant;
use zerocopy::big_endian::{U16, U32, U64};

use super::Config;
use super::calls::Calls;
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::wire::{DATA_HEADER_LEN, Header, Hello, Kind};

/// An acknowledgement that packets have been waiting for is sent by the eighth at the latest.
const UNACKNOWLEDGED: u32 = 8;
/// An echo is not told when the packet has waited longer: the clock in it wraps after 4.3 s.
const LONGEST_ECHO_NS: u64 = 1 << 31;
/// A stamp that is less than the one so long before it is one of a clock that has wrapped.
const LATE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// We have asked for it, so many times, and ask again at this time.
    Dialing {
        tries: u32,
        again: Instant,
    },
    /// We have granted it, and nothing has come yet.
    Offered,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Caller,
    Server,
}

/// What is owed to the peer: acknowledgements and credit.
#[derive(Clone, Copy, Debug)]
struct Owed {
    packets: u32,
    /// When it is due at the latest.
    at: Instant,
    now: bool,
}

const NOTHING: Owed = Owed { packets: 0, at: Instant::MAX, now: false };

#[derive(Debug)]
pub(super) struct Session<A> {
    pub(super) peer: A,
    /// The identifier that packets to us carry.
    pub(super) local: u64,
    /// The identifier that packets to the peer carry; zero before it is known.
    pub(super) remote: u64,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) calls: Calls,
    /// Longest body that the peer takes.
    pub(super) peer_message_bytes: usize,
    /// To be ended as soon as nothing is outstanding.
    pub(super) closing: bool,
    /// It is in the queue of sessions that have something to send.
    pub(super) ready: bool,
    /// A packet without part of a body to be sent.
    pub(super) control: Option<Kind>,
    /// Messages without response that have been queued.
    messages: u32,
    owed: Owed,
    /// When something was heard last, asked last, used last, and outstanding first.
    heard: Instant,
    asked: Instant,
    used: Instant,
    busy_since: Instant,
    /// The stamp of the last packet, when it came, and that it has not been echoed.
    stamp: u32,
    stamped_at: Instant,
    stamped: bool,
}

impl<A: Copy> Session<A> {
    /// [`first_cells`](super::inbox::first_cells) have been taken for it.
    pub(super) fn new(now: Instant, peer: A, local: u64, role: Role, config: &Config) -> Self {
        let limits = &config.limits;
        let (state, control) = match role {
            Role::Caller => {
                let again = now + config.rto_initial;
                (State::Dialing { tries: 1, again }, Some(Kind::Hello))
            }
            Role::Server => (State::Offered, Some(Kind::Welcome)),
        };
        Self {
            peer,
            local,
            remote: 0,
            role,
            state,
            inbox: Inbox::new(
                limits.message_bytes,
                limits.session_receive_bytes,
                limits.session_calls,
            ),
            outbox: Outbox::new(),
            calls: Calls::new(),
            peer_message_bytes: limits.message_bytes,
            closing: false,
            ready: false,
            control,
            messages: 0,
            owed: NOTHING,
            heard: now,
            asked: now,
            used: now,
            busy_since: now,
            stamp: 0,
            stamped_at: now,
            stamped: false,
        }
    }

    /// The peer's hello or welcome has come: what it offers holds from now on.
    pub(super) fn open(&mut self, now: Instant, hello: &Hello, config: &Config) {
        self.remote = hello.session.get();
        self.peer_message_bytes =
            config.limits.message_bytes.min(hello.message_bytes.get() as usize);
        let packet = config.packet_bytes.min(hello.packet_bytes.get());
        let calls = config.limits.session_calls.min(hello.calls.get());
        self.calls.open(calls);
        self.inbox.serving().open(calls);
        self.outbox.open(now, usize::from(packet) - DATA_HEADER_LEN, config);
    }

    /// What we offer.
    pub(super) fn hello(&self, config: &Config) -> Hello {
        Hello {
            session: U64::new(self.local),
            message_bytes: U32::new(config.limits.message_bytes as u32),
            packet_bytes: U16::new(config.packet_bytes),
            calls: U16::new(config.limits.session_calls),
        }
    }

    /// Something came from the peer.
    pub(super) fn heard(&mut self, now: Instant, header: &Header) {
        self.heard = self.heard.max(now);
        // A packet that was overtaken would tell the delay of that packet alone.
        let stamp = header.stamp.get();
        let is_late = (stamp.wrapping_sub(self.stamp) as i32) < 0;
        if is_late && now.since(self.stamped_at) < LATE {
            return;
        }
        self.stamp = stamp;
        self.stamped_at = now;
        self.stamped = true;
    }

    /// The application, or the peer's, does something with the session.
    pub(super) fn touch(&mut self, now: Instant) {
        self.used = self.used.max(now);
    }

    /// A body is about to be queued.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.is_outstanding() {
            self.busy_since = now;
        }
        self.touch(now);
    }

    /// What was queued last was dated `stale`, and is of `now`.
    pub(super) fn redate(&mut self, stale: Instant, now: Instant, config: &Config) {
        if self.busy_since != stale {
            return;
        }
        self.busy_since = now;
        self.touch(now);
        self.outbox.rearm(now, config);
        if let State::Dialing { again, .. } = &mut self.state {
            *again = now + config.rto_initial;
        }
    }

    /// The number of a message that is about to be queued.
    pub(super) fn next_message(&mut self) -> u32 {
        let number = self.messages;
        self.messages = number.wrapping_add(1);
        number
    }

    /// A packet wants to be acknowledged, within a while or `at_once`.
    pub(super) fn owe(&mut self, now: Instant, at_once: bool, config: &Config) {
        self.owed.packets += 1;
        self.owed.now |= at_once || self.owed.packets >= UNACKNOWLEDGED;
        self.owed.at = self.owed.at.min(now + config.ack_delay);
    }

    /// The peer has new credit, which it should know within a while.
    pub(super) fn owe_credit(&mut self, now: Instant, config: &Config) {
        self.owed.at = self.owed.at.min(now + config.ack_delay);
    }

    /// An acknowledgement is to be sent if nothing else is.
    pub(super) fn owes_now(&self) -> bool {
        self.owed.now
    }

    /// Nothing that we have sent or asked is open.
    pub(super) fn is_outstanding(&self) -> bool {
        !self.outbox.is_empty() || !self.calls.is_empty()
    }

    /// There may be something to send.
    pub(super) fn is_eager(&self) -> bool {
        self.control.is_some()
            || (self.state == State::Open && (self.owed.now || self.outbox.is_eager()))
    }

    /// The header of the next packet, with all that the peer is owed.
    pub(super) fn header(&self, now: Instant) -> Header {
        let (ack, sack) = self.inbox.received();
        let waited = now.since(self.stamped_at).as_nanos() as u64;
        let echoes = self.stamped && waited < LONGEST_ECHO_NS;
        Header {
            flags: if echoes { Header::ECHO } else { 0 },
            session: U64::new(self.remote),
            ack: U32::new(ack),
            sack: U64::new(sack),
            credit: U32::new(self.inbox.credit()),
            stamp: U32::new(now.as_nanos() as u32),
            echo: U32::new(self.stamp.wrapping_add(waited as u32)),
            ..Header::default()
        }
    }

    /// A packet with that header was sent.
    pub(super) fn told(&mut self) {
        self.owed = NOTHING;
        self.stamped = false;
    }

    /// When [`due`](Self::due) has something to say.
    pub(super) fn deadline(&self, config: &Config) -> Instant {
        match self.state {
            State::Dialing { again, .. } => again,
            State::Offered => self.heard + config.dead_after,
            State::Open => {
                let owed = if self.owed.now { Instant::MAX } else { self.owed.at };
                owed.min(self.outbox.timeout()).min(self.next_look(config))
            }
        }
    }

    /// Carries out what is due. `Err`: the session is at its end.
    pub(super) fn due(&mut self, now: Instant, config: &Config) -> Result<Due, End> {
        let silent = now.since(self.heard.max(self.busy_since)) >= config.dead_after;
        let mut due = Due::Nothing;
        match self.state {
            State::Dialing { .. } if silent => return Err(End::Silent),
            State::Offered => return Err(End::Forgotten),
            State::Dialing { tries, .. } => {
                let wait = self.outbox.rtt.timeout(config, tries);
                let again = Instant::from_nanos(now.as_nanos().saturating_add(wait));
                self.state = State::Dialing { tries: tries + 1, again };
                self.control = Some(Kind::Hello);
            }
            State::Open => {
                if self.is_outstanding() && silent {
                    return Err(End::Silent);
                }
                if self.owed.at <= now {
                    self.owed.now = true;
                }
                if self.outbox.timeout() <= now {
                    due = Due::Timeout;
                    if self.outbox.timed_out(now, config) {
                        self.control = Some(Kind::Ping);
                    }
                }
                if self.next_look(config) <= now {
                    if !self.is_outstanding() {
                        return Err(End::Idle);
                    }
                    self.asked = now;
                    self.control = Some(Kind::Ping);
                }
            }
        }
        Ok(due)
    }

    /// When to see whether the session is still of use.
    fn next_look(&self, config: &Config) -> Instant {
        if self.is_outstanding() {
            self.heard.max(self.busy_since).max(self.asked) + config.dead_after / 4
        } else {
            // The caller goes first, so that it does not call in vain.
            self.used + config.idle * if self.role == Role::Caller { 1 } else { 2 }
        }
    }
}

/// What was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Timeout,
}

/// Why a session is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer does not answer.
    Silent,
    /// It was granted and never used.
    Forgotten,
    /// It has not been used for long.
    Idle,
}
