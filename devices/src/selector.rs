//! Which frames a stack wants.

use std::net::IpAddr;

use crate::VlanId;
use crate::packet_key::{ARP, Ethernet, has_ports};

/// Which received frames a stack, or a protocol on it, wants.
///
/// ```
/// use underpass_devices::Selector;
///
/// let mut frame = [0; 60];
/// frame[12..14].copy_from_slice(&[0x88, 0xb5]);
/// assert!(Selector::EtherType(0x88b5).matches(&frame));
/// assert!(!Selector::address([192, 0, 2, 1].into()).matches(&frame));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// Frames of this type: the two bytes behind the addresses, even if they are a length.
    EtherType(u16),
    /// Frames of this type behind exactly one 802.1Q tag with this VLAN, for those who are not on a VLAN
    /// as a whole ([`Selection::vlan`]).
    Tagged(VlanId, u16),
    /// IP packets, and questions about the link address of their destination.
    Ip(IpSelector),
}

/// IP packets; every given field must match what their [`PacketKey`](crate::PacketKey) says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IpSelector {
    /// Destination. `None`: any.
    ///
    /// With one, the questions and answers about its link address are selected too, whatever the
    /// other fields say: ARP packets of at least 28 bytes with this target protocol address (bytes 24
    /// to 27; no other field is looked at), and neighbour solicitations and advertisements (ICMPv6
    /// 135 and 136, RFC 4861 §4.3 and §4.4) with this target, behind extension headers and in first
    /// fragments as well.
    pub to: Option<IpAddr>,
    /// IP protocol. `None`: any.
    pub protocol: Option<u8>,
    /// Destination port; needs a `protocol` with ports: TCP (6), UDP (17), DCCP (33), SCTP (132) or
    /// UDP-Lite (136). No packet matches a port without one.
    pub port: Option<u16>,
}

/// Everything that is wanted of an interface: the frames of one VLAN that some selector matches. Without
/// a VLAN, [`Selector::Tagged`] matches frames of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The VLAN that the frames are tagged with. `None`: frames without a tag, or with a priority
    /// tag (VLAN 0), which is looked behind.
    pub vlan: Option<VlanId>,
    /// What is wanted of it.
    pub selectors: Vec<Selector>,
}

const ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const ID_MASK: u16 = 0x0fff;

impl Selector {
    /// Every packet to an address, and what finds out its link address.
    pub const fn address(ip: IpAddr) -> Self {
        Self::Ip(IpSelector { to: Some(ip), protocol: None, port: None })
    }

    /// Packets of an IP protocol.
    pub const fn ip_protocol(to: Option<IpAddr>, protocol: u8) -> Self {
        Self::Ip(IpSelector { to, protocol: Some(protocol), port: None })
    }

    /// UDP datagrams to a port.
    pub const fn udp_port(to: Option<IpAddr>, port: u16) -> Self {
        Self::Ip(IpSelector { to, protocol: Some(17), port: Some(port) })
    }

    /// TCP segments to a port.
    pub const fn tcp_port(to: Option<IpAddr>, port: u16) -> Self {
        Self::Ip(IpSelector { to, protocol: Some(6), port: Some(port) })
    }

    /// True if an Ethernet frame is wanted. What looks like an 802.1Q tag in it is not looked behind,
    /// but for [`Tagged`](Self::Tagged).
    pub fn matches(&self, frame: &[u8]) -> bool {
        match self {
            Self::Tagged(..) => {
                Ethernet::parse(frame).is_some_and(|frame| self.selects_tag(&frame))
            }
            _ => Ethernet::untagged(frame).is_some_and(|frame| self.selects(&frame)),
        }
    }

    fn selects(&self, frame: &Ethernet<'_>) -> bool {
        match self {
            Self::EtherType(ether_type) => frame.ether_type == *ether_type,
            Self::Tagged(..) => false,
            Self::Ip(selector) => selector.selects(frame),
        }
    }

    fn selects_tag(&self, frame: &Ethernet<'_>) -> bool {
        let Self::Tagged(vlan, ether_type) = self else { return false };
        frame.ether_type == *ether_type
            && frame.tag.is_some_and(|tag| tag & ID_MASK == vlan.number())
    }
}

impl Selection {
    /// True if an Ethernet frame is wanted. Exactly one 802.1Q tag (EtherType 0x8100) is looked behind:
    /// of two, the second is the type of the frame.
    pub fn matches(&self, frame: &[u8]) -> bool {
        let Some(frame) = Ethernet::parse(frame) else { return false };
        let vlan = frame.tag.map_or(0, |tag| tag & ID_MASK);
        let is_of_vlan = vlan == self.vlan.map_or(0, VlanId::number);
        self.selectors.iter().any(|selector| {
            (is_of_vlan && selector.selects(&frame))
                || (self.vlan.is_none() && selector.selects_tag(&frame))
        })
    }
}

impl IpSelector {
    fn selects(&self, frame: &Ethernet<'_>) -> bool {
        if frame.ether_type == ARP {
            let target = frame.payload.first_chunk::<28>();
            return target.is_some_and(|&[.., t0, t1, t2, t3]| {
                self.to == Some(IpAddr::from([t0, t1, t2, t3]))
            });
        }
        let Some(packet) = frame.packet() else { return false };
        let key = packet.key;
        let may_have_port = self.port.is_none() || self.protocol.is_some_and(has_ports);
        let is_packet = may_have_port
            && self.to.is_none_or(|to| to == key.destination)
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.port.is_none_or(|port| Some(port) == key.port);
        if is_packet {
            return true;
        }
        let is_question = key.destination.is_ipv6()
            && key.protocol == ICMPV6
            && matches!(
                packet.transport.first(),
                Some(&(NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT))
            );
        let target = packet.transport.get(8..).and_then(<[u8]>::first_chunk::<16>);
        is_question && target.is_some_and(|target| self.to == Some(IpAddr::from(*target)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TO: [u8; 4] = [10, 0, 0, 2];
    const TO_V6: [u8; 16] = [0xfe; 16];

    fn frame(types: &[u8], packet: &[&[u8]]) -> Vec<u8> {
        [&[2; 12][..], types, &packet.concat()].concat()
    }

    fn udp(types: &[u8], port: u8) -> Vec<u8> {
        let head = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1];
        frame(types, &[&head, &TO, &[1, 1, 0, port, 0, 8, 0, 0]])
    }

    fn icmpv6(to: [u8; 16], kind: u8, target: [u8; 16]) -> Vec<u8> {
        let head = [0x60, 0, 0, 0, 0, 24, ICMPV6, 255];
        frame(&[0x86, 0xdd], &[&head, &[0xfd; 16], &to, &[kind, 0, 0, 0, 0, 0, 0, 0], &target])
    }

    #[test]
    fn every_given_field_counts() {
        let wants = |to: Option<IpAddr>, protocol, port| {
            let selector = Selector::Ip(IpSelector { to, protocol, port });
            selector.matches(&udp(&[8, 0], 53))
        };
        let (to, other) = (Some(TO.into()), Some([10, 0, 0, 3].into()));
        assert!(wants(None, None, None) && wants(to, None, None) && wants(to, Some(17), None));
        assert!(wants(to, Some(17), Some(53)) && wants(None, Some(17), Some(53)));
        assert!(!wants(other, None, None) && !wants(other, Some(17), Some(53)));
        assert!(!wants(to, Some(6), None) && !wants(to, Some(17), Some(54)));
        assert!(!wants(to, None, Some(53)), "a port of no protocol");
        assert!(Selector::udp_port(None, 53).matches(&udp(&[8, 0], 53)));
        assert!(!Selector::tcp_port(None, 53).matches(&udp(&[8, 0], 53)));
    }

    #[test]
    fn questions_about_the_link_address() {
        let ours = Selector::address(TO.into());
        let arp = |target: &[u8]| frame(&[8, 6], &[&[0; 24], target]);
        assert!(ours.matches(&arp(&TO)));
        assert!(!ours.matches(&arp(&[10, 0, 0, 3])) && !ours.matches(&arp(&TO[..3])));
        assert!(!Selector::udp_port(None, 53).matches(&arp(&TO)), "of any address");
        assert!(Selector::udp_port(Some(TO.into()), 53).matches(&arp(&TO)));

        let ours = Selector::tcp_port(Some(TO_V6.into()), 80);
        let group = [0xff; 16];
        for kind in [NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT] {
            assert!(ours.matches(&icmpv6(group, kind, TO_V6)));
            assert!(!ours.matches(&icmpv6(group, kind, [0xfd; 16])));
            assert!(!ours.matches(&icmpv6(group, kind, TO_V6)[..14 + 40 + 23]));
        }
        assert!(!ours.matches(&icmpv6(group, 137, TO_V6)));
        assert!(!ours.matches(&icmpv6(TO_V6, 128, TO_V6)), "an echo request is no TCP");
    }

    #[test]
    fn frames_of_one_vlan() {
        let wants = |vlan: Option<u16>, types: &[u8]| {
            let selection = Selection {
                vlan: vlan.map(|id| VlanId::new(id).unwrap()),
                selectors: vec![Selector::EtherType(0x88b5), Selector::address(TO.into())],
            };
            selection.matches(&udp(types, 53))
        };
        assert!(wants(None, &[8, 0]) && wants(None, &[0x81, 0, 0xe0, 0, 8, 0]));
        assert!(!wants(None, &[0x81, 0, 0, 7, 8, 0]));
        assert!(wants(Some(7), &[0x81, 0, 0xe0, 7, 8, 0]));
        assert!(!wants(Some(7), &[8, 0]) && !wants(Some(7), &[0x81, 0, 0, 8, 8, 0]));
        assert!(!wants(Some(7), &[0x81, 0, 0, 7, 0x81, 0, 0, 7, 8, 0]));
        assert!(wants(Some(7), &[0x81, 0, 0, 7, 0x88, 0xb5]));
        assert!(!wants(Some(7), &[0x88, 0xa8, 0, 7, 8, 0]));
    }

    #[test]
    fn a_type_on_one_vlan_beside_frames_without() {
        let (seven, eight) = (VlanId::new(7).unwrap(), VlanId::new(8).unwrap());
        let wanted = Selector::Tagged(seven, 0x88b5);
        let tagged = |id, ether_type: [u8; 2]| {
            frame(&[&[0x81, 0, 0xe0, id][..], &ether_type].concat(), &[&[0; 40]])
        };
        assert!(wanted.matches(&tagged(7, [0x88, 0xb5])));
        assert!(!wanted.matches(&tagged(8, [0x88, 0xb5])));
        assert!(!wanted.matches(&tagged(7, [0x88, 0xb6])));
        assert!(!wanted.matches(&frame(&[0x88, 0xb5], &[&[0; 40]])));

        let selection = |vlan| Selection { vlan, selectors: vec![wanted] };
        assert!(selection(None).matches(&tagged(7, [0x88, 0xb5])));
        for vlan in [None, Some(seven), Some(eight)] {
            assert!(!selection(vlan).matches(&tagged(8, [0x88, 0xb5])));
        }
        let inner = frame(&[0x81, 0, 0, 7, 0x81, 0, 0, 7, 0x88, 0xb5], &[&[0; 40]]);
        assert!(!selection(Some(seven)).matches(&inner), "of two tags, the second is the type");
        assert!(!selection(Some(seven)).matches(&tagged(7, [0x88, 0xb5])));
    }

    #[test]
    fn nothing_is_wanted_by_default() {
        assert!(!Selection::default().matches(&udp(&[8, 0], 53)));
    }

    proptest! {
        #[test]
        fn a_selection_is_its_selectors_and_its_vlan(
            id in 0_u16..3, ether_type in prop::sample::select(vec![0x0800_u16, 0x0806, 0x86dd]),
            rest in prop::collection::vec(any::<u8>(), 0..90),
        ) {
            let inner = ether_type.to_be_bytes();
            let untagged = frame(&inner, &[&rest]);
            let tagged = frame(&[&[0x81, 0][..], &id.to_be_bytes(), &inner].concat(), &[&rest]);
            for selector in [
                Selector::EtherType(0x0806), Selector::Ip(IpSelector::default()),
                Selector::udp_port(None, 53), Selector::address(TO.into()),
            ] {
                let selection =
                    Selection { vlan: VlanId::new(id).ok(), selectors: vec![selector] };
                prop_assert_eq!(selection.matches(&tagged), selector.matches(&untagged));
            }
        }
    }
}
