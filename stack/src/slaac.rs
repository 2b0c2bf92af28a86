//! Stateless address autoconfiguration of IPv6 (RFC 4862) and router discovery (RFC 4861 §6.3), with
//! duplicate address detection. A state machine per interface, as [`dhcp`](crate::dhcp).
//!
//! Interface identifiers are made from the MAC (EUI-64). Those of RFC 7217 would need a secret that
//! is the same at every start, and the stack keeps nothing.

mod advertisement;
mod apply;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::Ipv6Net;
use underpass_devices::{Caps, Instant, MacAddr};

use crate::random::Random;
use crate::routes::{AddressState, link_local};

pub(crate) use self::advertisement::{Advertisement, Prefix};

/// Lists that routers fill.
const MAX_ROUTERS: usize = 8;
const MAX_PREFIXES: usize = 16;
const MAX_SERVERS: usize = 8;
/// Stations that start together do not all speak at once. RFC 4861 §10 takes a second, for links of
/// its time.
const MAX_DELAY_MILLIS: u64 = 100;
/// From a question to the end of the wait for an answer (RetransTimer of RFC 4861 §10).
const PROBE_TIME: Duration = Duration::from_secs(1);
/// Waits between router solicitations (RFC 7559 §2).
const FIRST_SOLICIT_WAIT: Duration = Duration::from_secs(4);
const LONGEST_SOLICIT_WAIT: Duration = Duration::from_secs(3600);
/// An advertisement that nobody has signed does not shorten a lifetime below this (RFC 4862 §5.5.3 e).
const MIN_VALID: Duration = Duration::from_secs(2 * 60 * 60);

/// What is to be done. Ask [`Host::poll`] until there is nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask whether somebody has this address.
    Probe(Ipv6Addr),
    SolicitRouters,
    /// Add this address, or change what it may be used for.
    SetAddress(Ipv6Addr, AddressState),
    RemoveAddress(Ipv6Addr),
    /// Packets for everywhere may go to this router; the smaller metric is preferred.
    SetRouter(Ipv6Addr, u32),
    RemoveRouter(Ipv6Addr),
    /// These are neighbours.
    SetOnLink(Ipv6Net),
    RemoveOnLink(Ipv6Net),
    SetMtu(usize),
    /// This router has this MAC address.
    Learn(Ipv6Addr, MacAddr),
}

/// See the [module](self).
pub(crate) struct Host {
    link_local: Ipv6Addr,
    random: Random,
    queue: VecDeque<Action>,
    /// Addresses, our link-local one first.
    addresses: Vec<Own>,
    routers: Vec<(Ipv6Addr, Instant)>,
    on_link: Vec<(Ipv6Net, Instant)>,
    servers: Vec<(IpAddr, Instant)>,
    /// When routers are asked next, and how long it is to the time after that.
    solicit: Option<(Instant, Duration)>,
    started: bool,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    ip: Ipv6Addr,
    check: Check,
    preferred_until: Instant,
    valid_until: Instant,
    deprecated: bool,
}

/// How far duplicate address detection is (RFC 4862 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Ask(Instant),
    Wait(Instant),
    Done,
}

impl Host {
    /// Begins at the first poll.
    pub(crate) fn new(caps: &Caps, random: Random) -> Self {
        Self {
            link_local: link_local(caps),
            random,
            queue: VecDeque::new(),
            addresses: Vec::new(),
            routers: Vec::new(),
            on_link: Vec::new(),
            servers: Vec::new(),
            solicit: None,
            started: false,
        }
    }

    /// DNS servers that routers name (RFC 8106).
    pub(crate) fn dns_servers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.servers.iter().map(|(ip, _)| *ip)
    }

    /// True if the address is being checked for duplicates.
    pub(crate) fn is_tentative(&self, ip: Ipv6Addr) -> bool {
        self.addresses.iter().any(|own| own.ip == ip && own.check != Check::Done)
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        if !self.started || !self.queue.is_empty() {
            return Some(Instant::ZERO);
        }
        let addresses = self.addresses.iter().map(|own| match own.check {
            Check::Ask(at) | Check::Wait(at) => at,
            Check::Done if own.deprecated => own.valid_until,
            Check::Done => own.preferred_until.min(own.valid_until),
        });
        addresses
            .chain(self.routers.iter().map(|(_, until)| *until))
            .chain(self.on_link.iter().map(|(_, until)| *until))
            .chain(self.servers.iter().map(|(_, until)| *until))
            .chain(self.solicit.map(|(at, _)| at))
            .min()
            .filter(|at| *at < Instant::MAX)
    }

    /// What is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        if !self.started {
            self.started = true;
            self.add_address(now, self.link_local, Instant::MAX, Instant::MAX);
            self.solicit = Some((now + self.delay(), FIRST_SOLICIT_WAIT));
        }
        if self.queue.is_empty() {
            self.check_addresses(now);
            self.expire(now);
            self.solicit_routers(now);
        }
        self.queue.pop_front()
    }

    /// Another station has the tentative address `ip`, or is about to take it (RFC 4862 §5.4.5).
    pub(crate) fn on_duplicate(&mut self, ip: Ipv6Addr) {
        self.addresses.retain(|own| own.ip != ip);
        self.queue.push_back(Action::RemoveAddress(ip));
    }

    /// A router's advertisement (RFC 4861 §6.3.4, RFC 4862 §5.5.3).
    pub(crate) fn on_advertisement(&mut self, now: Instant, message: &Advertisement) {
        if let Some(mac) = message.mac {
            self.queue.push_back(Action::Learn(message.router, mac));
        }
        self.on_router(now, message);
        if let Some(mtu) = message.mtu {
            self.queue.push_back(Action::SetMtu(mtu));
        }
        for prefix in &message.prefixes {
            let until = after(now, prefix.valid);
            if prefix.on_link && keep(&mut self.on_link, prefix.net, now, until, MAX_PREFIXES) {
                self.queue.push_back(Action::SetOnLink(prefix.net));
            }
            if prefix.autonomous {
                self.on_prefix(now, prefix);
            }
        }
        for (server, lifetime) in &message.dns_servers {
            keep(&mut self.servers, *server, now, after(now, *lifetime), MAX_SERVERS);
        }
    }

    fn on_router(&mut self, now: Instant, message: &Advertisement) {
        let until = now + message.router_lifetime;
        if keep(&mut self.routers, message.router, now, until, MAX_ROUTERS) {
            self.solicit = None;
            self.queue.push_back(Action::SetRouter(message.router, message.metric));
        }
    }

    fn on_prefix(&mut self, now: Instant, prefix: &Prefix) {
        // The interface identifier has 64 bits (RFC 2464 §4).
        if prefix.net.prefix_len() != 64 || prefix.preferred > prefix.valid {
            return;
        }
        let high = prefix.net.network().to_bits();
        let ip = Ipv6Addr::from_bits(high | self.link_local.to_bits() & u128::from(u64::MAX));
        let (preferred, valid) = (after(now, prefix.preferred), after(now, prefix.valid));
        let Some(own) = self.addresses.iter_mut().find(|own| own.ip == ip) else {
            if valid > now && self.addresses.len() <= MAX_PREFIXES {
                self.add_address(now, ip, preferred, valid);
            }
            return;
        };
        own.preferred_until = preferred;
        let left = own.valid_until - now;
        if valid - now > MIN_VALID || valid > own.valid_until {
            own.valid_until = valid;
        } else if left > MIN_VALID {
            own.valid_until = now + MIN_VALID;
        }
        if own.deprecated && preferred > now {
            own.deprecated = false;
            if own.check == Check::Done {
                self.queue.push_back(Action::SetAddress(ip, AddressState::Preferred));
            }
        }
    }

    fn add_address(&mut self, now: Instant, ip: Ipv6Addr, preferred: Instant, valid: Instant) {
        let check = Check::Ask(now + self.delay());
        self.addresses.push(Own {
            ip,
            check,
            preferred_until: preferred,
            valid_until: valid,
            deprecated: false,
        });
        self.queue.push_back(Action::SetAddress(ip, AddressState::Tentative));
    }

    fn check_addresses(&mut self, now: Instant) {
        for own in &mut self.addresses {
            match own.check {
                Check::Ask(at) if at <= now => {
                    own.check = Check::Wait(now + PROBE_TIME);
                    self.queue.push_back(Action::Probe(own.ip));
                }
                Check::Wait(at) if at <= now => {
                    own.check = Check::Done;
                    self.queue.push_back(Action::SetAddress(own.ip, AddressState::Preferred));
                }
                Check::Done if own.preferred_until <= now && !own.deprecated => {
                    own.deprecated = true;
                    self.queue.push_back(Action::SetAddress(own.ip, AddressState::Deprecated));
                }
                _ => {}
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let queue = &mut self.queue;
        for own in self.addresses.extract_if(.., |own| own.valid_until <= now) {
            queue.push_back(Action::RemoveAddress(own.ip));
        }
        for (router, _) in self.routers.extract_if(.., |(_, until)| *until <= now) {
            queue.push_back(Action::RemoveRouter(router));
        }
        for (prefix, _) in self.on_link.extract_if(.., |(_, until)| *until <= now) {
            queue.push_back(Action::RemoveOnLink(prefix));
        }
        self.servers.retain(|(_, until)| *until > now);
    }

    fn solicit_routers(&mut self, now: Instant) {
        if let Some((_, wait)) = self.solicit.filter(|(at, _)| *at <= now) {
            let next = (wait * 2).min(LONGEST_SOLICIT_WAIT);
            self.solicit = Some((now + wait + self.delay(), next));
            self.queue.push_back(Action::SolicitRouters);
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(self.random.u64() % MAX_DELAY_MILLIS)
    }
}

/// The end of a lifetime in seconds, whose largest value has none.
fn after(now: Instant, seconds: u32) -> Instant {
    match seconds {
        u32::MAX => Instant::MAX,
        seconds => now + Duration::from_secs(seconds.into()),
    }
}

/// Keeps `item` until a time, if there is room for it. True: it is in the list and not over.
fn keep<T: PartialEq>(
    list: &mut Vec<(T, Instant)>,
    item: T,
    now: Instant,
    until: Instant,
    limit: usize,
) -> bool {
    if let Some((_, known)) = list.iter_mut().find(|(known, _)| *known == item) {
        *known = until;
    } else if until > now && list.len() < limit {
        list.push((item, until));
    } else {
        return false;
    }
    until > now
}
