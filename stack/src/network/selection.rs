//! What the stack wants of devices that share their interface with the kernel.
//!
//! - All packets to an address of the stack, whichever interface it is on (weak host model), tentative
//!   or not, and what asks for its MAC address.
//! - Groups that a program has joined on the interface, and the questions of routers about them, which
//!   come to all stations. The solicited-node groups are not needed: what is sent to them is selected
//!   by its target.
//! - What comes to all stations over ICMPv6, where routers give addresses.
//! - What custom protocols are attached to: EtherTypes as they are, the rest at the addresses of the
//!   stack, in case the device takes only a part of what comes to them.
//! - UDP port 68 of any address, where a DHCP server gives one, and what the client needs of ARP before
//!   and after the stack has that address.
//!
//! Broadcasts are left out: the kernel needs them (its own DHCP and ARP do), and a frame goes to one of
//! both only. So sockets hear no broadcasts through such a device. What comes to all stations is as
//! needful to the kernel, so it is asked for only by those who cannot do without.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use underpass_devices::{IpSelector, Selection, Selector};

use super::Network;
use crate::dhcp;
use crate::packet::protocol;

/// Nothing has been said to the devices yet, or something has changed since.
pub(super) struct Selections {
    pub(super) due: bool,
    /// By interface: what was last said.
    said: Vec<Option<Selection>>,
    /// By interface: what is to be said.
    news: Vec<(usize, Selection)>,
}

impl Selections {
    pub(super) fn new(interfaces: usize) -> Self {
        Self { due: true, said: vec![None; interfaces], news: Vec::new() }
    }
}

impl Network {
    /// What is wanted may have changed.
    pub(crate) fn select_anew(&mut self) {
        self.selections.due = true;
    }

    /// It may have, and nobody has looked yet.
    pub(crate) fn is_selection_due(&self) -> bool {
        self.selections.due
    }

    /// Finds out what is wanted, if that may have changed.
    pub(crate) fn follow_selections(&mut self) {
        if !std::mem::take(&mut self.selections.due) {
            return;
        }
        for interface in 0..self.links.len() {
            let wanted = Selection { vlan: None, selectors: self.wanted(interface) };
            if self.selections.said[interface].as_ref() != Some(&wanted) {
                self.selections.said[interface] = Some(wanted.clone());
                self.selections.news.push((interface, wanted));
            }
        }
    }

    /// What is to be said to the devices of some interfaces, once.
    pub(crate) fn take_selections(&mut self) -> Vec<(usize, Selection)> {
        std::mem::take(&mut self.selections.news)
    }

    fn wanted(&self, interface: usize) -> Vec<Selector> {
        let link = &self.links[interface];
        let addresses = self.routes.addresses().iter().map(|own| own.net.addr());
        let client = link.dhcp.as_ref().filter(|client| !client.is_stopped());
        let awaited = client.into_iter().flat_map(dhcp::Client::awaited);
        let joined = link.groups.joined_by_programs();
        let mut wanted: Vec<_> = addresses
            .clone()
            .chain(awaited.map(IpAddr::V4))
            .chain(joined.clone())
            .map(Selector::address)
            .collect();
        if joined.clone().any(|group| group.is_ipv4()) {
            let everybody = Ipv4Addr::new(224, 0, 0, 1);
            wanted.push(of_protocol(everybody.into(), protocol::IGMP));
        }
        if joined.clone().any(|group| group.is_ipv6()) || link.slaac.is_some() {
            let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            wanted.push(of_protocol(everybody.into(), protocol::ICMPV6));
        }
        if client.is_some() {
            wanted.push(Selector::udp_port(None, dhcp::CLIENT_PORT));
        }
        for selector in &self.attached {
            match selector {
                Selector::Ip(of_any @ IpSelector { to: None, .. }) => {
                    let of_each = |to| Selector::Ip(IpSelector { to: Some(to), ..*of_any });
                    wanted.extend(addresses.clone().map(of_each));
                }
                _ => wanted.push(*selector),
            }
        }
        wanted
    }
}

fn of_protocol(to: IpAddr, protocol: u8) -> Selector {
    Selector::Ip(IpSelector { to: Some(to), protocol: Some(protocol), port: None })
}
