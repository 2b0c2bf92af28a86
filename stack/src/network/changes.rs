//! Addresses and routes that come and go while the stack runs.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Network;
use crate::link::LinkMtu;
use crate::routes::{Address, Origin, Route, is_link_local};

/// Addresses of one shard.
const MAX_ADDRESSES: usize = 64;
/// Routes of one shard; a look-up may try each of them.
const MAX_ROUTES: usize = 256;

/// Why an address or route was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Multicast, unspecified, loopback, or the broadcast address of its own network.
    #[error("{0} is not an address a station can have")]
    BadAddress(IpNet),
    /// The stack has it already.
    #[error("{0} is an address of this stack already")]
    Duplicate(IpAddr),
    /// There is no such address or route.
    #[error("the stack has no such address or route")]
    NotThere,
    /// There is no such interface.
    #[error("there is no interface {0}: interfaces are counted from 0 in the order of the builder")]
    NoInterface(usize),
    /// No connected network of the interface holds the gateway.
    #[error("the gateway {0} is on no network of its interface, so it cannot be reached")]
    GatewayNotOnLink(IpAddr),
    /// Destination and gateway are of different IP versions.
    #[error("{0} and its gateway are of different IP versions")]
    MixedVersions(IpNet),
    /// There are too many.
    #[error("the limit of {MAX_ADDRESSES} addresses or {MAX_ROUTES} routes is reached")]
    Full,
}

impl Network {
    /// Gives the interface an address that nobody else has, to be used at once.
    pub(crate) fn add_address(&mut self, interface: usize, net: IpNet) -> Result<(), AddressError> {
        self.check_interface(interface)?;
        check_address(net)?;
        if self.routes.address(net.addr()).is_some() {
            return Err(AddressError::Duplicate(net.addr()));
        }
        self.set_address(Address::new(net, interface, Origin::Static))
    }

    /// Adds an address or changes it, as whoever it comes from says.
    pub(crate) fn set_address(&mut self, address: Address) -> Result<(), AddressError> {
        let known = self.routes.address(address.net.addr()).is_some();
        if !known && self.routes.addresses().len() >= MAX_ADDRESSES {
            return Err(AddressError::Full);
        }
        self.routes.set_address(address);
        self.note_change();
        Ok(())
    }

    pub(crate) fn remove_address(&mut self, ip: IpAddr) -> Result<(), AddressError> {
        self.note_change();
        if self.routes.remove_address(ip) { Ok(()) } else { Err(AddressError::NotThere) }
    }

    /// Adds a route of the program's, whose gateway must be a neighbour.
    pub(crate) fn add_route(&mut self, route: Route) -> Result<(), AddressError> {
        self.check_interface(route.interface)?;
        if let Some(gateway) = route.gateway {
            if gateway.is_ipv4() != route.destination.addr().is_ipv4() {
                return Err(AddressError::MixedVersions(route.destination));
            }
            if !is_link_local(gateway) && !self.routes.is_on_link(route.interface, gateway) {
                return Err(AddressError::GatewayNotOnLink(gateway));
            }
        }
        self.set_route(route)
    }

    /// Adds a route as whoever it comes from says.
    pub(crate) fn set_route(&mut self, route: Route) -> Result<(), AddressError> {
        if self.routes.route_count() >= MAX_ROUTES {
            return Err(AddressError::Full);
        }
        self.routes.set_route(route);
        self.note_change();
        Ok(())
    }

    pub(crate) fn remove_route(&mut self, route: &Route) -> Result<(), AddressError> {
        self.note_change();
        if self.routes.remove_route(route) { Ok(()) } else { Err(AddressError::NotThere) }
    }

    /// Sets what DHCP and routers say of an interface's MTU.
    pub(crate) fn set_mtu(&mut self, interface: usize, set: impl FnOnce(&mut LinkMtu)) {
        set(&mut self.links[interface].mtu);
        self.mtu_changed = true;
        self.note_change();
    }

    fn note_change(&mut self) {
        self.changed = true;
        self.version += 1;
        self.select_anew();
    }

    fn check_interface(&self, interface: usize) -> Result<(), AddressError> {
        if interface < self.links.len() {
            Ok(())
        } else {
            Err(AddressError::NoInterface(interface))
        }
    }
}

/// An address that a station can have.
pub(crate) fn check_address(net: IpNet) -> Result<(), AddressError> {
    let ip = net.addr();
    let broadcast = ip.is_ipv4() && net.prefix_len() < 31 && ip == net.broadcast();
    if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || broadcast {
        return Err(AddressError::BadAddress(net));
    }
    Ok(())
}
