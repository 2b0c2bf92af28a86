//! What the client decides, done on its interface.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use underpass_devices::{Instant, MacAddr, TxQueue};

use super::{Action, Client, Lease};
use crate::arp;
use crate::link::{ETHERTYPE_ARP, ETHERTYPE_IPV4, Out};
use crate::network::Network;
use crate::output::{Outgoing, Output};
use crate::packet::UdpDatagram;
use crate::routes::{Address, Origin, Route};
use crate::stats::DropReason;
use crate::udp;

pub(crate) const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

impl<T: TxQueue> Out<'_, T> {
    /// Does what the clients have due.
    pub(crate) fn poll_dhcp(&mut self) {
        for interface in 0..self.net.links.len() {
            let Some(mut client) = self.net.links[interface].dhcp.take() else {
                continue;
            };
            if client.next_timer().is_some_and(|at| at <= self.now) {
                self.net.select_anew();
            }
            while let Some(action) = client.poll(self.now) {
                self.dhcp_action(interface, action);
            }
            self.net.links[interface].dhcp = Some(client);
        }
    }

    /// A datagram to the client's port on an interface that has a client. It may be for an address
    /// that is not ours yet.
    pub(crate) fn on_dhcp(
        &mut self,
        interface: usize,
        datagram: &UdpDatagram<'_>,
    ) -> Result<(), DropReason> {
        let client = self.net.links[interface].dhcp.as_mut();
        let client = client.filter(|_| datagram.src_port == SERVER_PORT);
        client.ok_or(DropReason::DhcpIgnored)?.on_message(self.now, datagram.data)
    }

    fn dhcp_action(&mut self, interface: usize, action: Action) {
        let mac = self.net.links[interface].caps.mac;
        match action {
            Action::Send { message, from, to } => self.send_dhcp(interface, &message, from, to),
            Action::Probe(address) => {
                let probe = arp::request(mac, Ipv4Addr::UNSPECIFIED, address, None);
                self.ethernet(interface, probe.dst, ETHERTYPE_ARP, &probe.payload);
            }
            Action::Announce(address) => {
                let announcement = arp::request(mac, address, address, None);
                self.ethernet(interface, announcement.dst, ETHERTYPE_ARP, &announcement.payload);
            }
            Action::Bind(lease) => bind(self.net, interface, &lease),
            Action::Unbind(lease) => unbind(self.net, interface, &lease),
        }
    }

    fn send_dhcp(&mut self, interface: usize, message: &[u8], from: Ipv4Addr, to: Ipv4Addr) {
        let from = SocketAddr::new(from.into(), CLIENT_PORT);
        let to = SocketAddr::new(to.into(), SERVER_PORT);
        let packet = udp::to_packet(from, to, message);
        if to.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return self.ethernet(interface, MacAddr::BROADCAST, ETHERTYPE_IPV4, &packet);
        }
        let outgoing = Outgoing {
            dst: to.ip(),
            len: packet.len(),
            checksum: None,
            segment: None,
            dont_fragment: false,
        };
        self.packet(outgoing, |slot| slot.copy_from_slice(&packet));
    }
}

impl Network {
    /// Gives every leased address back.
    pub(crate) fn release_leases(&mut self, now: Instant) {
        for client in self.links.iter_mut().filter_map(|link| link.dhcp.as_mut()) {
            client.release(now);
        }
        self.select_anew();
    }
}

fn bind(net: &mut Network, interface: usize, lease: &Lease) {
    let address = Address::new(lease.net.into(), interface, Origin::Dhcp);
    let mut result = net.set_address(address);
    // What the lease before had and this one has not goes.
    let wanted = routes(interface, lease);
    net.routes.retain_routes(|route| !is_ours(route, interface) || wanted.contains(route));
    for route in wanted {
        result = result.and(net.set_route(route));
    }
    net.set_mtu(interface, |mtu| mtu.dhcp = lease.mtu);
    match result {
        Ok(()) => {
            tracing::info!("DHCP: {} on interface {interface} from {}", lease.net, lease.server);
        }
        Err(error) => tracing::warn!("DHCP: {} on interface {interface}: {error}", lease.net),
    }
}

fn unbind(net: &mut Network, interface: usize, lease: &Lease) {
    // It may be gone already, by the program's hand.
    let _ = net.remove_address(lease.net.addr().into());
    net.routes.retain_routes(|route| !is_ours(route, interface));
    net.set_mtu(interface, |mtu| mtu.dhcp = None);
    tracing::info!("DHCP: {} on interface {interface} is gone", lease.net);
}

fn is_ours(route: &Route, interface: usize) -> bool {
    route.origin == Origin::Dhcp && route.interface == interface
}

fn routes(interface: usize, lease: &Lease) -> Vec<Route> {
    let route = |(net, gateway): &(ipnet::Ipv4Net, Ipv4Addr)| {
        let gateway = (!gateway.is_unspecified()).then_some(IpAddr::V4(*gateway));
        Route { origin: Origin::Dhcp, ..Route::new(IpNet::V4(*net), interface, gateway) }
    };
    lease.routes.iter().map(route).collect()
}

/// Whether an ARP packet says that somebody has, or wants, the address that is being probed.
pub(crate) fn claims(client: &Client, payload: &[u8], our_mac: MacAddr) -> Option<Ipv4Addr> {
    let address = client.probing()?;
    arp::claims(payload, our_mac, address).then_some(address)
}
