//! Transmit slots lent to custom protocols: the headers in front of what they write.

use std::net::{IpAddr, SocketAddr};

use underpass_devices::{
    IpSelector, MacAddr, Medium, PartialChecksum, Selector, TxMeta, TxQueue, VlanId,
};
use underpass_protocols::{Destination, Peer, SendError, Slots};

use super::Sending;
use crate::ip_header::{ip_header_len, write_ip_header};
use crate::link::Out;
use crate::output::{Outgoing, Output};
use crate::udp;

/// The slots of every interface, for one call of a protocol.
pub(super) struct Lending<'a, 'o, T> {
    out: &'a mut Out<'o, T>,
    sending: &'a mut Sending,
    pub(super) was_full: bool,
    pub(super) notified: bool,
}

type Write<'a> = &'a mut dyn FnMut(&mut [u8]);

const TAG_LEN: usize = 4;
const ETHERTYPE_VLAN: u16 = 0x8100;
const LONGEST_PACKET: usize = 65_535;

impl<'a, 'o, T: TxQueue> Lending<'a, 'o, T> {
    pub(super) fn new(out: &'a mut Out<'o, T>, sending: &'a mut Sending) -> Self {
        Self { out, sending, was_full: false, notified: false }
    }

    fn try_send(&mut self, to: Destination, len: usize, write: Write<'_>) -> Result<(), SendError> {
        if self.sending.share == 0 {
            return Err(SendError::Full);
        }
        match (self.sending.selector, to.peer) {
            (Selector::EtherType(ether_type), Peer::Station { interface, address }) => {
                self.send_frame(interface, address, (None, ether_type), len, write)
            }
            (Selector::Tagged(vlan, ether_type), Peer::Station { interface, address }) => {
                self.send_frame(interface, address, (Some(vlan), ether_type), len, write)
            }
            (Selector::Ip(IpSelector { port: Some(port), .. }), Peer::Port(peer)) => {
                self.send_datagram(port, &to, peer, len, write)
            }
            (
                Selector::Ip(IpSelector { protocol: Some(protocol), port: None, .. }),
                Peer::Host(ip),
            ) => self.send_packet(protocol, &to, ip, len, write),
            _ => Err(SendError::WrongPeer),
        }
    }

    fn send_frame(
        &mut self,
        interface: usize,
        to: MacAddr,
        (vlan, ether_type): (Option<VlanId>, u16),
        len: usize,
        write: Write<'_>,
    ) -> Result<(), SendError> {
        if !self.is_ethernet(interface) {
            return Err(SendError::Unreachable);
        }
        if len > self.longest_frame(interface) {
            return Err(SendError::TooLong);
        }
        self.check_room(interface)?;
        let meta = TxMeta::default();
        let sent = match vlan {
            None => self.out.frame(interface, to, ether_type, len, meta, write),
            Some(vlan) => {
                self.out.frame(interface, to, ETHERTYPE_VLAN, TAG_LEN + len, meta, |slot| {
                    slot[..2].copy_from_slice(&vlan.number().to_be_bytes());
                    slot[2..TAG_LEN].copy_from_slice(&ether_type.to_be_bytes());
                    write(&mut slot[TAG_LEN..]);
                })
            }
        };
        // There was room, so the device has refused the length.
        sent.ok_or(SendError::TooLong)
    }

    fn send_packet(
        &mut self,
        protocol: u8,
        to: &Destination,
        ip: IpAddr,
        len: usize,
        write: Write<'_>,
    ) -> Result<(), SendError> {
        let header_len = ip_header_len(ip);
        let source = self.way(to, ip, header_len + len)?;
        let hop_limit = hop_limit(to, ip);
        let outgoing = outgoing(ip, header_len + len, None);
        let sent = self.out.packet(outgoing, |packet| {
            let (header, payload) = packet.split_at_mut(header_len);
            write_ip_header(header, source, ip, protocol, len, hop_limit);
            write(payload);
        });
        self.sending.sent_to.add(SocketAddr::new(ip, 0));
        sent.ok_or(SendError::TooLong)
    }

    fn send_datagram(
        &mut self,
        port: u16,
        to: &Destination,
        peer: SocketAddr,
        len: usize,
        write: Write<'_>,
    ) -> Result<(), SendError> {
        let ip = peer.ip();
        let header_len = ip_header_len(ip);
        let all = header_len + udp::HEADER_LEN + len;
        let source = SocketAddr::new(self.way(to, ip, all)?, port);
        let hop_limit = hop_limit(to, ip);
        let checksum = PartialChecksum { start: header_len as u16, offset: udp::CHECKSUM_AT };
        let sent = self.out.packet(outgoing(ip, all, Some(checksum)), |packet| {
            udp::write_headers(packet, source, peer, hop_limit);
            write(&mut packet[header_len + udp::HEADER_LEN..]);
        });
        self.sending.sent_to.add(peer);
        sent.ok_or(SendError::TooLong)
    }

    /// The address that a packet of `len` bytes is sent from, if there is a way and room on it.
    fn way(&self, to: &Destination, ip: IpAddr, len: usize) -> Result<IpAddr, SendError> {
        if len > LONGEST_PACKET {
            return Err(SendError::TooLong);
        }
        let net = &self.out.net;
        let (interface, chosen) = net.egress(ip).ok_or(SendError::Unreachable)?;
        self.check_room(interface)?;
        let is_possible = |own: &IpAddr| own.is_ipv4() == ip.is_ipv4() && net.routes.is_own(*own);
        let bound = match self.sending.selector {
            Selector::Ip(selector) => selector.to,
            _ => None,
        };
        Ok(to.source.or(bound).filter(is_possible).unwrap_or(chosen))
    }

    fn check_room(&self, interface: usize) -> Result<(), SendError> {
        if self.out.has_room(interface) { Ok(()) } else { Err(SendError::Full) }
    }

    fn is_ethernet(&self, interface: usize) -> bool {
        let link = self.out.net.links.get(interface);
        link.is_some_and(|link| link.caps.medium == Medium::Ethernet)
    }

    fn longest_frame(&self, interface: usize) -> usize {
        let mtu = self.out.net.links.get(interface).map_or(0, |link| link.caps.mtu);
        let tag = if matches!(self.sending.selector, Selector::Tagged(..)) { TAG_LEN } else { 0 };
        mtu.saturating_sub(tag)
    }
}

impl<T: TxQueue> Slots for Lending<'_, '_, T> {
    fn send(&mut self, to: Destination, len: usize, write: Write<'_>) -> Result<(), SendError> {
        let result = self.try_send(to, len, write);
        let counters = &mut self.sending.counters;
        match result {
            Ok(()) => {
                counters.sent += 1;
                self.sending.share -= 1;
            }
            Err(SendError::Full) => {
                counters.full += 1;
                self.was_full = true;
            }
            Err(_) => counters.unsent += 1,
        }
        result
    }

    fn max_len(&self, to: Peer) -> usize {
        match (to, self.sending.selector) {
            (Peer::Station { interface, .. }, Selector::EtherType(_) | Selector::Tagged(..))
                if self.is_ethernet(interface) =>
            {
                self.longest_frame(interface)
            }
            (Peer::Host(ip), Selector::Ip(_)) => self.longest_payload(ip, 0),
            (Peer::Port(peer), Selector::Ip(_)) => self.longest_payload(peer.ip(), udp::HEADER_LEN),
            _ => 0,
        }
    }

    fn notify(&mut self) {
        self.notified = true;
    }
}

impl<T: TxQueue> Lending<'_, '_, T> {
    fn longest_payload(&self, ip: IpAddr, headers: usize) -> usize {
        if self.out.net.egress(ip).is_none() {
            return 0;
        }
        let longest = self.out.net.path_mtu(self.out.now, ip).min(LONGEST_PACKET);
        longest.saturating_sub(ip_header_len(ip) + headers)
    }
}

fn hop_limit(to: &Destination, ip: IpAddr) -> u8 {
    to.hop_limit.unwrap_or(if ip.is_multicast() { 1 } else { 64 })
}

fn outgoing(dst: IpAddr, len: usize, checksum: Option<PartialChecksum>) -> Outgoing {
    Outgoing { dst, len, checksum, segment: None, dont_fragment: false }
}
