//! Everything below the transport protocols: interfaces, addresses, routes, and the counters of what
//! is lost on the way.

mod changes;
mod selection;
mod shared_routes;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use underpass_devices::{Caps, Instant, Selector};

use self::selection::Selections;
use self::shared_routes::SharedRoutes;
use crate::config::Limits;
use crate::dhcp::{self, Lease};
use crate::fragment::FragmentIds;
use crate::link::Link;
use crate::path_mtu::PathMtus;
use crate::random::Random;
use crate::routes::{Routes, Way, is_link_local};
use crate::slaac;
use crate::stats::{DropReason, Stats};
use crate::tcp::HashKey;
use crate::wake::Waiters;

pub use changes::AddressError;
pub(crate) use changes::check_address;
pub(crate) use shared_routes::share_routes;

/// Interfaces of one stack; a shard lists their queues on its own stack, without an allocation.
pub(crate) const MAX_INTERFACES: usize = 8;

/// Smallest MTU IPv6 works over (RFC 8200 §5); also enough for every header we write.
pub(crate) const MIN_MTU: usize = 1280;

/// The network as one shard sees it.
pub(crate) struct Network {
    /// One per interface, in the order of the builder. Never empty.
    pub(crate) links: Vec<Link>,
    pub(crate) routes: Routes,
    pub(crate) stats: Stats,
    pub(crate) fragment_ids: FragmentIds,
    pub(crate) path_mtus: PathMtus,
    /// Addresses or routes are not what they were when the watchers were last woken.
    changed: bool,
    /// Counts changes of addresses and routes.
    pub(crate) version: u64,
    /// The MTU of an interface is not what it was.
    pub(crate) mtu_changed: bool,
    /// Whoever waits for an address.
    pub(crate) watchers: Waiters,
    /// What custom protocols are attached to.
    pub(crate) attached: Vec<Selector>,
    selections: Selections,
    /// If there are several shards.
    shared_routes: Option<SharedRoutes>,
}

impl Network {
    /// One interface per element of `caps`.
    pub(crate) fn new(
        caps: Vec<Caps>,
        routes: Routes,
        limits: &Limits,
        random: &mut Random,
    ) -> Self {
        Self {
            selections: Selections::new(caps.len()),
            links: caps.into_iter().map(|caps| Link::new(caps, limits.neighbors, random)).collect(),
            routes,
            stats: Stats::default(),
            fragment_ids: FragmentIds::new(random.bytes()),
            path_mtus: PathMtus::new(limits.path_mtus, HashKey(random.bytes())),
            changed: false,
            version: 1,
            mtu_changed: false,
            watchers: Waiters::default(),
            attached: Vec::new(),
            shared_routes: None,
        }
    }

    /// Tells the other shards and wakes whoever waits for an address, if there is news.
    pub(crate) fn wake_watchers(&mut self, wakes: &mut Vec<Waker>) {
        if std::mem::take(&mut self.changed) {
            self.publish();
            self.watchers.wake(wakes);
        }
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.stats.drops.count(reason);
    }

    /// The counters, those of the neighbour tables and devices included.
    pub(crate) fn report(&self) -> Stats {
        let mut stats = self.stats.clone();
        for link in &self.links {
            link.report(&mut stats);
        }
        stats.path_mtus = self.path_mtus.len();
        stats
    }

    /// DNS servers that the network names, those of the first interface first.
    pub(crate) fn dns_servers(&self) -> Vec<IpAddr> {
        let mut servers = Vec::new();
        for link in &self.links {
            let lease = link.dhcp.as_ref().and_then(|client| client.lease());
            servers.extend(lease.iter().flat_map(|lease| &lease.dns_servers));
            servers.extend(link.slaac.iter().flat_map(slaac::Host::dns_servers));
        }
        servers
    }

    /// Domains that the network names, to complete short names with.
    pub(crate) fn search_domains(&self) -> Vec<String> {
        self.leases().filter_map(|lease| lease.domain.clone()).collect()
    }

    /// Nothing waits for a neighbour, or for a message to be sent and heard.
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        self.links.iter().all(|link| {
            let leaving = link.dhcp.as_ref().is_some_and(dhcp::Client::is_leaving);
            link.neighbors.nobody_waits() && !link.is_due(now) && !leaving
        })
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.links.iter().filter_map(|link| link.dhcp.as_ref()?.lease())
    }

    /// The way of a packet to a single station. A link-local address does not say which link it is
    /// on: it is the one where that neighbour is known, else the first.
    pub(crate) fn way(&self, dst: IpAddr) -> Option<Way> {
        if is_link_local(dst) {
            let known = self.links.iter().position(|link| link.neighbors.contains(dst));
            let interface = known.or_else(|| self.routes.lookup(dst).map(|way| way.interface));
            return Some(Way { interface: interface.unwrap_or(0), hop: dst });
        }
        self.routes.lookup(dst)
    }

    /// The interface that packets to `dst` leave by, whether it is a station or a group.
    pub(crate) fn interface_to(&self, dst: IpAddr) -> Option<usize> {
        if dst.is_multicast() || self.routes.is_broadcast(dst) {
            return self.group_interface(dst);
        }
        self.way(dst).map(|way| way.interface)
    }

    /// Longest IP packet that reaches `dst` in one piece, as far as is known.
    pub(crate) fn path_mtu(&self, now: Instant, dst: IpAddr) -> usize {
        let link = self.interface_to(dst).and_then(|interface| self.links.get(interface));
        let link_mtu = link.map_or(usize::MAX, |link| link.mtu.get());
        self.path_mtus.get(now, dst).min(link_mtu)
    }

    /// An address sockets may bind to: one of ours, or the unspecified one.
    pub(crate) fn check_local(&self, address: SocketAddr) -> io::Result<()> {
        if address.ip().is_unspecified() || self.routes.is_own(address.ip()) {
            return Ok(());
        }
        let own: Vec<String> =
            self.routes.addresses().iter().map(|own| own.net.addr().to_string()).collect();
        let own = if own.is_empty() { "none yet".to_owned() } else { own.join(", ") };
        Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("{} is not an address of this stack (it has {own})", address.ip()),
        ))
    }

    /// The interface that packets to a station or a group leave by, and their source address.
    pub(crate) fn egress(&self, dst: IpAddr) -> Option<(usize, IpAddr)> {
        if dst.is_multicast() || self.routes.is_broadcast(dst) {
            let interface = self.group_interface(dst)?;
            return Some((interface, self.routes.source_on(interface, dst, dst)?));
        }
        let way = self.way(dst).filter(|_| self.routes.is_peer(dst))?;
        Some((way.interface, self.routes.source_on(way.interface, dst, way.hop)?))
    }

    /// The interface and the address to talk to the station `remote` from.
    pub(crate) fn source_for(&self, remote: IpAddr) -> io::Result<(usize, IpAddr)> {
        if !self.routes.is_peer(remote) {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{remote} is not the address of another station"),
            ));
        }
        let unreachable = |why: &str| {
            let why = format!("no route to {remote}: {why}");
            Err(io::Error::new(io::ErrorKind::NetworkUnreachable, why))
        };
        let Some(way) = self.way(remote) else {
            return unreachable("it is on no connected network and there is no gateway");
        };
        match self.routes.source_on(way.interface, remote, way.hop) {
            Some(source) => Ok((way.interface, source)),
            None => unreachable("the stack has no address of that IP version and scope"),
        }
    }
}
