//! Which packet a frame carries, as selectors and filter rules see it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Medium;

/// The addresses, protocol and destination port of an IP packet.
///
/// What is read, and what is not, is fixed to the byte, so that a program in the kernel can judge
/// frames alike:
///
/// - The version is that of the EtherType (0x0800, 0x86dd), and the packet has to say the same. The
///   fixed header (20 or 40 bytes) is all there, and an IPv4 header says to be no shorter; else there
///   is no key. Total and payload length are not looked at, nor are checksums.
/// - Extension headers of IPv6 are walked: 0, 43 and 60 of `(n + 1) * 8` bytes, 51 of
///   `(n + 2) * 4`, 44 of 8. At most four; then the next type is the protocol, whatever it is.
/// - A header whose first 8 bytes are not all there is cut short and ends the walk: its own type is
///   the protocol. What is skipped of a longer one need not be there.
/// - A fragment header with an offset ends the walk: its next type is the protocol, without a port.
///   So IPv4 fragments with an offset have no port either. First fragments are as whole packets.
/// - TCP, UDP, DCCP, SCTP and UDP-Lite have ports (6, 17, 33, 132, 136). There is none if fewer than
///   4 bytes of the transport header are there.
///
/// ```
/// use underpass_devices::{Medium, PacketKey};
///
/// let udp = [
///     0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
///     0x30, 0x39, 0, 53, 0, 9, 0, 0, 7, // UDP
/// ];
/// let key = PacketKey::of_frame(Medium::Ip, &udp).unwrap();
/// assert_eq!((key.source, key.protocol, key.port), ([192, 0, 2, 1].into(), 17, Some(53)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketKey {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol, or what of an IPv6 packet stands in its place.
    pub protocol: u8,
    /// Destination port.
    pub port: Option<u16>,
}

impl PacketKey {
    /// The key of a frame. One 802.1Q tag is looked behind, whatever VLAN it names. `None`: it
    /// carries no IP packet.
    pub fn of_frame(medium: Medium, frame: &[u8]) -> Option<Self> {
        let packet = match medium {
            Medium::Ethernet => Ethernet::parse(frame)?.packet(),
            Medium::Ip => match frame.first()? >> 4 {
                4 => Packet::parse(IPV4, frame),
                _ => Packet::parse(IPV6, frame),
            },
        };
        packet.map(|packet| packet.key)
    }
}

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const MAX_EXTENSION_HEADERS: usize = 4;

/// True if the header of this protocol begins with two ports.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// A frame behind its Ethernet header and at most one 802.1Q tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ethernet<'a> {
    /// Priority and VLAN.
    pub(crate) tag: Option<u16>,
    pub(crate) ether_type: u16,
    pub(crate) payload: &'a [u8],
}

/// An IP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) key: PacketKey,
    /// From the header of `key.protocol` on; empty if that is not there.
    pub(crate) transport: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// `None`: too short.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let untagged = Self::untagged(frame)?;
        if untagged.ether_type != VLAN {
            return Some(untagged);
        }
        let (&[t0, t1, e0, e1], payload) = untagged.payload.split_first_chunk()?;
        let tag = Some(u16::from_be_bytes([t0, t1]));
        Some(Self { tag, ether_type: u16::from_be_bytes([e0, e1]), payload })
    }

    /// The same for a frame that has no tag: what looks like one is payload.
    pub(crate) fn untagged(frame: &'a [u8]) -> Option<Self> {
        let (&[.., e0, e1], payload) = frame.split_first_chunk::<14>()?;
        Some(Self { tag: None, ether_type: u16::from_be_bytes([e0, e1]), payload })
    }

    pub(crate) fn packet(&self) -> Option<Packet<'a>> {
        Packet::parse(self.ether_type, self.payload)
    }
}

impl<'a> Packet<'a> {
    fn parse(ether_type: u16, bytes: &'a [u8]) -> Option<Self> {
        match ether_type {
            IPV4 => Self::parse_v4(bytes),
            IPV6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let [first, .., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || len < header.len() {
            return None;
        }
        let source = Ipv4Addr::new(s0, s1, s2, s3).into();
        let destination = Ipv4Addr::new(d0, d1, d2, d3).into();
        let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        let transport = if offset == 0 { bytes.get(len..) } else { None };
        Some(Self::new(source, destination, header[9], transport))
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<40>()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let address = |at| {
            let octets: [u8; 16] = std::array::from_fn(|n| header[at + n]);
            IpAddr::from(Ipv6Addr::from(octets))
        };
        let (source, destination) = (address(8), address(24));
        let mut protocol = header[6];
        for _ in 0..MAX_EXTENSION_HEADERS {
            if !matches!(protocol, 0 | 43 | 44 | 51 | 60) {
                break;
            }
            let Some(&[next, n, high, low, ..]) = rest.first_chunk::<8>() else {
                return Some(Self::new(source, destination, protocol, None));
            };
            let len = match protocol {
                44 => 8,
                51 => (usize::from(n) + 2) * 4,
                _ => (usize::from(n) + 1) * 8,
            };
            let is_first = protocol != 44 || u16::from_be_bytes([high, low]) & 0xfff8 == 0;
            protocol = next;
            match rest.get(len..) {
                Some(behind) if is_first => rest = behind,
                _ => return Some(Self::new(source, destination, protocol, None)),
            }
        }
        Some(Self::new(source, destination, protocol, Some(rest)))
    }

    fn new(source: IpAddr, destination: IpAddr, protocol: u8, transport: Option<&'a [u8]>) -> Self {
        let transport = transport.unwrap_or_default();
        let port = match transport.first_chunk() {
            Some(&[_, _, high, low]) if has_ports(protocol) => {
                Some(u16::from_be_bytes([high, low]))
            }
            _ => None,
        };
        Self { key: PacketKey { source, destination, protocol, port }, transport }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UDP: [u8; 8] = [0x30, 0x39, 0, 53, 0, 8, 0, 7];

    fn ipv4(first: u8, fragment: u16, protocol: u8) -> Vec<u8> {
        let [high, low] = fragment.to_be_bytes();
        let mut header = vec![first, 0, 0, 0, 0, 0, high, low, 64, protocol, 0, 0];
        header.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        header
    }

    fn ipv6(next: u8, rest: &[&[u8]]) -> Vec<u8> {
        let head = [0x60, 0, 0, 0, 0, 0, next, 64];
        [&head[..], &[0xfd; 16], &[0xfe; 16], &rest.concat()].concat()
    }

    /// Protocol and port.
    fn seen(packet: &[u8]) -> Option<(u8, Option<u16>)> {
        PacketKey::of_frame(Medium::Ip, packet).map(|key| (key.protocol, key.port))
    }

    #[test]
    fn ipv4_packets() {
        let packet =
            |first, fragment, protocol| [&ipv4(first, fragment, protocol)[..], &UDP].concat();
        assert_eq!(seen(&packet(0x45, 0, 17)), Some((17, Some(53))));
        assert_eq!(seen(&packet(0x45, 0x4000, 17)), Some((17, Some(53))), "don't fragment");
        assert_eq!(seen(&packet(0x45, 0x2000, 17)), Some((17, Some(53))), "first fragment");
        assert_eq!(seen(&packet(0x45, 0x2001, 17)), Some((17, None)), "a later one");
        assert_eq!(seen(&packet(0x45, 0, 1)), Some((1, None)));
        assert_eq!(seen(&packet(0x46, 0, 17)), Some((17, Some(7))), "one word of options");
        assert_eq!(seen(&packet(0x4f, 0, 17)), Some((17, None)), "options beyond the end");
        assert_eq!(seen(&packet(0x44, 0, 17)), None, "a header shorter than any");
        assert_eq!(seen(&packet(0x55, 0, 17)), None);
        assert_eq!(seen(&packet(0x45, 0, 17)[..23]), Some((17, None)));
        assert_eq!(seen(&packet(0x45, 0, 17)[..24]), Some((17, Some(53))));
        assert_eq!(seen(&packet(0x45, 0, 17)[..19]), None);
    }

    #[test]
    fn ipv6_extension_headers() {
        let options = |next| [next, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(seen(&ipv6(17, &[&UDP])), Some((17, Some(53))));
        assert_eq!(seen(&ipv6(0, &[&options(17), &UDP])), Some((17, Some(53))));
        assert_eq!(seen(&ipv6(60, &[&[17, 1], &[0; 14], &UDP])), Some((17, Some(53))));
        assert_eq!(seen(&ipv6(51, &[&[17, 1], &[0; 10], &UDP])), Some((17, Some(53))));
        assert_eq!(seen(&ipv6(59, &[&UDP])), Some((59, None)));

        let after_four = |next| {
            let headers = [options(43), options(60), options(0), options(next)];
            seen(&ipv6(0, &[headers.as_flattened(), &UDP]))
        };
        assert_eq!(after_four(17), Some((17, Some(53))));
        assert_eq!(after_four(60), Some((60, None)), "the fifth is not walked");

        let fragment = |offset: u8| [17, 0xff, 0, offset, 0, 0, 0, 1];
        assert_eq!(seen(&ipv6(44, &[&fragment(1), &UDP])), Some((17, Some(53))), "first");
        assert_eq!(seen(&ipv6(44, &[&fragment(8), &UDP])), Some((17, None)), "a later one");
        let options_behind = [60, 0, 0, 8, 0, 0, 0, 1];
        assert_eq!(seen(&ipv6(44, &[&options_behind, &options(17), &UDP])), Some((60, None)));
    }

    #[test]
    fn ipv6_headers_cut_short() {
        let cut = ipv6(0, &[&[17, 0, 0, 0, 0, 0, 0]]);
        assert_eq!(seen(&cut), Some((0, None)), "seven bytes of eight");
        assert_eq!(seen(&ipv6(0, &[&[17, 1, 0, 0, 0, 0, 0, 0]])), Some((17, None)));
        assert_eq!(seen(&ipv6(0, &[&[60, 1, 0, 0, 0, 0, 0, 0]])), Some((60, None)));
        assert_eq!(seen(&ipv6(17, &[&UDP[..3]])), Some((17, None)));
        assert_eq!(seen(&ipv6(17, &[])[..39]), None);
    }

    #[test]
    fn ethernet_headers() {
        let packet = [&ipv4(0x45, 0, 17)[..], &UDP].concat();
        let port = |types: &[u8]| {
            let frame = [&[2; 12][..], types, &packet].concat();
            PacketKey::of_frame(Medium::Ethernet, &frame).map(|key| key.port)
        };
        assert_eq!(port(&[8, 0]), Some(Some(53)));
        assert_eq!(port(&[0x81, 0, 0, 5, 8, 0]), Some(Some(53)));
        assert_eq!(port(&[0x86, 0xdd]), None, "the version of another EtherType");
        assert_eq!(port(&[0x81, 0, 0, 5, 0x81, 0, 0, 5, 8, 0]), None, "two tags");
        assert_eq!(port(&[0x88, 0xa8, 0, 5, 8, 0]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(
            types in prop::sample::select(vec![&[8, 0][..], &[0x86, 0xdd], &[0x81, 0, 0, 0, 8, 0]]),
            rest in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let frame = [&[2; 12][..], types, &rest].concat();
            for len in 0..frame.len() {
                let _ = PacketKey::of_frame(Medium::Ethernet, &frame[..len]);
                let _ = PacketKey::of_frame(Medium::Ip, &frame[len..]);
            }
        }
    }
}
