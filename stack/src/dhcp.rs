//! The DHCP client (RFC 2131): a state machine that is told what arrives and what time it is, and
//! says what to do. One per interface.

mod apply;
mod lease;
mod message;

use std::net::Ipv4Addr;
use std::time::Duration;

use underpass_devices::{Instant, MacAddr};

use self::message::{Kind, Reply, Request};
use crate::random::Random;
use crate::stats::DropReason;

pub(crate) use self::apply::{CLIENT_PORT, claims};
pub(crate) use self::lease::Lease;

/// Nobody answers a release. A device that goes away with the program, as a TAP does, stays for this
/// long, or a server on its other end would find no interface that the message came from.
const FAREWELL: Duration = Duration::from_millis(100);
/// Repeated requests wait 4, 8, 16, 32, 64 seconds, give or take one (RFC 2131 §4.1).
const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_secs(64);
const JITTER: Duration = Duration::from_secs(1);
/// Requests for an offer before it is forgotten.
const REQUESTS: u32 = 4;
/// Between two requests that renew a lease, at least (RFC 2131 §4.4.5).
const MIN_RENEW_WAIT: Duration = Duration::from_secs(60);
/// Before a new start when the network did not want us (RFC 2131 §3.1.5 for a declined address).
const AFTER_DECLINE: Duration = Duration::from_secs(10);
const AFTER_NAK: Duration = Duration::from_secs(1);
/// Probes for other stations with our address, and the time between them. RFC 5227 §1.1 takes
/// seconds, for links of its time, and allows others: here an answer comes in milliseconds.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(150);
/// A second conflict within this time ends the use of an address (RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// The lease in a message of a server, for [`fuzzing`](crate::fuzzing).
#[cfg(feature = "fuzzing")]
pub(crate) fn lease_of(bytes: &[u8], asked_at: Instant) -> Option<Lease> {
    Lease::new(&Reply::parse(bytes)?, asked_at)
}

/// What is to be done. Ask [`Client::poll`] until there is nothing left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this message from port 68 to port 67: from the unspecified address to everybody, or from
    /// the leased one to a server.
    Send { message: Vec<u8>, from: Ipv4Addr, to: Ipv4Addr },
    /// Ask by ARP whether somebody has this address (RFC 5227 §2.1.1).
    Probe(Ipv4Addr),
    /// Tell everybody by ARP that it is ours (RFC 5227 §2.3).
    Announce(Ipv4Addr),
    /// Use it, or go on using it with these options.
    Bind(Box<Lease>),
    /// Do not use it any more.
    Unbind(Lease),
}

/// See the [module](self).
pub(crate) struct Client {
    mac: MacAddr,
    random: Random,
    state: State,
    xid: u32,
    /// When the search for an address began.
    began: Instant,
    /// When `state` has something to do.
    next: Instant,
    last_conflict: Option<Instant>,
    /// Done before anything else.
    queue: Vec<Action>,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing sent yet.
    Init,
    Selecting {
        sent: u32,
    },
    Requesting {
        offer: Ipv4Addr,
        server: Ipv4Addr,
        sent: u32,
    },
    Probing {
        lease: Box<Lease>,
        sent: u32,
    },
    Bound {
        lease: Box<Lease>,
    },
    /// Asking the server, from T1 on; everybody, from T2 on. `asked_at` is the latest request.
    Renewing {
        lease: Box<Lease>,
        asked_at: Instant,
    },
    /// The release is on its way, or was sent.
    Leaving {
        address: Ipv4Addr,
        sent: bool,
    },
    /// Released for good.
    Stopped,
}

impl Client {
    /// Begins at the first poll.
    pub(crate) fn new(mac: MacAddr, random: Random) -> Self {
        Self {
            mac,
            random,
            state: State::Init,
            xid: 0,
            began: Instant::ZERO,
            next: Instant::ZERO,
            last_conflict: None,
            queue: Vec::new(),
        }
    }

    /// The lease in use.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound { lease } | State::Renewing { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// The address that is being checked for conflicts.
    pub(crate) fn probing(&self) -> Option<Ipv4Addr> {
        match &self.state {
            State::Probing { lease, .. } => Some(lease.net.addr()),
            _ => None,
        }
    }

    /// Addresses that the stack does not have and the client has to hear ARP packets to: the one being
    /// checked, and the one that its probes are from (RFC 5227 §2.1.1); the one given back, which asks
    /// for the server's MAC address.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let addresses = match &self.state {
            State::Probing { lease, .. } => [Some(lease.net.addr()), Some(Ipv4Addr::UNSPECIFIED)],
            State::Leaving { address, .. } => [Some(*address), None],
            _ => [None, None],
        };
        addresses.into_iter().flatten()
    }

    /// Nothing is expected any more.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// Something is to be done at once.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The address was given back so lately that the server may not have heard it yet.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.state, State::Leaving { .. })
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        match self.state {
            _ if !self.queue.is_empty() => Some(Instant::ZERO),
            State::Stopped => None,
            _ => Some(self.next).filter(|at| *at < Instant::MAX),
        }
    }

    /// What is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        if !self.queue.is_empty() {
            return Some(self.queue.remove(0));
        }
        if now < self.next {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Init => {
                self.began = now;
                self.xid = self.random.u64() as u32;
                Some(self.select(now, 0))
            }
            State::Selecting { sent } => Some(self.select(now, sent)),
            State::Requesting { sent, .. } if sent >= REQUESTS => {
                self.restart(now);
                None
            }
            State::Requesting { offer, server, sent } => {
                Some(self.request_offer(now, offer, server, sent))
            }
            State::Probing { lease, sent } if sent < PROBES => {
                let address = lease.net.addr();
                self.next = now + PROBE_INTERVAL;
                self.state = State::Probing { lease, sent: sent + 1 };
                Some(Action::Probe(address))
            }
            State::Probing { lease, .. } => {
                self.queue.push(Action::Announce(lease.net.addr()));
                Some(self.bind(lease))
            }
            State::Bound { lease } => {
                self.xid = self.random.u64() as u32;
                self.began = now;
                Some(self.renew(now, lease))
            }
            State::Renewing { lease, .. } => Some(self.renew(now, lease)),
            State::Leaving { address, sent: false } => {
                self.next = now + FAREWELL;
                self.state = State::Leaving { address, sent: true };
                None
            }
            State::Leaving { sent: true, .. } | State::Stopped => None,
        }
    }

    /// A UDP datagram to the client's port.
    pub(crate) fn on_message(&mut self, now: Instant, bytes: &[u8]) -> Result<(), DropReason> {
        let reply = Reply::parse(bytes).ok_or(DropReason::MalformedDhcp)?;
        if reply.xid != self.xid || reply.mac != self.mac {
            return Err(DropReason::DhcpIgnored);
        }
        match (reply.kind, &self.state) {
            (Kind::Offer, State::Selecting { .. }) => {
                // The first offer is taken: a choice would cost everybody a wait.
                let server = reply.address(message::option::SERVER);
                let server = server.ok_or(DropReason::MalformedDhcp)?;
                self.state = State::Requesting { offer: reply.your_ip, server, sent: 0 };
                self.next = now;
            }
            (Kind::Ack, State::Requesting { offer, .. }) => {
                let lease = Lease::new(&reply, now).ok_or(DropReason::MalformedDhcp)?;
                if lease.net.addr() != *offer {
                    return Err(DropReason::DhcpIgnored);
                }
                self.state = State::Probing { lease: Box::new(lease), sent: 0 };
                self.next = now;
            }
            (Kind::Ack, State::Renewing { lease, asked_at }) => {
                let renewed = Lease::new(&reply, *asked_at).ok_or(DropReason::MalformedDhcp)?;
                if renewed.net.addr() != lease.net.addr() {
                    return Err(DropReason::DhcpIgnored);
                }
                let action = self.bind(Box::new(renewed));
                self.queue.push(action);
            }
            (Kind::Nak, State::Requesting { server, .. }) => {
                // Of the server that was asked: others do not know of the offer.
                if reply.address(message::option::SERVER) != Some(*server) {
                    return Err(DropReason::DhcpIgnored);
                }
                self.restart(now + AFTER_NAK);
            }
            (Kind::Nak, State::Renewing { .. }) => {
                self.unbind();
                self.restart(now + AFTER_NAK);
            }
            _ => return Err(DropReason::DhcpIgnored),
        }
        Ok(())
    }

    /// Another station claims `address` (RFC 5227 §2.1.1 and §2.4).
    pub(crate) fn on_conflict(&mut self, now: Instant, address: Ipv4Addr) {
        let lease = match &self.state {
            State::Probing { lease, .. } => lease,
            State::Bound { lease } | State::Renewing { lease, .. } => {
                // Once it is defended; a second time it is lost.
                let first = self.last_conflict.is_none_or(|at| now - at >= DEFEND_INTERVAL);
                if first && lease.net.addr() == address {
                    self.last_conflict = Some(now);
                    return self.queue.push(Action::Announce(address));
                }
                lease
            }
            _ => return,
        };
        if lease.net.addr() != address {
            return;
        }
        let server = lease.server;
        self.unbind();
        let decline = Request {
            requested_ip: Some(address),
            server: Some(server),
            ..self.message(now, Kind::Decline)
        };
        self.queue.push(broadcast(decline));
        self.restart(now + AFTER_DECLINE);
    }

    /// Gives the address back, and does nothing any more.
    pub(crate) fn release(&mut self, now: Instant) {
        if let Some(lease) = self.lease() {
            let (address, server) = (lease.net.addr(), lease.server);
            let release = Request {
                client_ip: address,
                server: Some(server),
                xid: self.xid.wrapping_add(1),
                ..self.message(now, Kind::Release)
            };
            let message = release.to_bytes();
            self.queue.push(Action::Send { message, from: address, to: server });
            self.unbind();
            (self.state, self.next) = (State::Leaving { address, sent: false }, now);
        } else if !self.is_leaving() {
            self.state = State::Stopped;
        }
    }

    fn select(&mut self, now: Instant, sent: u32) -> Action {
        self.next = now + self.backoff(sent);
        self.state = State::Selecting { sent: sent + 1 };
        broadcast(self.message(now, Kind::Discover))
    }

    fn request_offer(
        &mut self,
        now: Instant,
        offer: Ipv4Addr,
        server: Ipv4Addr,
        sent: u32,
    ) -> Action {
        self.next = now + self.backoff(sent);
        self.state = State::Requesting { offer, server, sent: sent + 1 };
        broadcast(Request {
            requested_ip: Some(offer),
            server: Some(server),
            ..self.message(now, Kind::Request)
        })
    }

    fn bind(&mut self, lease: Box<Lease>) -> Action {
        self.next = lease.renew_at;
        self.state = State::Bound { lease: lease.clone() };
        Action::Bind(lease)
    }

    /// Asks for more time, or gives up an address whose time is over.
    fn renew(&mut self, now: Instant, lease: Box<Lease>) -> Action {
        if now >= lease.expires_at {
            self.restart(now);
            return Action::Unbind(*lease);
        }
        let request = Request { client_ip: lease.net.addr(), ..self.message(now, Kind::Request) };
        let (deadline, to) = if now < lease.rebind_at {
            (lease.rebind_at, lease.server)
        } else {
            (lease.expires_at, Ipv4Addr::BROADCAST)
        };
        // Half of what is left, but not less than a minute, nor beyond the end.
        self.next = (now + ((deadline - now) / 2).max(MIN_RENEW_WAIT)).min(deadline);
        let from = lease.net.addr();
        self.state = State::Renewing { lease, asked_at: now };
        Action::Send { message: request.to_bytes(), from, to }
    }

    fn unbind(&mut self) {
        if let Some(lease) = self.lease().cloned() {
            self.queue.push(Action::Unbind(lease));
        }
    }

    fn restart(&mut self, at: Instant) {
        self.state = State::Init;
        self.next = at;
    }

    /// A request without any address.
    fn message(&self, now: Instant, kind: Kind) -> Request {
        Request {
            kind,
            xid: self.xid,
            secs: u16::try_from((now - self.began).as_secs()).unwrap_or(u16::MAX),
            mac: self.mac,
            client_ip: Ipv4Addr::UNSPECIFIED,
            requested_ip: None,
            server: None,
        }
    }

    fn backoff(&mut self, sent: u32) -> Duration {
        let wait = FIRST_WAIT.saturating_mul(1 << sent.min(8)).min(LONGEST_WAIT);
        wait.saturating_sub(JITTER) + Duration::from_millis(self.random.u64() % 2000)
    }
}

fn broadcast(request: Request) -> Action {
    let message = request.to_bytes();
    Action::Send { message, from: Ipv4Addr::UNSPECIFIED, to: Ipv4Addr::BROADCAST }
}
