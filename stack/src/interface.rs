use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use underpass_devices::{Caps, Medium};

use crate::network::{MIN_MTU, check_address};
use crate::routes::{Address, Origin, Route, Routes, is_link_local, link_local};
use crate::stack::BuildError;

/// A device and what the stack is called on its link, for
/// [`Builder::build_all`](crate::Builder::build_all).
///
/// A device that shares its interface with the kernel is told which frames the stack wants
/// ([`Device::select`](underpass_devices::Device::select)): those to its addresses and to groups that
/// sockets have joined, and what DHCP and SLAAC need. Broadcasts stay with the kernel, which cannot do
/// without them: sockets hear none through such a device.
#[derive(Clone, Debug)]
pub struct Interface<D> {
    pub(crate) queues: Vec<D>,
    pub(crate) config: Config,
}

/// What the stack is called on one link, and where that link leads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) gateways: Vec<IpAddr>,
    /// Network, gateway and metric.
    pub(crate) routes: Vec<(IpNet, Option<IpAddr>, u32)>,
    pub(crate) dhcp: bool,
    pub(crate) slaac: bool,
}

impl<D> Interface<D> {
    /// An interface with one queue pair.
    pub fn new(device: D) -> Self {
        Self::with_queues([device])
    }

    /// An interface with several queue pairs of one device.
    pub fn with_queues(queues: impl IntoIterator<Item = D>) -> Self {
        Self { queues: queues.into_iter().collect(), config: Config::default() }
    }

    /// Adds an address with the length of its network's prefix. An IPv6 link-local address is made
    /// from the device's MAC as soon as there is any IPv6 address.
    #[must_use]
    pub fn address(mut self, address: IpNet) -> Self {
        self.config.addresses.push(address);
        self
    }

    /// Sets where packets for other networks go, one gateway per IP version.
    #[must_use]
    pub fn gateway(mut self, gateway: IpAddr) -> Self {
        self.config.gateways.push(gateway);
        self
    }

    /// Adds a route with a metric: to neighbours on this link, or by way of a gateway on it.
    #[must_use]
    pub fn route(mut self, destination: IpNet, gateway: Option<IpAddr>, metric: u32) -> Self {
        self.config.routes.push((destination, gateway, metric));
        self
    }

    /// Takes IPv6 addresses, routes, DNS servers and MTU from what routers advertise (RFC 4862).
    /// Addresses are used once it is sure that nobody else has them.
    #[must_use]
    pub fn slaac(mut self, on: bool) -> Self {
        self.config.slaac = on;
        self
    }

    /// Asks a DHCP server for an IPv4 address, routes, DNS servers and MTU (RFC 2131), and gives the
    /// address back when the stack ends.
    #[must_use]
    pub fn dhcp(mut self, on: bool) -> Self {
        self.config.dhcp = on;
        self
    }
}

impl Config {
    /// Puts `first` in front.
    pub(crate) fn extend(&mut self, first: Self) {
        self.addresses.splice(0..0, first.addresses);
        self.gateways.splice(0..0, first.gateways);
        self.routes.splice(0..0, first.routes);
        self.dhcp |= first.dhcp;
        self.slaac |= first.slaac;
    }

    /// Checks everything, and puts it into the table of all interfaces as number `interface`.
    pub(crate) fn apply(
        &self,
        interface: usize,
        caps: &Caps,
        routes: &mut Routes,
    ) -> Result<(), BuildError> {
        if caps.mtu < MIN_MTU {
            return Err(BuildError::SmallMtu(caps.mtu));
        }
        if (self.dhcp || self.slaac) && caps.medium != Medium::Ethernet {
            return Err(BuildError::NoEthernet(interface));
        }
        for net in &self.addresses {
            check_address(*net).map_err(|_| BuildError::BadAddress(*net))?;
            if routes.address(net.addr()).is_some() {
                return Err(BuildError::DuplicateAddress(net.addr()));
            }
            routes.set_address(Address::new(*net, interface, Origin::Static));
        }
        // What configures itself makes one, and checks it first.
        let v6 = !self.slaac && self.addresses.iter().any(|net| net.addr().is_ipv6());
        let own = link_local(caps);
        if caps.medium == Medium::Ethernet && v6 && routes.address(own.into()).is_none() {
            let net = Ipv6Net::new_assert(own, 64).into();
            routes.set_address(Address::new(net, interface, Origin::LinkLocal));
        }
        for route in self.static_routes(interface)? {
            check_gateway(&route, routes)?;
            routes.set_route(route);
        }
        Ok(())
    }

    fn static_routes(&self, interface: usize) -> Result<Vec<Route>, BuildError> {
        let mut routes = Vec::new();
        for (n, gateway) in self.gateways.iter().enumerate() {
            if self.gateways[..n].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                return Err(BuildError::SecondGateway(*gateway));
            }
            routes.push(Route::new(everything(*gateway), interface, Some(*gateway)));
        }
        routes.extend(self.routes.iter().map(|(destination, gateway, metric)| {
            Route::new(*destination, interface, *gateway).with_metric(*metric)
        }));
        Ok(routes)
    }
}

/// The default route's destination, in the IP version of `ip`.
pub(crate) fn everything(ip: IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

fn check_gateway(route: &Route, routes: &Routes) -> Result<(), BuildError> {
    let Some(gateway) = route.gateway else {
        return Ok(());
    };
    if gateway.is_ipv4() != route.destination.addr().is_ipv4()
        || (!is_link_local(gateway) && !routes.is_on_link(route.interface, gateway))
    {
        return Err(BuildError::GatewayNotOnLink(gateway));
    }
    Ok(())
}
