//! What a host decides, done on its interface.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use underpass_devices::{MacAddr, TxQueue};

use super::advertisement::is_advertisement;
use super::{Action, Advertisement};
use crate::link::{ETHERTYPE_IPV6, Out};
use crate::ndp;
use crate::neighbor::Source;
use crate::routes::{Address, AddressState, Origin, Route, is_link_local};
use crate::stats::DropReason;

impl<T: TxQueue> Out<'_, T> {
    /// Does what the hosts have due.
    pub(crate) fn poll_slaac(&mut self) {
        for interface in 0..self.net.links.len() {
            let Some(mut host) = self.net.links[interface].slaac.take() else {
                continue;
            };
            while let Some(action) = host.poll(self.now) {
                self.slaac_action(interface, action);
            }
            self.net.links[interface].slaac = Some(host);
        }
    }

    /// A neighbour discovery message on an interface that configures itself. True: nobody else is to
    /// see it.
    pub(crate) fn on_slaac(&mut self, interface: usize, packet: &[u8], link_src: MacAddr) -> bool {
        let link = &mut self.net.links[interface];
        let Some(host) = &mut link.slaac else {
            return false;
        };
        if is_advertisement(packet) {
            match Advertisement::parse(packet) {
                Some(message) => host.on_advertisement(self.now, &message),
                None => self.net.drop(DropReason::MalformedNdp),
            }
            return true;
        }
        if let Some(target) = ndp::claimed(packet).filter(|ip| host.is_tentative(*ip)) {
            // Some links bring our own question back.
            if link_src != link.caps.mac {
                host.on_duplicate(target);
                self.net.stats.address_conflicts += 1;
                tracing::warn!("{target} is in use by {link_src}: this stack does without it");
            }
            return true;
        }
        false
    }

    fn slaac_action(&mut self, interface: usize, action: Action) {
        let mac = self.net.links[interface].caps.mac;
        let route = |net: Ipv6Net, gateway: Option<Ipv6Addr>| Route {
            origin: Origin::Router,
            ..Route::new(net.into(), interface, gateway.map(IpAddr::V6))
        };
        let everything = Ipv6Net::default();
        let result = match action {
            Action::Probe(ip) => {
                let (dst, packet) = ndp::probe(ip);
                self.ethernet(interface, dst, ETHERTYPE_IPV6, &packet);
                Ok(())
            }
            Action::SolicitRouters => {
                let routers = IpAddr::V6(ndp::all_routers());
                let source = self.net.routes.source_on(interface, routers, routers);
                let source = match source {
                    Some(IpAddr::V6(ip)) => ip,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                let (dst, packet) = ndp::solicit_routers(mac, source);
                self.ethernet(interface, dst, ETHERTYPE_IPV6, &packet);
                Ok(())
            }
            Action::SetAddress(ip, state) => self.net.set_address(own(interface, ip, state)),
            // The program may have removed it.
            Action::RemoveAddress(ip) => self.net.remove_address(ip.into()).or(Ok(())),
            Action::SetRouter(router, metric) => {
                self.net.set_route(route(everything, Some(router)).with_metric(metric))
            }
            Action::RemoveRouter(router) => {
                self.net.remove_route(&route(everything, Some(router))).or(Ok(()))
            }
            Action::SetOnLink(net) => self.net.set_route(route(net, None)),
            Action::RemoveOnLink(net) => self.net.remove_route(&route(net, None)).or(Ok(())),
            Action::SetMtu(mtu) => {
                self.net.set_mtu(interface, |named| named.router = Some(mtu));
                Ok(())
            }
            Action::Learn(router, mac) => {
                self.learn(interface, router.into(), mac, Source::Request);
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::warn!("router advertisement on interface {interface}: {error}");
        }
    }
}

/// An address that is on no network by itself: prefixes say so of their own (RFC 5942 §4).
fn own(interface: usize, ip: Ipv6Addr, state: AddressState) -> Address {
    let link_local = is_link_local(ip.into());
    let (prefix_len, origin) =
        if link_local { (64, Origin::LinkLocal) } else { (128, Origin::Router) };
    let net = IpNet::V6(Ipv6Net::new_assert(ip, prefix_len));
    Address { state, ..Address::new(net, interface, origin) }
}
