//! Frames and selections that try every branch of who looks at headers.

use std::net::IpAddr;

use proptest::prelude::*;
use underpass_devices::{IpSelector, MacAddr, Selection, Selector, VlanId};

/// The address of a station that is not there.
pub(crate) const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 99]);

fn addresses(v6: bool) -> impl Strategy<Value = IpAddr> {
    let texts = if v6 {
        ["2001:db8::1", "2001:db8::2", "2001:db8:1::1", "ff02::1", "fe80::1"]
    } else {
        ["192.0.2.1", "192.0.2.2", "198.51.100.1", "224.0.0.1", "0.0.0.0"]
    };
    prop::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
}

pub(crate) fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![addresses(false), addresses(true)]
}

pub(crate) fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(6), Just(17), Just(1), Just(58), Just(132), Just(0), Just(51), any::<u8>()]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(53), Just(80), Just(0)]
}

fn v4_packet() -> impl Strategy<Value = Vec<u8>> {
    let fragment =
        prop_oneof![5 => Just(0_u16), 1 => Just(0x2000), 1 => Just(0x2003), 1 => Just(9)];
    let ihl = prop_oneof![6 => Just(5_u8), 1 => 0..16_u8];
    let ports = (any::<u16>(), port());
    (addresses(false), addresses(false), protocol(), fragment, ihl, ports).prop_map(
        |(src, dst, protocol, fragment, ihl, (sport, dport))| {
            let mut packet = vec![0x40 | ihl, 0, 0, 60, 0, 1];
            packet.extend(fragment.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            for address in [src, dst] {
                let IpAddr::V4(v4) = address else { unreachable!() };
                packet.extend(v4.octets());
            }
            packet.resize((usize::from(ihl) * 4).max(20), 0);
            packet.extend(sport.to_be_bytes());
            packet.extend(dport.to_be_bytes());
            packet.extend([0; 40]);
            packet
        },
    )
}

fn v6_packet() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![Just(0_u8), Just(43), Just(60), Just(44), Just(51)];
    let extensions = prop::collection::vec((extension, 0..3_u8, any::<bool>()), 0..6);
    let kind = prop_oneof![Just(135_u8), Just(136), Just(128)];
    (addresses(true), addresses(true), protocol(), extensions, (kind, port(), addresses(true)))
        .prop_map(|(src, dst, last, extensions, (kind, dport, target))| {
            let octets = |address| match address {
                IpAddr::V6(v6) => v6.octets(),
                IpAddr::V4(_) => unreachable!(),
            };
            let types: Vec<u8> =
                extensions.iter().map(|(kind, _, _)| *kind).chain([last]).collect();
            let mut packet = vec![0x60, 0, 0, 0, 0, 60, types[0], 64];
            packet.extend(octets(src));
            packet.extend(octets(dst));
            for (at, (kind, len, later)) in extensions.iter().enumerate() {
                let bytes = match kind {
                    44 => 8,
                    51 => (usize::from(*len) + 2) * 4,
                    _ => (usize::from(*len) + 1) * 8,
                };
                let start = packet.len();
                packet.resize(start + bytes, 0);
                packet[start] = types[at + 1];
                packet[start + 1] = if *kind == 44 { 0 } else { *len };
                if *kind == 44 && *later {
                    packet[start + 3] = 0x08;
                }
            }
            if last == 58 {
                packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
                packet.extend(octets(target));
            } else {
                packet.extend([1, 2]);
                packet.extend(dport.to_be_bytes());
            }
            packet.extend([0; 20]);
            packet
        })
}

fn arp_packet() -> impl Strategy<Value = Vec<u8>> {
    (addresses(false), any::<bool>()).prop_map(|(target, reply)| {
        let IpAddr::V4(target) = target else { unreachable!() };
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1 + u8::from(reply)];
        packet.extend([2; 16]);
        packet.extend(target.octets());
        packet
    })
}

/// A frame, without its first address: to the station (0), another one (1) or a group, tagged or not, cut somewhere or not.
pub(crate) fn frames() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let typed = |ether_type: u16| move |packet: Vec<u8>| (ether_type, packet);
    let packet = prop_oneof![
        4 => v4_packet().prop_map(typed(0x0800)),
        4 => v6_packet().prop_map(typed(0x86dd)),
        1 => arp_packet().prop_map(typed(0x0806)),
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(typed(0x88b5)),
        1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..100)),
    ];
    let tag = prop_oneof![
        4 => Just(None),
        1 => Just(Some(0_u16)),
        1 => Just(Some(0x6007)),
        1 => Just(Some(8))
    ];
    (0..3_u8, tag, packet, of_cut()).prop_map(|(to, tag, (ether_type, packet), cut)| {
        let mut frame = vec![0; 12];
        if let Some(tag) = tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        // There is no less than an Ethernet header.
        frame.truncate(cut.map_or(usize::MAX, |cut| 14 + cut.index(frame.len() - 13)));
        (to, frame)
    })
}

fn of_cut() -> impl Strategy<Value = Option<prop::sample::Index>> {
    prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)]
}

pub(crate) fn selections() -> impl Strategy<Value = Selection> {
    let ip =
        (prop::option::weighted(0.8, any_address()), prop::option::of((protocol(), port_of())))
            .prop_map(|(to, service)| {
                let (protocol, port) = service.map_or((None, None), |(p, port)| (Some(p), port));
                Selector::Ip(IpSelector { to, protocol, port })
            });
    let vlan = VlanId::new(7).unwrap();
    let selector = prop_oneof![
        6 => ip,
        1 => Just(Selector::EtherType(0x88b5)),
        1 => prop::sample::select(vec![0x88b5, 0x0800]).prop_map(move |t| Selector::Tagged(vlan, t)),
    ];
    let vlan = prop_oneof![3 => Just(None), 1 => Just(Some(VlanId::new(7).unwrap()))];
    (vlan, prop::collection::vec(selector, 0..5))
        .prop_map(|(vlan, selectors)| Selection { vlan, selectors })
}

pub(crate) fn port_of() -> impl Strategy<Value = Option<u16>> {
    prop::option::of(port())
}
