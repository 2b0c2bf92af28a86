//! Memberships of all interfaces, and their reports on the wire.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use underpass_devices::{Instant, Medium, TxQueue};

use super::message::MLD_QUERY;
use super::{Query, Report};
use crate::link::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Out, group_mac};
use crate::ndp;
use crate::network::Network;
use crate::packet::Packet;
use crate::stats::DropReason;

impl<T: TxQueue> Out<'_, T> {
    /// Follows changes of addresses, and sends the reports that are due.
    pub(crate) fn poll_groups(&mut self) {
        for interface in 0..self.net.links.len() {
            let version = self.net.version;
            if self.net.links[interface].groups.seen != version {
                let needed = solicited_nodes(self.net, interface);
                let groups = &mut self.net.links[interface].groups;
                groups.seen = version;
                groups.follow(self.now, &needed);
            }
            while let Some(report) = self.net.links[interface].groups.poll(self.now) {
                self.report(interface, &report);
            }
        }
    }

    /// An IGMP packet to a group of ours.
    pub(crate) fn on_igmp(
        &mut self,
        interface: usize,
        packet: &Packet<'_>,
    ) -> Result<(), DropReason> {
        // Reports of other stations are their matter.
        let query = Query::parse_igmp(packet.payload()).ok_or(DropReason::IgmpIgnored)?;
        self.net.links[interface].groups.on_query(self.now, &query);
        Ok(())
    }

    /// An ICMPv6 message that nobody else takes.
    pub(crate) fn on_mld(
        &mut self,
        interface: usize,
        packet: &Packet<'_>,
    ) -> Result<(), DropReason> {
        if packet.payload().first() != Some(&MLD_QUERY) {
            return Err(DropReason::IcmpIgnored);
        }
        let query = Query::parse_mld(packet).ok_or(DropReason::IcmpIgnored)?;
        self.net.links[interface].groups.on_query(self.now, &query);
        Ok(())
    }

    fn report(&mut self, interface: usize, report: &Report) {
        let source = self.net.routes.source_on(interface, link_group(report.group), report.group);
        match (report.group, source) {
            (IpAddr::V4(group), source) => {
                let source = match source {
                    Some(IpAddr::V4(source)) => source,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let (dst, packet) = report.igmp(group, source);
                self.send_to_group(interface, dst.into(), ETHERTYPE_IPV4, &packet);
            }
            (IpAddr::V6(group), source) => {
                // Before there is an address that may be used (RFC 3590).
                let source = match source {
                    Some(IpAddr::V6(source)) => source,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                let (dst, packet) = report.mld(group, source);
                self.send_to_group(interface, dst.into(), ETHERTYPE_IPV6, &packet);
            }
        }
    }

    fn send_to_group(&mut self, interface: usize, dst: IpAddr, ether_type: u16, packet: &[u8]) {
        if let Some(mac) = group_mac(dst) {
            self.ethernet(interface, mac, ether_type, packet);
        }
    }
}

impl Network {
    /// Takes packets to a group from an interface: the one that packets to it leave by, if none is
    /// named. Returns the interface.
    pub(crate) fn join(
        &mut self,
        now: Instant,
        group: IpAddr,
        interface: Option<usize>,
    ) -> io::Result<usize> {
        if !group.is_multicast() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{group} is no multicast group"),
            ));
        }
        let interface = interface.or_else(|| self.group_interface(group)).unwrap_or(0);
        let Some(link) = self.links.get_mut(interface) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("there is no interface {interface}"),
            ));
        };
        if link.groups.join(now, group) {
            self.select_anew();
            return Ok(interface);
        }
        Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!("the limit of {} groups per interface is reached", super::MAX_GROUPS),
        ))
    }

    pub(crate) fn leave(&mut self, now: Instant, group: IpAddr, interface: usize) {
        if let Some(link) = self.links.get_mut(interface) {
            link.groups.leave(now, group);
            self.select_anew();
        }
    }

    /// The interface of packets to a group: the first one that has joined it, else the one that
    /// routes name.
    pub(crate) fn group_interface(&self, group: IpAddr) -> Option<usize> {
        let joined = self.links.iter().position(|link| link.groups.is_joined(group));
        joined.or_else(|| self.routes.group_interface(group))
    }
}

/// The solicited-node groups of the addresses of an interface, tentative ones included (RFC 4862
/// §5.4.2).
fn solicited_nodes(net: &Network, interface: usize) -> Vec<IpAddr> {
    if net.links[interface].caps.medium != Medium::Ethernet {
        return Vec::new();
    }
    let mut groups = Vec::new();
    for address in net.routes.addresses().iter().filter(|a| a.interface == interface) {
        if let IpAddr::V6(ip) = address.net.addr() {
            let group = IpAddr::V6(ndp::solicited_node(ip));
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    }
    groups
}

/// A group of the same IP version that does not leave the link: reports are for neighbours.
fn link_group(group: IpAddr) -> IpAddr {
    match group {
        IpAddr::V4(_) => group,
        IpAddr::V6(_) => ndp::all_routers().into(),
    }
}
