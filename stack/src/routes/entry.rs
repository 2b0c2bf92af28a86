use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Address, Origin, Route};

/// A route ready to be compared: one AND and one comparison per look-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) route: Route,
    prefix: Key,
    mask: u128,
    /// Of a connected IPv4 network.
    pub(super) broadcast: Option<Ipv4Addr>,
}

impl Entry {
    pub(super) fn new(route: &Route) -> Self {
        let host_bits = route.destination.max_prefix_len() - route.destination.prefix_len();
        let mask = u128::MAX.checked_shl(host_bits.into()).unwrap_or(0);
        Self { route: *route, prefix: key(route.destination.network()), mask, broadcast: None }
    }

    /// The network of an address of ours.
    pub(super) fn connected(address: &Address) -> Self {
        let route = Route {
            destination: address.net.trunc(),
            interface: address.interface,
            gateway: None,
            metric: 0,
            origin: Origin::Connected,
        };
        let broadcast = match address.net {
            IpNet::V4(net) if net.prefix_len() < 31 => Some(net.broadcast()),
            _ => None,
        };
        Self { broadcast, ..Self::new(&route) }
    }

    pub(super) fn contains(&self, wanted: Key) -> bool {
        wanted.is_v4 == self.prefix.is_v4 && wanted.bits & self.mask == self.prefix.bits
    }

    /// Routes in the order in which they are tried.
    pub(super) fn rank(&self) -> (Reverse<u8>, u32) {
        (Reverse(self.route.destination.prefix_len()), self.route.metric)
    }
}

/// An address as a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    is_v4: bool,
    bits: u128,
}

impl Key {
    /// Leading bits that two addresses of one version have in common.
    pub(super) fn common(self, other: Self) -> u32 {
        let version_bits = if self.is_v4 { 96 } else { 0 };
        (self.bits ^ other.bits).leading_zeros() - version_bits
    }
}

pub(super) fn key(ip: IpAddr) -> Key {
    match ip {
        IpAddr::V4(v4) => Key { is_v4: true, bits: v4.to_bits().into() },
        IpAddr::V6(v6) => Key { is_v4: false, bits: v6.to_bits() },
    }
}
