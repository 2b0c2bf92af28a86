//! Own addresses, and the way towards others: one table for all interfaces of a shard.

mod entry;
mod source;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use underpass_devices::Caps;

use self::entry::{Entry, key};

/// An address of this stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The address and the length of its network's prefix.
    pub net: IpNet,
    /// The interface it was given to, counted in the order of the builder.
    pub interface: usize,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether it may be used.
    pub state: AddressState,
}

/// Where an address or a route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Given by the program.
    Static,
    /// A link-local address, made by the stack itself (RFC 4291 appendix A).
    LinkLocal,
    /// The network of an address of ours.
    Connected,
    /// DHCP (RFC 2131).
    Dhcp,
    /// A router's advertisement (RFC 4861, RFC 4862).
    Router,
}

/// How far an address may be used (RFC 4862 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressState {
    /// Being checked for duplicates: nobody may use it yet.
    Tentative,
    /// In use.
    Preferred,
    /// Still valid, but not to be chosen for new flows.
    Deprecated,
}

/// Where packets for a network go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The network.
    pub destination: IpNet,
    /// The interface packets leave by, counted in the order of the builder.
    pub interface: usize,
    /// The neighbour they are handed to; `None`: they go to their destination itself.
    pub gateway: Option<IpAddr>,
    /// Between routes to the same network the smallest one wins, then the oldest one.
    pub metric: u32,
    /// Where it comes from.
    pub origin: Origin,
}

impl Route {
    /// A route given by the program, with metric 0.
    pub fn new(destination: IpNet, interface: usize, gateway: Option<IpAddr>) -> Self {
        Self {
            destination: destination.trunc(),
            interface,
            gateway,
            metric: 0,
            origin: Origin::Static,
        }
    }

    /// The same with a metric.
    #[must_use]
    pub fn with_metric(self, metric: u32) -> Self {
        Self { metric, ..self }
    }
}

/// The interface and the neighbour a packet is handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) interface: usize,
    pub(crate) hop: IpAddr,
}

/// The addresses and routes of a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    addresses: Vec<Address>,
    /// Routes but those of connected networks.
    others: Vec<Route>,
    /// Every route, the most specific first, made whenever something changes.
    entries: Vec<Entry>,
}

impl Routes {
    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Every route, in the order in which they are tried.
    pub(crate) fn all(&self) -> impl Iterator<Item = Route> + '_ {
        self.entries.iter().map(|entry| entry.route)
    }

    /// Adds an address, or changes the one there is.
    pub(crate) fn set_address(&mut self, address: Address) {
        match self.addresses.iter_mut().find(|a| a.net.addr() == address.net.addr()) {
            Some(known) => *known = address,
            None => self.addresses.push(address),
        }
        self.rebuild();
    }

    /// The address as it is known, tentative or not.
    pub(crate) fn address(&self, ip: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|address| address.net.addr() == ip)
    }

    /// True if there was one.
    pub(crate) fn remove_address(&mut self, ip: IpAddr) -> bool {
        let before = self.addresses.len();
        self.addresses.retain(|address| address.net.addr() != ip);
        self.rebuild();
        self.addresses.len() < before
    }

    /// Adds a route, instead of one with the same network, interface, gateway and origin.
    pub(crate) fn set_route(&mut self, route: Route) {
        match self.others.iter_mut().find(|known| known.is_same(&route)) {
            Some(known) => *known = route,
            None => self.others.push(route),
        }
        self.rebuild();
    }

    /// True if there was one.
    pub(crate) fn remove_route(&mut self, route: &Route) -> bool {
        self.retain_routes(|known| !known.is_same(route))
    }

    /// Removes the routes that `keep` refuses. True if there was one.
    pub(crate) fn retain_routes(&mut self, keep: impl FnMut(&Route) -> bool) -> bool {
        let before = self.others.len();
        self.others.retain(keep);
        self.rebuild();
        self.others.len() < before
    }

    /// Routes that are not of connected networks.
    pub(crate) fn route_count(&self) -> usize {
        self.others.len()
    }

    /// An address of ours that may be used. It is accepted on whatever interface a packet comes in
    /// (the weak host model of RFC 1122 §3.3.4.2, as Linux): a station with two links answers on
    /// both for all of itself.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.net.addr() == ip && address.is_usable())
    }

    /// The limited broadcast address, or that of a network of ours (RFC 919, RFC 922).
    pub(crate) fn is_broadcast(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(v4) = ip else {
            return false;
        };
        v4.is_broadcast() || self.entries.iter().any(|entry| entry.broadcast == Some(v4))
    }

    /// A packet from here can be answered: a unicast address of somebody else.
    pub(crate) fn is_peer(&self, ip: IpAddr) -> bool {
        !ip.is_multicast()
            && !ip.is_unspecified()
            && !ip.is_loopback()
            && !self.is_broadcast(ip)
            && !self.is_own(ip)
    }

    /// The way of a packet to `dst`: to `dst` itself on a connected network, else to the gateway of
    /// the most specific route. `None`: there is no route.
    pub(crate) fn lookup(&self, dst: IpAddr) -> Option<Way> {
        let wanted = key(dst);
        let entry = self.entries.iter().find(|entry| entry.contains(wanted))?;
        let hop = entry.route.gateway.unwrap_or(dst);
        Some(Way { interface: entry.route.interface, hop })
    }

    /// The interface of packets to a group or to everybody: that of a route towards it, a default
    /// route included, else of the first address of its IP version.
    pub(crate) fn group_interface(&self, group: IpAddr) -> Option<usize> {
        let by_address = || {
            let same = |address: &&Address| address.net.addr().is_ipv4() == group.is_ipv4();
            self.addresses.iter().find(same).map(|address| address.interface)
        };
        self.lookup(group).map(|way| way.interface).or_else(by_address)
    }

    /// True if `ip` is a neighbour on this interface.
    pub(crate) fn is_on_link(&self, interface: usize, ip: IpAddr) -> bool {
        let wanted = key(ip);
        self.entries.iter().any(|entry| {
            let Route { interface: of_entry, gateway, .. } = entry.route;
            of_entry == interface && gateway.is_none() && entry.contains(wanted)
        })
    }

    fn rebuild(&mut self) {
        let connected = self.addresses.iter().filter(|a| a.is_usable()).map(Entry::connected);
        self.entries = connected.chain(self.others.iter().map(Entry::new)).collect();
        self.entries.sort_by_key(Entry::rank);
    }
}

impl Address {
    pub(crate) fn new(net: IpNet, interface: usize, origin: Origin) -> Self {
        Self { net, interface, origin, state: AddressState::Preferred }
    }

    /// Packets to it are taken, and it may be a source.
    pub fn is_usable(&self) -> bool {
        self.state != AddressState::Tentative
    }
}

impl Route {
    fn is_same(&self, other: &Self) -> bool {
        self.destination == other.destination
            && self.interface == other.interface
            && self.gateway == other.gateway
            && self.origin == other.origin
    }
}

/// The link-local address of an interface identifier made from the MAC (RFC 4291 appendix A). Where
/// the kernel makes the same of the same MAC, ours differs in the middle, and is marked as local.
pub(crate) fn link_local(caps: &Caps) -> Ipv6Addr {
    let [a, b, c, d, e, f] = caps.mac.0;
    let (a, middle) = if caps.shares_mac { (a & !2, *b"up") } else { (a ^ 2, [0xff, 0xfe]) };
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, middle[0], middle[1], d, e, f])
}

pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
