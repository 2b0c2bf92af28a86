//! IGMP (RFC 2236, RFC 3376) and MLD (RFC 2710, RFC 3810) messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::checksum;
use crate::packet::{Packet, protocol};

/// A report of ours about one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) group: IpAddr,
    pub(crate) is_member: bool,
    /// It has just become one, or ceased to be one; else a router has asked.
    pub(crate) is_change: bool,
    /// For routers of IGMPv2 or MLDv1.
    pub(crate) is_old: bool,
}

/// A router's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) is_ipv4: bool,
    /// `None`: it asks about all groups.
    pub(crate) group: Option<IpAddr>,
    pub(crate) max_delay: Duration,
    /// Of IGMPv2 or MLDv1.
    pub(crate) is_old: bool,
}

const IGMP_QUERY: u8 = 0x11;
const IGMP_V2_REPORT: u8 = 0x16;
const IGMP_V2_LEAVE: u8 = 0x17;
const IGMP_V3_REPORT: u8 = 0x22;
pub(super) const MLD_QUERY: u8 = 130;
const MLD_V1_REPORT: u8 = 131;
const MLD_V1_DONE: u8 = 132;
const MLD_V2_REPORT: u8 = 143;

/// Record types of both protocols (RFC 3376 §4.2.12, RFC 3810 §5.2.12).
const MODE_IS_EXCLUDE: u8 = 2;
const CHANGE_TO_INCLUDE: u8 = 3;
const CHANGE_TO_EXCLUDE: u8 = 4;

impl Query {
    /// An IGMP message (RFC 3376 §4.1, §7.1). `None`: it is no query.
    pub(crate) fn parse_igmp(message: &[u8]) -> Option<Self> {
        let head: &[u8; 8] = message.first_chunk()?;
        if head[0] != IGMP_QUERY || checksum::sum(message) != 0xffff {
            return None;
        }
        let group = Ipv4Addr::new(head[4], head[5], head[6], head[7]);
        let is_old = message.len() < 12;
        let tenths = match (head[1], is_old) {
            // IGMPv1 names no time.
            (0, true) => 100,
            (code, false) if code >= 128 => float(code.into(), 4),
            (code, _) => code.into(),
        };
        let max_delay = Duration::from_millis(u64::from(tenths) * 100);
        Some(Self { is_ipv4: true, group: named(group.into()), max_delay, is_old })
    }

    /// An ICMPv6 message whose checksum is right (RFC 3810 §5.1, §8.1, §6.2). `None`: it is no query
    /// of a router on the link.
    pub(crate) fn parse_mld(packet: &Packet<'_>) -> Option<Self> {
        let message = packet.payload();
        let head: &[u8; 24] = message.first_chunk()?;
        let IpAddr::V6(src) = packet.src else {
            return None;
        };
        if head[0] != MLD_QUERY || packet.hop_limit != 1 || !src.is_unicast_link_local() {
            return None;
        }
        let group = Ipv6Addr::from(*head[8..].first_chunk::<16>()?);
        let is_old = message.len() < 28;
        let code = u16::from_be_bytes([head[4], head[5]]);
        let millis = if !is_old && code >= 0x8000 { float(code, 12) } else { code.into() };
        let max_delay = Duration::from_millis(millis.into());
        Some(Self { is_ipv4: false, group: named(group.into()), max_delay, is_old })
    }
}

/// Times of large codes: an exponent of 3 bits behind the leading one, a mantissa of `bits` bits.
fn float(code: u16, bits: u32) -> u32 {
    let exponent = u32::from(code) >> bits & 7;
    let mantissa = u32::from(code) & ((1 << bits) - 1) | 1 << bits;
    mantissa << (exponent + 3)
}

fn named(group: IpAddr) -> Option<IpAddr> {
    (!group.is_unspecified()).then_some(group)
}

impl Report {
    /// The packet of an IPv4 report, and where it goes.
    pub(super) fn igmp(&self, group: Ipv4Addr, source: Ipv4Addr) -> (Ipv4Addr, Vec<u8>) {
        let (dst, message) = if self.is_old {
            let (dst, kind) = if self.is_member {
                (group, IGMP_V2_REPORT)
            } else {
                (Ipv4Addr::new(224, 0, 0, 2), IGMP_V2_LEAVE)
            };
            (dst, [&[kind, 0, 0, 0], &group.octets()[..]].concat())
        } else {
            let head = [IGMP_V3_REPORT, 0, 0, 0, 0, 0, 0, 1, self.record(), 0, 0, 0];
            (Ipv4Addr::new(224, 0, 0, 22), [&head, &group.octets()[..]].concat())
        };
        // Header with the router alert option, hop limit 1, internetwork control (RFC 3376 §4).
        let len = (24 + message.len()) as u8;
        let head = [0x46, 0xc0, 0, len, 0, 0, 0, 0, 1, protocol::IGMP, 0, 0];
        let alert = [0x94, 4, 0, 0];
        let mut packet = [&head[..], &source.octets(), &dst.octets(), &alert, &message].concat();
        let sum = !checksum::sum(&packet[..24]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let sum = !checksum::sum(&packet[24..]);
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        (dst, packet)
    }

    /// The packet of an IPv6 report, and where it goes.
    pub(super) fn mld(&self, group: Ipv6Addr, source: Ipv6Addr) -> (Ipv6Addr, Vec<u8>) {
        let (dst, message) = if self.is_old {
            let (dst, kind) = if self.is_member {
                (group, MLD_V1_REPORT)
            } else {
                (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2), MLD_V1_DONE)
            };
            (dst, [&[kind, 0, 0, 0, 0, 0, 0, 0], &group.octets()[..]].concat())
        } else {
            let head = [MLD_V2_REPORT, 0, 0, 0, 0, 0, 0, 1, self.record(), 0, 0, 0];
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16), [&head, &group.octets()[..]].concat())
        };
        // A hop-by-hop header with the router alert option, hop limit 1 (RFC 3810 §5).
        let len = (8 + message.len()) as u8;
        let head = [0x60, 0, 0, 0, 0, len, protocol::HOP_BY_HOP, 1];
        let alert = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
        let mut packet = [&head[..], &source.octets(), &dst.octets(), &alert, &message].concat();
        let sum = checksum::transport(source.into(), dst.into(), protocol::ICMPV6, &packet[48..]);
        packet[50..52].copy_from_slice(&sum.to_be_bytes());
        (dst, packet)
    }

    fn record(&self) -> u8 {
        match (self.is_member, self.is_change) {
            (true, false) => MODE_IS_EXCLUDE,
            (true, true) => CHANGE_TO_EXCLUDE,
            (false, _) => CHANGE_TO_INCLUDE,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(code: u8, len: usize) -> Vec<u8> {
        let mut message = vec![0; len];
        message[0] = IGMP_QUERY;
        message[1] = code;
        let sum = !checksum::sum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    #[test]
    fn times_of_every_version() {
        let delay = |code, len| {
            let query = Query::parse_igmp(&query(code, len)).unwrap();
            (query.max_delay.as_millis(), query.is_old)
        };
        assert_eq!(delay(0, 8), (10_000, true));
        assert_eq!(delay(200, 8), (20_000, true));
        assert_eq!(delay(100, 12), (10_000, false));
        assert_eq!(delay(0x80, 12), (12_800, false), "16 << 3 tenths");
        assert_eq!(float(0x8000, 12), 32_768);
        let mut wrong = query(100, 12);
        wrong[5] ^= 1;
        assert_eq!(Query::parse_igmp(&wrong), None);
    }

    #[test]
    fn reports_are_packets_of_their_protocols() {
        for (is_member, is_change, is_old) in
            [(true, true, false), (true, false, false), (false, true, false), (true, true, true)]
        {
            let group = Ipv4Addr::new(239, 1, 2, 3);
            let report = Report { group: group.into(), is_member, is_change, is_old };
            let (dst, bytes) = report.igmp(group, Ipv4Addr::new(10, 0, 0, 1));
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!((packet.dst, packet.protocol), (dst.into(), protocol::IGMP));
            assert_eq!((packet.hop_limit, checksum::sum(packet.payload())), (1, 0xffff));

            let group = "ff05::7".parse().unwrap();
            let source: Ipv6Addr = "fe80::1".parse().unwrap();
            let (dst, bytes) = report.mld(group, source);
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!((packet.dst, packet.protocol), (dst.into(), protocol::ICMPV6));
            let message = packet.payload();
            let right = checksum::verify_transport(source.into(), dst.into(), 58, message);
            assert!(right && packet.hop_limit == 1);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(mut bytes in proptest::collection::vec(any::<u8>(), 4..64)) {
            bytes[2..4].fill(0);
            let sum = !checksum::sum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
            let _ = Query::parse_igmp(&bytes);
            if let Ok(packet) = Packet::parse(&bytes) {
                let _ = Query::parse_mld(&packet);
            }
        }
    }
}
