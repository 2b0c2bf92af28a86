//! One look at the headers of a received frame: enough to find out whose it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum;
use crate::stats::DropReason;

/// IP protocol numbers (IANA) the stack knows.
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const IGMP: u8 = 2;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
}

/// Extension headers followed before an IPv6 packet is refused; more is an attack (RFC 8504 §5.3).
const MAX_EXTENSIONS: usize = 8;

/// A checked IP packet: every offset below lies inside `bytes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// The packet from its first header byte to the end its length field names; link padding is gone.
    pub(crate) bytes: &'a [u8],
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Transport protocol, after IPv6 extension headers.
    pub(crate) protocol: u8,
    /// Where the transport header begins (for a fragment: its data).
    pub(crate) payload_at: usize,
    pub(crate) hop_limit: u8,
    pub(crate) fragment: Option<Fragment>,
}

/// Position of a fragment within its datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// Offset of the data in bytes.
    pub(crate) offset: usize,
    pub(crate) more: bool,
    /// Length of the IP headers in front of the fragmented part: all of the IPv4 header, or the
    /// IPv6 header and the extension headers before the Fragment header.
    pub(crate) unfragmentable_len: usize,
}

impl<'a> Packet<'a> {
    /// Checks an IP packet that may be followed by link padding (RFC 791 §3.1, RFC 8200 §3).
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            _ => Err(DropReason::MalformedIp),
        }
    }

    /// Transport header and data.
    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.bytes[self.payload_at..]
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(DropReason::MalformedIp)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < 20 || header_len > total_len || total_len > bytes.len() {
            return Err(DropReason::MalformedIp);
        }
        if checksum::sum(&bytes[..header_len]) != 0xffff {
            return Err(DropReason::IpChecksum);
        }
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let (more, offset) = (flags & 0x2000 != 0, usize::from(flags & 0x1fff) * 8);
        let fragment = (more || offset != 0).then(|| Fragment {
            id: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset,
            more,
            unfragmentable_len: header_len,
        });
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Ok(Self {
            bytes: &bytes[..total_len],
            src: Ipv4Addr::new(s0, s1, s2, s3).into(),
            dst: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol: header[9],
            payload_at: header_len,
            hop_limit: header[8],
            fragment,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or(DropReason::MalformedIp)?;
        let total_len = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let bytes = bytes.get(..total_len).ok_or(DropReason::MalformedIp)?;
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            IpAddr::from(Ipv6Addr::from(octets))
        };
        let mut packet = Self {
            bytes,
            src: address(8),
            dst: address(24),
            protocol: header[6],
            payload_at: 40,
            hop_limit: header[7],
            fragment: None,
        };
        packet.skip_extensions()?;
        Ok(packet)
    }

    /// Follows the extension headers up to the transport header or a Fragment header with data that
    /// is not the whole datagram.
    fn skip_extensions(&mut self) -> Result<(), DropReason> {
        let mut followed = 0;
        loop {
            let rest = self.payload();
            match self.protocol {
                protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::DESTINATION_OPTIONS
                | protocol::FRAGMENT
                    if followed == MAX_EXTENSIONS =>
                {
                    return Err(DropReason::MalformedIp);
                }
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    let &[next, len, ..] = rest else {
                        return Err(DropReason::MalformedIp);
                    };
                    let len = (usize::from(len) + 1) * 8;
                    if len > rest.len() {
                        return Err(DropReason::MalformedIp);
                    }
                    self.protocol = next;
                    self.payload_at += len;
                }
                protocol::FRAGMENT => {
                    let header: &[u8; 8] = rest.first_chunk().ok_or(DropReason::MalformedIp)?;
                    let field = u16::from_be_bytes([header[2], header[3]]);
                    let (offset, more) = (usize::from(field & !7), field & 1 != 0);
                    let fragment = Fragment {
                        id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                        offset,
                        more,
                        unfragmentable_len: self.payload_at,
                    };
                    self.protocol = header[0];
                    self.payload_at += 8;
                    // An atomic fragment is a whole datagram (RFC 6946).
                    if more || offset != 0 {
                        self.fragment = Some(fragment);
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
            followed += 1;
        }
    }
}

/// The two ends of a flow, seen from this stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

impl Tuple {
    /// The same flow, seen from the other end.
    pub(crate) fn reversed(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }
}

/// A checked TCP segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpSegment<'a> {
    /// The IP packet it came in.
    pub(crate) packet: Packet<'a>,
    pub(crate) tuple: Tuple,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: TcpFlags,
    /// As in the header: not scaled.
    pub(crate) window: u16,
    pub(crate) data_len: usize,
    header_len: usize,
}

/// The flag bits of a TCP header (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpFlags(u8);

impl TcpFlags {
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
    pub(crate) const fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }
    pub(crate) const fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }
    pub(crate) const fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }
    pub(crate) const fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
}

impl<'a> TcpSegment<'a> {
    #[inline]
    pub(crate) fn parse(packet: Packet<'a>) -> Result<Self, DropReason> {
        let payload = packet.payload();
        let header: &[u8; 20] = payload.first_chunk().ok_or(DropReason::MalformedTcp)?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let header_len = usize::from(header[12] >> 4) * 4;
        let (src_port, dst_port) = ports(header);
        if header_len < 20 || header_len > payload.len() || src_port == 0 || dst_port == 0 {
            return Err(DropReason::MalformedTcp);
        }
        Ok(Self {
            packet,
            tuple: Tuple {
                local: SocketAddr::new(packet.dst, dst_port),
                remote: SocketAddr::new(packet.src, src_port),
            },
            seq: word(4),
            ack: word(8),
            flags: TcpFlags::from_bits(header[13]),
            window: u16::from_be_bytes([header[14], header[15]]),
            data_len: payload.len() - header_len,
            header_len,
        })
    }

    /// Sequence space the segment takes: data, and one each for SYN and FIN.
    pub(crate) fn seq_len(&self) -> u32 {
        self.data_len as u32 + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }

    /// The maximum segment size option (RFC 9293 §3.7.1), if there is one.
    pub(crate) fn mss(&self) -> Option<u16> {
        match *self.option(2)? {
            [high, low] => Some(u16::from_be_bytes([high, low])),
            _ => None,
        }
    }

    /// The window scale option (RFC 7323 §2), if there is one.
    pub(crate) fn window_scale(&self) -> Option<u8> {
        match *self.option(3)? {
            [shift] => Some(shift.min(14)),
            _ => None,
        }
    }

    /// The data of the last option of this kind, which is the one that the engine goes by.
    fn option(&self, wanted: u8) -> Option<&'a [u8]> {
        let mut options = self.packet.payload().get(20..self.header_len)?;
        let mut found = None;
        loop {
            options = match *options {
                [1, ref rest @ ..] => rest,
                [kind, len, ..] if kind != 0 && len >= 2 => {
                    let Some((option, rest)) = options.split_at_checked(usize::from(len)) else {
                        return found;
                    };
                    if kind == wanted {
                        found = option.get(2..);
                    }
                    rest
                }
                _ => return found,
            };
        }
    }
}

/// A checked UDP datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UdpDatagram<'a> {
    pub(crate) packet: Packet<'a>,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    pub(crate) data: &'a [u8],
    /// The sender computed no checksum (IPv4 only, RFC 768).
    pub(crate) unsummed: bool,
}

impl<'a> UdpDatagram<'a> {
    pub(crate) fn parse(packet: Packet<'a>) -> Result<Self, DropReason> {
        let payload = packet.payload();
        let header: &[u8; 8] = payload.first_chunk().ok_or(DropReason::MalformedUdp)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let data = payload.get(8..len).ok_or(DropReason::MalformedUdp)?;
        let (src_port, dst_port) = ports(header);
        let unsummed = header[6] == 0 && header[7] == 0;
        if dst_port == 0 || (unsummed && packet.src.is_ipv6()) {
            return Err(DropReason::MalformedUdp);
        }
        Ok(Self { packet, src_port, dst_port, data, unsummed })
    }
}

/// Source and destination port of a TCP or UDP header.
pub(crate) fn transport_ports(payload: &[u8]) -> Option<(u16, u16)> {
    payload.first_chunk::<4>().map(|header| ports(header))
}

fn ports(header: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ip_header::write_ip_header;

    /// A TCP segment with `options` from 10.0.0.1:1000 to 10.0.0.2:80, and two bytes of padding.
    fn tcp_packet(options: &[u8]) -> Vec<u8> {
        let tcp_len = 20 + options.len() + 3;
        let mut bytes = vec![0; 20 + tcp_len + 2];
        let [src, dst] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        write_ip_header(&mut bytes[..20], src, dst, protocol::TCP, tcp_len, 64);
        let tcp = &mut bytes[20..];
        tcp[..4].copy_from_slice(&[3, 232, 0, 80]);
        tcp[4..8].copy_from_slice(&7_u32.to_be_bytes());
        tcp[12] = ((20 + options.len()) as u8 / 4) << 4;
        tcp[13] = 0x03;
        tcp[20..20 + options.len()].copy_from_slice(options);
        bytes
    }

    #[test]
    fn a_segment_is_what_the_lengths_say() {
        let bytes = tcp_packet(&[2, 4, 5, 180]);
        let segment = TcpSegment::parse(Packet::parse(&bytes).unwrap()).unwrap();
        assert_eq!(segment.packet.bytes.len(), bytes.len() - 2);
        assert_eq!((segment.seq, segment.data_len, segment.seq_len()), (7, 3, 5));
        assert_eq!(segment.tuple.remote, "10.0.0.1:1000".parse().unwrap());
        assert_eq!(segment.tuple.local, "10.0.0.2:80".parse().unwrap());
        assert_eq!(segment.mss(), Some(1460));
    }

    #[test]
    fn hostile_options_end_the_search() {
        for options in [[3, 0, 2, 4], [3, 1, 2, 4], [3, 200, 2, 4], [0, 2, 4, 9], [1, 1, 2, 4]] {
            let bytes = tcp_packet(&options);
            let segment = TcpSegment::parse(Packet::parse(&bytes).unwrap()).unwrap();
            assert_eq!(segment.mss(), None, "{options:?}");
        }
    }

    #[test]
    fn of_repeated_options_the_last_counts() {
        let options = [2, 4, 5, 180, 3, 3, 7, 3, 3, 2, 2, 4, 0, 99];
        let bytes = tcp_packet(&[&options[..], &[0, 0]].concat());
        let segment = TcpSegment::parse(Packet::parse(&bytes).unwrap()).unwrap();
        assert_eq!((segment.mss(), segment.window_scale()), (Some(99), Some(2)));
    }

    #[test]
    fn eight_extension_headers_are_followed_and_no_more() {
        for count in [7, 8, 9] {
            let mut bytes = vec![0; 40 + count * 8 + 2];
            bytes[0] = 0x60;
            bytes[5] = bytes.len() as u8 - 40;
            bytes[6] = protocol::DESTINATION_OPTIONS;
            for header in 0..count {
                let is_last = header + 1 == count;
                bytes[40 + header * 8] =
                    if is_last { protocol::UDP } else { protocol::DESTINATION_OPTIONS };
            }
            let payload_len = Packet::parse(&bytes).map(|packet| packet.payload().len());
            assert_eq!(payload_len.ok(), (count <= 8).then_some(2), "{count}");
        }
    }

    #[test]
    fn a_wrong_header_checksum_is_noticed() {
        let mut bytes = tcp_packet(&[]);
        bytes[8] ^= 1;
        assert_eq!(Packet::parse(&bytes).unwrap_err(), DropReason::IpChecksum);
    }

    #[test]
    fn every_cut_of_a_packet_is_refused() {
        let bytes = tcp_packet(&[]);
        for len in 0..bytes.len() - 2 {
            assert_eq!(Packet::parse(&bytes[..len]).unwrap_err(), DropReason::MalformedIp);
        }
    }

    proptest! {
        #[test]
        fn offsets_lie_inside_whatever_arrives(mut bytes: Vec<u8>, v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x0f | if v6 { 0x60 } else { 0x40 };
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.payload_at <= packet.bytes.len());
                prop_assert_eq!(packet.payload().len(), packet.bytes.len() - packet.payload_at);
                if let Ok(segment) = TcpSegment::parse(packet) {
                    prop_assert!(segment.data_len <= packet.payload().len() - 20);
                    let _ = segment.mss();
                }
                if let Ok(datagram) = UdpDatagram::parse(packet) {
                    prop_assert!(datagram.data.len() + 8 <= packet.payload().len());
                }
            }
        }
    }
}
