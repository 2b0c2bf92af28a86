//! Address resolution for IPv4 over Ethernet (RFC 826, RFC 5227): the 28 bytes behind an Ethernet
//! header of type 0x0806.

use std::net::{IpAddr, Ipv4Addr};

use underpass_devices::MacAddr;

use crate::neighbor::Source;

/// An ARP packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArpPacket {
    /// Destination of the Ethernet header.
    pub(crate) dst: MacAddr,
    /// What follows the Ethernet header.
    pub(crate) payload: [u8; 28],
}

/// What a received ARP packet means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArpEvent {
    /// Hand this to the neighbour table.
    Learn(IpAddr, MacAddr, Source),
    /// Somebody asks for us: answer, and hand `learn` to the neighbour table (`None` for a probe
    /// of RFC 5227, whose sender has no address yet).
    Answer { reply: ArpPacket, learn: Option<(IpAddr, MacAddr, Source)> },
    /// Another station claims this address of ours.
    Conflict(Ipv4Addr, MacAddr),
    /// Our own packet, come back.
    Own,
    /// Not ARP for IPv4 over Ethernet, too short, or from a group address.
    Malformed,
}

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Judges what follows an Ethernet header of type ARP; padding behind it is ignored. `is_ours` says
/// whether an address belongs to this interface.
pub(crate) fn receive(
    payload: &[u8],
    our_mac: MacAddr,
    is_ours: impl Fn(Ipv4Addr) -> bool,
) -> ArpEvent {
    let Some(packet) = payload.first_chunk().and_then(Packet::parse) else {
        return ArpEvent::Malformed;
    };
    let Packet { sender_mac, sender_ip, target_ip, .. } = packet;
    if sender_mac == our_mac {
        return ArpEvent::Own;
    }
    if !sender_mac.is_unicast() || sender_ip.is_multicast() || sender_ip.is_broadcast() {
        return ArpEvent::Malformed;
    }
    if is_ours(sender_ip) {
        return ArpEvent::Conflict(sender_ip, sender_mac);
    }
    let for_us = is_ours(target_ip);
    if packet.operation == REQUEST && for_us {
        let learn = (!sender_ip.is_unspecified()).then_some((
            IpAddr::V4(sender_ip),
            sender_mac,
            Source::Request,
        ));
        let reply = Packet {
            operation: REPLY,
            sender_mac: our_mac,
            sender_ip: target_ip,
            target_mac: sender_mac,
            target_ip: sender_ip,
        };
        return ArpEvent::Answer { reply: reply.to(sender_mac), learn };
    }
    let solicited = packet.operation == REPLY && for_us && packet.target_mac == our_mac;
    let source = Source::Advertisement { solicited, overrides: true };
    ArpEvent::Learn(IpAddr::V4(sender_ip), sender_mac, source)
}

/// Asks for `target`: everybody, or with `unicast` the station that had it last (RFC 1122
/// §2.3.2.1).
pub(crate) fn request(
    our_mac: MacAddr,
    our_ip: Ipv4Addr,
    target: Ipv4Addr,
    unicast: Option<MacAddr>,
) -> ArpPacket {
    let request = Packet {
        operation: REQUEST,
        sender_mac: our_mac,
        sender_ip: our_ip,
        target_mac: MacAddr::default(),
        target_ip: target,
    };
    request.to(unicast.unwrap_or(MacAddr::BROADCAST))
}

/// Says whether the sender of an ARP packet has `address`, or is about to take it as we are (RFC 5227
/// §2.1.1).
pub(crate) fn claims(payload: &[u8], our_mac: MacAddr, address: Ipv4Addr) -> bool {
    payload.first_chunk().and_then(Packet::parse).is_some_and(|packet| {
        let probes = packet.operation == REQUEST
            && packet.sender_ip.is_unspecified()
            && packet.target_ip == address;
        packet.sender_mac != our_mac && (packet.sender_ip == address || probes)
    })
}

struct Packet {
    operation: u16,
    sender_mac: MacAddr,
    sender_ip: Ipv4Addr,
    target_mac: MacAddr,
    target_ip: Ipv4Addr,
}

/// Hardware type Ethernet, protocol type IPv4, lengths of both addresses.
const HEAD: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

impl Packet {
    #[rustfmt::skip]
    fn parse(bytes: &[u8; 28]) -> Option<Self> {
        let [h0, h1, h2, h3, h4, h5, o0, o1,
             a0, a1, a2, a3, a4, a5, i0, i1, i2, i3,
             b0, b1, b2, b3, b4, b5, j0, j1, j2, j3] = *bytes;
        let operation = u16::from_be_bytes([o0, o1]);
        let known = [h0, h1, h2, h3, h4, h5] == HEAD && matches!(operation, REQUEST | REPLY);
        known.then_some(Self {
            operation,
            sender_mac: MacAddr([a0, a1, a2, a3, a4, a5]),
            sender_ip: Ipv4Addr::new(i0, i1, i2, i3),
            target_mac: MacAddr([b0, b1, b2, b3, b4, b5]),
            target_ip: Ipv4Addr::new(j0, j1, j2, j3),
        })
    }

    #[rustfmt::skip]
    fn to(&self, dst: MacAddr) -> ArpPacket {
        let [h0, h1, h2, h3, h4, h5] = HEAD;
        let [o0, o1] = self.operation.to_be_bytes();
        let MacAddr([a0, a1, a2, a3, a4, a5]) = self.sender_mac;
        let [i0, i1, i2, i3] = self.sender_ip.octets();
        let MacAddr([b0, b1, b2, b3, b4, b5]) = self.target_mac;
        let [j0, j1, j2, j3] = self.target_ip.octets();
        let payload = [
            h0, h1, h2, h3, h4, h5, o0, o1,
            a0, a1, a2, a3, a4, a5, i0, i1, i2, i3,
            b0, b1, b2, b3, b4, b5, j0, j1, j2, j3,
        ];
        ArpPacket { dst, payload }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THEM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn receive_as_us(payload: &[u8]) -> ArpEvent {
        receive(payload, OUR_MAC, |ip| ip == US)
    }

    /// 10.0.0.2 asks for 10.0.0.1, laid out by hand from RFC 826.
    const REQUEST_BYTES: [u8; 28] = [
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0,
        0, 0, 10, 0, 0, 1,
    ];

    #[test]
    fn a_request_for_us_is_answered_and_learned() {
        assert_eq!(request(THEIR_MAC, THEM, US, None).payload, REQUEST_BYTES);
        let mut padded = REQUEST_BYTES.to_vec();
        padded.resize(46, 0);
        let ArpEvent::Answer { reply, learn } = receive_as_us(&padded) else {
            panic!("no answer");
        };
        assert_eq!(learn, Some((IpAddr::V4(THEM), THEIR_MAC, Source::Request)));
        assert_eq!(reply.dst, THEIR_MAC);
        // The asking side takes it for the answer to its question.
        let solicited = Source::Advertisement { solicited: true, overrides: true };
        assert_eq!(
            receive(&reply.payload, THEIR_MAC, |ip| ip == THEM),
            ArpEvent::Learn(IpAddr::V4(US), OUR_MAC, solicited)
        );
    }

    #[test]
    fn a_probe_is_answered_but_not_learned() {
        let probe = request(THEIR_MAC, Ipv4Addr::UNSPECIFIED, US, None);
        let event = receive_as_us(&probe.payload);
        assert!(matches!(event, ArpEvent::Answer { learn: None, .. }), "{event:?}");
    }

    #[test]
    fn announcements_and_requests_for_others_are_unsolicited() {
        let unsolicited = Source::Advertisement { solicited: false, overrides: true };
        for target in [THEM, Ipv4Addr::new(10, 0, 0, 9)] {
            let packet = request(THEIR_MAC, THEM, target, None);
            assert_eq!(
                receive_as_us(&packet.payload),
                ArpEvent::Learn(IpAddr::V4(THEM), THEIR_MAC, unsolicited)
            );
        }
    }

    #[test]
    fn a_claim_to_our_address_is_a_conflict_and_our_own_echo_is_not() {
        let claim = request(THEIR_MAC, US, US, None);
        assert_eq!(receive_as_us(&claim.payload), ArpEvent::Conflict(US, THEIR_MAC));
        let own = request(OUR_MAC, US, THEM, None);
        assert_eq!(receive_as_us(&own.payload), ArpEvent::Own);
    }

    #[test]
    fn a_probe_of_a_known_neighbour_goes_to_it_alone() {
        assert_eq!(request(OUR_MAC, US, THEM, Some(THEIR_MAC)).dst, THEIR_MAC);
        assert_eq!(request(OUR_MAC, US, THEM, None).dst, MacAddr::BROADCAST);
    }

    #[test]
    fn group_senders_and_other_protocols_are_malformed() {
        let multicast = request(MacAddr::BROADCAST, THEM, US, None);
        assert_eq!(receive_as_us(&multicast.payload), ArpEvent::Malformed);
        for index in 0..8 {
            let mut bytes = REQUEST_BYTES;
            bytes[index] ^= 0x40;
            assert_eq!(receive_as_us(&bytes), ArpEvent::Malformed);
        }
        for len in 0..28 {
            assert_eq!(receive_as_us(&REQUEST_BYTES[..len]), ArpEvent::Malformed);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            receive_as_us(&bytes);
        }
    }
}
