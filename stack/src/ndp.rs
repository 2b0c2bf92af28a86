//! Neighbour discovery for IPv6 (RFC 4861): solicitations and advertisements of neighbours, as
//! whole IPv6 packets. Router advertisements are in
//! [`slaac`](crate::slaac); redirects are not taken.

use std::net::{IpAddr, Ipv6Addr};

use underpass_devices::MacAddr;

use crate::checksum;
use crate::neighbor::Source;

/// Length in bytes of every packet this module makes: IPv6 header, message, one option.
pub(crate) const NDP_PACKET_LEN: usize = 72;

/// A packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NdpPacket {
    /// Destination of the Ethernet header.
    pub(crate) dst: MacAddr,
    /// The IPv6 packet.
    pub(crate) packet: [u8; NDP_PACKET_LEN],
}

/// What a received message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NdpEvent {
    /// Hand this to the neighbour table.
    Learn(IpAddr, MacAddr, Source),
    /// The neighbour answers a probe of ours without repeating its MAC address.
    Confirm(IpAddr),
    /// Somebody asks for us: answer, and hand `learn` to the neighbour table.
    Answer { reply: NdpPacket, learn: Option<(IpAddr, MacAddr, Source)> },
    /// Another station advertises this address of ours.
    Conflict(Ipv6Addr),
    /// Well-formed, and not about us: a solicitation for another node, a router message, a redirect.
    Ignored,
    /// Fails the checks of RFC 4861 §7.1: hop limit, checksum, lengths, addresses.
    Malformed,
}

const ICMPV6: u8 = 58;
const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// True if an ICMPv6 message of this type belongs here: 133 (router solicitation) to 137 (redirect).
pub(crate) fn is_ndp(icmp_type: u8) -> bool {
    (133..=137).contains(&icmp_type)
}

/// Judges a whole IPv6 packet whose next header is ICMPv6 without extension headers in between
/// (RFC 6980 forbids fragments), and whose type [`is_ndp`]. `link_src` is the source of its Ethernet
/// header, `is_ours` says whether an address belongs to this interface.
pub(crate) fn receive(
    packet: &[u8],
    link_src: MacAddr,
    our_mac: MacAddr,
    is_ours: impl Fn(Ipv6Addr) -> bool,
) -> NdpEvent {
    let Some(message) = Message::parse(packet) else {
        return NdpEvent::Malformed;
    };
    match message.kind {
        SOLICITATION => solicited(&message, link_src, our_mac, is_ours),
        ADVERTISEMENT => advertised(&message, is_ours),
        _ => NdpEvent::Ignored,
    }
}

/// Asks for `target`: its solicited-node group, or with `unicast` the station that had it last.
pub(crate) fn solicit(
    our_mac: MacAddr,
    our_ip: Ipv6Addr,
    target: Ipv6Addr,
    unicast: Option<MacAddr>,
) -> NdpPacket {
    let group = solicited_node(target);
    let (dst_ip, dst) = match unicast {
        Some(mac) => (target, mac),
        None => (group, multicast_mac(group)),
    };
    let option = (SOURCE_LINK_ADDRESS, our_mac);
    NdpPacket { dst, packet: emit(our_ip, dst_ip, SOLICITATION, 0, target, option) }
}

/// The address whose owner an advertisement names, or that another station is about to take
/// (RFC 4862 §5.4.3, §5.4.4). `None`: the packet is neither.
pub(crate) fn claimed(packet: &[u8]) -> Option<Ipv6Addr> {
    let message = Message::parse(packet)?;
    let claims = match message.kind {
        ADVERTISEMENT => true,
        SOLICITATION => message.src.is_unspecified(),
        _ => false,
    };
    claims.then_some(message.target)
}

/// Asks, as nobody, whether somebody has `target` (RFC 4862 §5.4.2): where to, and the packet.
pub(crate) fn probe(target: Ipv6Addr) -> (MacAddr, [u8; 64]) {
    let group = solicited_node(target);
    let mut packet = [0; 64];
    packet[40] = SOLICITATION;
    packet[48..64].copy_from_slice(&target.octets());
    finish(&mut packet, Ipv6Addr::UNSPECIFIED, group);
    (multicast_mac(group), packet)
}

/// The group of all routers on a link (RFC 4291 §2.7.1).
pub(crate) fn all_routers() -> Ipv6Addr {
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2)
}

/// Asks routers to advertise themselves (RFC 4861 §4.1): where to, and the packet. A station without
/// an address yet does not tell its MAC.
pub(crate) fn solicit_routers(our_mac: MacAddr, source: Ipv6Addr) -> (MacAddr, Vec<u8>) {
    let mut packet = vec![0; 48];
    packet[40] = ROUTER_SOLICITATION;
    if !source.is_unspecified() {
        packet.extend_from_slice(&[SOURCE_LINK_ADDRESS, 1]);
        packet.extend_from_slice(&our_mac.0);
    }
    finish(&mut packet, source, all_routers());
    (multicast_mac(all_routers()), packet)
}

/// The solicited-node group of an address, ff02::1:ffXX:XXXX (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet group of an IPv6 multicast address, 33:33:XX:XX:XX:XX (RFC 2464 §7).
pub(crate) fn multicast_mac(ip: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = ip.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// RFC 4861 §7.2.3 and §7.2.4.
fn solicited(
    message: &Message,
    link_src: MacAddr,
    our_mac: MacAddr,
    is_ours: impl Fn(Ipv6Addr) -> bool,
) -> NdpEvent {
    let &Message { src, dst, target, source_link, .. } = message;
    if src.is_unspecified() && (dst != solicited_node(target) || source_link.is_some()) {
        return NdpEvent::Malformed;
    }
    if !is_ours(target) || is_ours(src) {
        return NdpEvent::Ignored;
    }
    if src.is_unspecified() {
        // Duplicate address detection: everybody hears that the address is taken.
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let dst = multicast_mac(all_nodes);
        let packet = advertisement(our_mac, target, all_nodes, OVERRIDE);
        return NdpEvent::Answer { reply: NdpPacket { dst, packet }, learn: None };
    }
    let learn = source_link.map(|mac| (IpAddr::V6(src), mac, Source::Request));
    let dst = source_link.unwrap_or(link_src);
    let packet = advertisement(our_mac, target, src, SOLICITED | OVERRIDE);
    NdpEvent::Answer { reply: NdpPacket { dst, packet }, learn }
}

/// RFC 4861 §7.1.2 and §7.2.5.
fn advertised(message: &Message, is_ours: impl Fn(Ipv6Addr) -> bool) -> NdpEvent {
    let &Message { target, flags, .. } = message;
    let solicited = flags & SOLICITED != 0;
    if solicited && message.dst.is_multicast() {
        return NdpEvent::Malformed;
    }
    if is_ours(target) {
        return NdpEvent::Conflict(target);
    }
    match message.target_link {
        Some(mac) => {
            let source = Source::Advertisement { solicited, overrides: flags & OVERRIDE != 0 };
            NdpEvent::Learn(IpAddr::V6(target), mac, source)
        }
        None if solicited => NdpEvent::Confirm(IpAddr::V6(target)),
        None => NdpEvent::Ignored,
    }
}

/// A message whose header is right.
pub(crate) struct Checked<'a> {
    pub(crate) src: Ipv6Addr,
    dst: Ipv6Addr,
    /// The ICMPv6 message, at least 4 bytes.
    pub(crate) body: &'a [u8],
}

/// The checks common to all messages (RFC 4861 §6.1, §7.1).
pub(crate) fn check(packet: &[u8]) -> Option<Checked<'_>> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let (next_header, hop_limit) = (header[6], header[7]);
    let body = rest.get(..length)?;
    let src = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    let dst = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
    if header[0] >> 4 != 6 || next_header != ICMPV6 || hop_limit != 255 || src.is_multicast() {
        return None;
    }
    let (&[_, code, ..], _) = body.split_first_chunk::<4>()?;
    if code != 0 || !checksum::verify_transport(src.into(), dst.into(), ICMPV6, body) {
        return None;
    }
    Some(Checked { src, dst, body })
}

struct Message {
    src: Ipv6Addr,
    dst: Ipv6Addr,
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    source_link: Option<MacAddr>,
    target_link: Option<MacAddr>,
}

impl Message {
    /// The checks common to RFC 4861 §7.1.1 and §7.1.2. Of other messages only `kind` is read.
    fn parse(packet: &[u8]) -> Option<Self> {
        let Checked { src, dst, body } = check(packet)?;
        let kind = *body.first()?;
        let mut message = Self {
            src,
            dst,
            kind,
            flags: 0,
            target: Ipv6Addr::UNSPECIFIED,
            source_link: None,
            target_link: None,
        };
        if matches!(kind, SOLICITATION | ADVERTISEMENT) {
            let (fixed, options) = body.split_first_chunk::<24>()?;
            message.flags = fixed[4];
            message.target = Ipv6Addr::from(*fixed[8..].first_chunk::<16>()?);
            if message.target.is_multicast() || message.target.is_unspecified() {
                return None;
            }
            message.parse_options(options)?;
        }
        Some(message)
    }

    fn parse_options(&mut self, mut options: &[u8]) -> Option<()> {
        while let Some((&[kind, units], _)) = options.split_first_chunk::<2>() {
            // A length of zero would never end; RFC 4861 §4.6 drops the packet.
            let option = options.get(..usize::from(units) * 8).filter(|o| !o.is_empty())?;
            options = &options[option.len()..];
            let address = || option.get(2..8)?.first_chunk::<6>().copied().map(MacAddr);
            match kind {
                SOURCE_LINK_ADDRESS => self.source_link = address(),
                TARGET_LINK_ADDRESS => self.target_link = address(),
                _ => {}
            }
        }
        options.is_empty().then_some(())
    }
}

fn advertisement(
    our_mac: MacAddr,
    target: Ipv6Addr,
    dst: Ipv6Addr,
    flags: u8,
) -> [u8; NDP_PACKET_LEN] {
    emit(target, dst, ADVERTISEMENT, flags, target, (TARGET_LINK_ADDRESS, our_mac))
}

fn emit(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    (option, mac): (u8, MacAddr),
) -> [u8; NDP_PACKET_LEN] {
    let mut packet = [0; NDP_PACKET_LEN];
    packet[40] = kind;
    packet[44] = flags;
    packet[48..64].copy_from_slice(&target.octets());
    packet[64] = option;
    packet[65] = 1;
    packet[66..72].copy_from_slice(&mac.0);
    finish(&mut packet, src, dst);
    packet
}

/// Writes the IPv6 header and the checksum of a packet whose message is there.
fn finish(packet: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) {
    let len = packet.len() - 40;
    packet[0] = 0x60;
    packet[5] = len as u8;
    packet[6] = ICMPV6;
    packet[7] = 255;
    packet[8..24].copy_from_slice(&src.octets());
    packet[24..40].copy_from_slice(&dst.octets());
    let checksum = checksum::transport(src.into(), dst.into(), ICMPV6, &packet[40..]);
    packet[42..44].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{Icmpv6Packet, Ipv6Packet, Ipv6Repr};

    use super::*;

    const US: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x12, 0x3456);
    const THEM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const SOLICITED_ANSWER: Source = Source::Advertisement { solicited: true, overrides: true };

    fn receive_as_us(packet: &[u8]) -> NdpEvent {
        receive(packet, THEIR_MAC, OUR_MAC, |ip| ip == US)
    }

    fn receive_as_them(packet: &[u8]) -> NdpEvent {
        receive(packet, OUR_MAC, THEIR_MAC, |ip| ip == THEM)
    }

    /// Sets the checksum right again after a change.
    fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
        packet[5] = (packet.len() - 40) as u8;
        packet[42..44].fill(0);
        let src = Ipv6Addr::from(*packet[8..].first_chunk::<16>().unwrap());
        let dst = Ipv6Addr::from(*packet[24..].first_chunk::<16>().unwrap());
        let sum = checksum::transport(src.into(), dst.into(), ICMPV6, &packet[40..]);
        packet[42..44].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    #[test]
    fn groups() {
        let ip: Ipv6Addr = "2001:db8::1:2:abcd:ef01".parse().unwrap();
        assert_eq!(solicited_node(ip), "ff02::1:ffcd:ef01".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac(solicited_node(ip)), MacAddr([0x33, 0x33, 0xff, 0xcd, 0xef, 1]));
    }

    #[test]
    fn question_and_answer() {
        let question = solicit(THEIR_MAC, THEM, US, None);
        assert_eq!(question.dst, MacAddr([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
        let NdpEvent::Answer { reply, learn } = receive_as_us(&question.packet) else {
            panic!("no answer");
        };
        assert_eq!(learn, Some((IpAddr::V6(THEM), THEIR_MAC, Source::Request)));
        assert_eq!(reply.dst, THEIR_MAC);
        assert_eq!(
            receive_as_them(&reply.packet),
            NdpEvent::Learn(IpAddr::V6(US), OUR_MAC, SOLICITED_ANSWER)
        );
        let probe = solicit(OUR_MAC, US, THEM, Some(THEIR_MAC));
        assert_eq!((probe.dst, &probe.packet[24..40]), (THEIR_MAC, &THEM.octets()[..]));
    }

    #[test]
    fn smoltcp_accepts_headers_and_checksum_of_what_we_send() {
        for packet in [
            solicit(OUR_MAC, US, THEM, None).packet,
            advertisement(OUR_MAC, US, THEM, SOLICITED | OVERRIDE),
        ] {
            let ip = Ipv6Packet::new_checked(&packet[..]).unwrap();
            let header = Ipv6Repr::parse(&ip).unwrap();
            assert_eq!((header.hop_limit, header.payload_len), (255, 32));
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
        }
    }

    #[test]
    fn duplicate_address_detection_is_answered_to_all_nodes() {
        let mut packet = solicit(THEIR_MAC, Ipv6Addr::UNSPECIFIED, US, None).packet.to_vec();
        assert_eq!(receive_as_us(&packet), NdpEvent::Malformed, "with a source address option");
        packet.truncate(64);
        let NdpEvent::Answer { reply, learn: None } = receive_as_us(&sealed(packet)) else {
            panic!("no answer");
        };
        assert_eq!(reply.dst, MacAddr([0x33, 0x33, 0, 0, 0, 1]));
        assert_eq!(
            receive_as_them(&reply.packet),
            NdpEvent::Learn(
                IpAddr::V6(US),
                OUR_MAC,
                Source::Advertisement { solicited: false, overrides: true }
            )
        );
    }

    #[test]
    fn an_answer_without_option_confirms() {
        let mut packet = advertisement(THEIR_MAC, THEM, US, SOLICITED).to_vec();
        packet.truncate(64);
        assert_eq!(receive_as_us(&sealed(packet)), NdpEvent::Confirm(IpAddr::V6(THEM)));
    }

    #[test]
    fn a_claim_to_our_address_is_a_conflict() {
        let claim = advertisement(THEIR_MAC, US, THEM, OVERRIDE);
        assert_eq!(receive_as_us(&claim), NdpEvent::Conflict(US));
    }

    #[test]
    fn a_question_without_option_is_answered_to_its_sender() {
        let mut packet = solicit(THEIR_MAC, THEM, US, Some(OUR_MAC)).packet.to_vec();
        packet.truncate(64);
        let NdpEvent::Answer { reply, learn: None } = receive_as_us(&sealed(packet)) else {
            panic!("no answer");
        };
        assert_eq!(reply.dst, THEIR_MAC);
    }

    #[test]
    fn not_for_us() {
        let other = solicit(THEIR_MAC, THEM, "fe80::77".parse().unwrap(), None);
        assert_eq!(receive_as_us(&other.packet), NdpEvent::Ignored);
        for kind in [133, 134, 137] {
            let mut packet = other.packet.to_vec();
            packet[40] = kind;
            assert_eq!(receive_as_us(&sealed(packet)), NdpEvent::Ignored);
        }
    }

    #[test]
    fn hostile_packets_are_malformed() {
        let good = solicit(THEIR_MAC, THEM, US, None).packet.to_vec();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = good.clone();
            change(&mut packet);
            receive_as_us(&sealed(packet))
        };
        assert!(matches!(with(&|_| ()), NdpEvent::Answer { .. }));
        assert_eq!(with(&|p| p[7] = 254), NdpEvent::Malformed, "came through a router");
        assert_eq!(with(&|p| p[65] = 0), NdpEvent::Malformed, "option of length zero");
        assert_eq!(with(&|p| p[65] = 2), NdpEvent::Malformed, "option longer than the packet");
        assert_eq!(with(&|p| p.push(1)), NdpEvent::Malformed, "half an option");
        assert_eq!(with(&|p| p[41] = 1), NdpEvent::Malformed, "code");
        assert_eq!(with(&|p| p[48] = 0xff), NdpEvent::Malformed, "multicast target");
        assert_eq!(with(&|p| p[8] = 0xff), NdpEvent::Malformed, "multicast source");
        assert_eq!(with(&|p| p.truncate(60)), NdpEvent::Malformed, "short");
        let mut wrong = good.clone();
        wrong[42] ^= 1;
        assert_eq!(receive_as_us(&wrong), NdpEvent::Malformed, "checksum");
        for len in 0..good.len() {
            assert_eq!(receive_as_us(&good[..len]), NdpEvent::Malformed);
        }
        let mut group = advertisement(THEIR_MAC, THEM, US, SOLICITED).to_vec();
        group[24] = 0xff;
        assert_eq!(receive_as_us(&sealed(group)), NdpEvent::Malformed, "solicited to a group");
    }

    proptest! {
        #[test]
        fn any_options_are_judged(
            tail in proptest::collection::vec(any::<u8>(), 0..64),
            kind in 130_u8..140,
            flags: u8,
        ) {
            let mut packet = solicit(THEIR_MAC, THEM, US, None).packet.to_vec();
            packet.truncate(64);
            packet[40] = kind;
            packet[44] = flags;
            packet.extend(tail);
            receive_as_us(&sealed(packet));
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            receive_as_us(&bytes);
        }
    }
}
