//! Custom protocols: who may have what, and which frames are whose.

use std::net::{IpAddr, SocketAddr};

use underpass_devices::{IpSelector, Medium, Selector, TxQueue, VlanId};
use underpass_protocols::{Incoming, Peer, Protocol};

use super::{Arrival, Core};
use crate::dhcp;
use crate::handover::Content;
use crate::icmp::Unreachable;
use crate::link::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Out};
use crate::packet::{Packet, UdpDatagram, protocol};
use crate::stats::DropReason;

/// Why a protocol was not attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The EtherTypes of IPv4, IPv6, ARP and VLAN tags; TCP, UDP without a port, ICMP, IGMP and the
    /// extension headers of IPv6; the port of DHCP clients; whole addresses.
    #[error("{0:?} is what the stack itself speaks")]
    Reserved(Selector),
    /// A protocol or a UDP socket has it, or a part of it.
    #[error("{0:?} is taken, by another protocol or a UDP socket")]
    Taken(Selector),
    /// An EtherType below 0x600, which is a length (IEEE 802.3), UDP port 0, or a port of a protocol
    /// other than UDP.
    #[error("{0:?} selects nothing that a protocol can be attached to")]
    Unsupported(Selector),
    /// The address is not one of the stack's.
    #[error("{0} is not an address of this stack")]
    NotOurs(IpAddr),
    /// An EtherType, and no device with Ethernet headers.
    #[error("EtherTypes need a device with Ethernet frames")]
    NoEthernet,
    /// [`Limits::protocols`](crate::Limits::protocols) is reached.
    #[error("the limit of {0} protocols is reached")]
    Full(usize),
    /// The device is gone.
    #[error("the stack has stopped: {0}")]
    Stopped(String),
}

const ETHERTYPE_VLAN: u16 = 0x8100;
/// Smaller numbers in its place are lengths (IEEE 802.3 §3.2.6).
const SMALLEST_ETHERTYPE: u16 = 0x0600;
/// IP protocols of the stack, extension headers that it skips included.
const OWN_PROTOCOLS: [u8; 9] = [
    protocol::HOP_BY_HOP,
    protocol::ICMP,
    protocol::IGMP,
    protocol::TCP,
    protocol::UDP,
    protocol::ROUTING,
    protocol::FRAGMENT,
    protocol::ICMPV6,
    protocol::DESTINATION_OPTIONS,
];

impl Core {
    /// Runs a protocol from the next turn on.
    pub(crate) fn attach(
        &mut self,
        selector: Selector,
        protocol: Box<dyn Protocol>,
    ) -> Result<u32, AttachError> {
        if let Some(why) = &self.stopped {
            return Err(AttachError::Stopped(why.clone()));
        }
        self.check_selector(selector)?;
        if self.attachments.selectors().any(|other| overlap(selector, other))
            || !self.claim(selector)
        {
            return Err(AttachError::Taken(selector));
        }
        let Some(id) = self.attachments.add(selector, protocol) else {
            self.disclaim(selector);
            return Err(AttachError::Full(self.attachments.selectors().count()));
        };
        self.select_attached();
        Ok(id)
    }

    /// The protocol is the caller's again.
    pub(crate) fn detach(&mut self, id: u32) -> Box<dyn Protocol> {
        let (selector, protocol) = self.attachments.remove(id);
        self.disclaim(selector);
        self.select_attached();
        protocol
    }

    /// A frame of a type that is not the stack's own.
    pub(super) fn on_other_frame(
        &mut self,
        frame: &[u8],
        arrival: Arrival,
        tx: &mut [impl TxQueue],
    ) {
        let Some((vlan, ether_type, payload)) = behind_tag(frame) else {
            return self.net.drop(DropReason::ShortFrame);
        };
        if let Some(home) = self.siblings.as_ref().and_then(|all| all.ether_types.get(ether_type))
            && !arrival.handed_over
            && self.hand_over(home, Content::Frame, frame, arrival)
        {
            return;
        }
        let Some(id) = self.attachments.find_ether_type(vlan, ether_type) else {
            return self.net.drop(DropReason::UnknownEtherType);
        };
        let stations = arrival.link.unwrap_or_default();
        let interface = arrival.interface;
        let frame = Incoming {
            from: Peer::Station { interface, address: stations.source },
            to: Peer::Station { interface, address: stations.destination },
            interface,
            link: arrival.link,
            hop_limit: None,
            payload,
        };
        if let Err(reason) = self.give(id, &frame, tx) {
            self.net.drop(reason);
        }
    }

    /// A packet of a protocol that is not the stack's own; raw sockets may have `copied` it.
    pub(super) fn on_other_protocol(
        &mut self,
        packet: &Packet<'_>,
        copied: bool,
        arrival: Arrival,
        tx: &mut [impl TxQueue],
    ) -> Result<(), DropReason> {
        let Some(id) = self.attachments.find_packet(packet.dst, packet.protocol, None) else {
            if copied {
                return Ok(());
            }
            self.refuse(packet, arrival, Unreachable::Protocol, tx);
            return Err(DropReason::UnknownProtocol);
        };
        let frame = Incoming {
            from: Peer::Host(packet.src),
            to: Peer::Host(packet.dst),
            interface: arrival.interface,
            link: arrival.link,
            hop_limit: Some(packet.hop_limit),
            payload: packet.payload(),
        };
        self.give(id, &frame, tx)
    }

    /// A datagram with a right checksum. `None`: it is for no custom protocol.
    pub(super) fn on_attached_port(
        &mut self,
        datagram: &UdpDatagram<'_>,
        arrival: Arrival,
        tx: &mut [impl TxQueue],
    ) -> Option<Result<(), DropReason>> {
        let UdpDatagram { packet, src_port, dst_port, data, .. } = datagram;
        let port = Some(*dst_port);
        let id = self.attachments.find_packet(packet.dst, protocol::UDP, port)?;
        let frame = Incoming {
            from: Peer::Port(SocketAddr::new(packet.src, *src_port)),
            to: Peer::Port(SocketAddr::new(packet.dst, *dst_port)),
            interface: arrival.interface,
            link: arrival.link,
            hop_limit: Some(packet.hop_limit),
            payload: data,
        };
        Some(self.give(id, &frame, tx))
    }

    fn give(
        &mut self,
        id: u32,
        frame: &Incoming<'_>,
        tx: &mut [impl TxQueue],
    ) -> Result<(), DropReason> {
        let mut out = Out { now: self.now, net: &mut self.net, tx };
        self.attachments.on_frame(id, frame, &mut out, &mut self.wakes)
    }

    /// Tells the network what devices are to deliver to protocols.
    fn select_attached(&mut self) {
        self.net.attached = self.attachments.selectors().collect();
        self.net.select_anew();
    }

    fn check_selector(&self, selector: Selector) -> Result<(), AttachError> {
        match selector {
            Selector::EtherType(number) | Selector::Tagged(_, number) => {
                let own = [ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6];
                let is_tagged = matches!(selector, Selector::Tagged(..));
                if number == ETHERTYPE_VLAN || (own.contains(&number) && !is_tagged) {
                    return Err(AttachError::Reserved(selector));
                }
                if number < SMALLEST_ETHERTYPE {
                    return Err(AttachError::Unsupported(selector));
                }
                let mut links = self.net.links.iter();
                let has_ethernet = links.any(|link| link.caps.medium == Medium::Ethernet);
                if has_ethernet { Ok(()) } else { Err(AttachError::NoEthernet) }
            }
            Selector::Ip(IpSelector { to, protocol, port }) => {
                match (protocol, port) {
                    (Some(protocol::UDP), Some(0)) => {
                        return Err(AttachError::Unsupported(selector));
                    }
                    (Some(protocol::UDP), Some(port)) if port != dhcp::CLIENT_PORT => {}
                    (Some(number), None) if !OWN_PROTOCOLS.contains(&number) => {}
                    (Some(number), Some(_)) if !OWN_PROTOCOLS.contains(&number) => {
                        return Err(AttachError::Unsupported(selector));
                    }
                    _ => return Err(AttachError::Reserved(selector)),
                }
                match to {
                    Some(to) if !self.net.routes.is_own(to) => Err(AttachError::NotOurs(to)),
                    _ => Ok(()),
                }
            }
            _ => Err(AttachError::Unsupported(selector)),
        }
    }

    /// Makes this shard the one that gets what `selector` selects. False: it is taken.
    fn claim(&mut self, selector: Selector) -> bool {
        match (selector, &self.siblings) {
            (Selector::EtherType(number) | Selector::Tagged(_, number), Some(siblings)) => {
                siblings.ether_types.claim(number, siblings.index)
            }
            (Selector::Ip(IpSelector { port: Some(port), .. }), _) => self.udp.reserve(port),
            _ => true,
        }
    }

    /// Undoes [`claim`](Self::claim), when the selector is gone.
    fn disclaim(&mut self, selector: Selector) {
        match selector {
            Selector::EtherType(number) | Selector::Tagged(_, number) => {
                let is_used = self.attachments.selectors().any(|other| match other {
                    Selector::EtherType(other) | Selector::Tagged(_, other) => other == number,
                    _ => false,
                });
                if let Some(siblings) = self.siblings.as_ref().filter(|_| !is_used) {
                    siblings.ether_types.release(number);
                }
            }
            Selector::Ip(IpSelector { port: Some(port), .. }) => self.udp.free(port),
            _ => {}
        }
    }
}

/// There are frames that both select.
fn overlap(a: Selector, b: Selector) -> bool {
    match (a, b) {
        (Selector::Ip(a), Selector::Ip(b)) => {
            a.protocol == b.protocol
                && a.port == b.port
                && (a.to.is_none() || b.to.is_none() || a.to == b.to)
        }
        _ => a == b,
    }
}

/// VLAN, type and payload of a frame; a tag without a VLAN (priority alone) is looked behind.
fn behind_tag(frame: &[u8]) -> Option<(Option<VlanId>, u16, &[u8])> {
    let (&[.., t0, t1], payload) = frame.split_first_chunk::<14>()?;
    let ether_type = u16::from_be_bytes([t0, t1]);
    if ether_type != ETHERTYPE_VLAN {
        return Some((None, ether_type, payload));
    }
    let (&[c0, c1, t0, t1], payload) = payload.split_first_chunk::<4>()?;
    let vlan = match u16::from_be_bytes([c0, c1]) & 0x0fff {
        0 => None,
        // 0xfff is no VLAN: it matches no selector.
        id => Some(VlanId::new(id).ok()?),
    };
    Some((vlan, u16::from_be_bytes([t0, t1]), payload))
}
