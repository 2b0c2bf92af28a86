//! The XDP program against what `Selection` and `RuleTable` say, frame by frame.

use std::cell::Cell;
use std::net::IpAddr;

use proptest::prelude::*;
use underpass_devices::{
    Action, Device, IpSelector, MacAddr, Medium, PacketKey, Rule, RuleMatch, RuleTable, Selection,
    Selector, VlanId,
};

use super::{XdpConfig, XdpDevice};
use crate::lab::{Namespace, run_once, veth};

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

/// A device with its program, in namespaces of their own.
struct Bench {
    _namespaces: [Namespace; 2],
    device: XdpDevice,
}

impl Bench {
    fn new(config: &XdpConfig) -> Self {
        let (ours, theirs) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth((&ours, "ours"), (&theirs, "theirs")).unwrap();
        let device = ours.run(|| XdpDevice::open("ours", config)).unwrap();
        Self { _namespaces: [ours, theirs], device }
    }

    fn run(&self, frame: &[u8]) -> u32 {
        run_once(self.device.program.lock().unwrap().fd(), frame).unwrap()
    }

    fn set_rules(&self, rules: &[Rule]) -> RuleTable {
        let mut control = self.device.control().unwrap();
        for report in control.rules().unwrap() {
            control.remove(&report.rule.matches).unwrap();
        }
        let mut table = RuleTable::new(64);
        for rule in rules {
            control.insert(*rule).unwrap();
            table.insert(*rule).unwrap();
        }
        assert_eq!(control.rules().unwrap().len(), table.reports().len());
        table
    }
}

const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 99]);

fn addresses(v6: bool) -> impl Strategy<Value = IpAddr> {
    let texts = if v6 {
        ["2001:db8::1", "2001:db8::2", "2001:db8:1::1", "ff02::1", "fe80::1"]
    } else {
        ["192.0.2.1", "192.0.2.2", "198.51.100.1", "224.0.0.1", "0.0.0.0"]
    };
    prop::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![addresses(false), addresses(true)]
}

fn protocol() -> impl Strategy<Value = u8> {
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

/// A frame to the station (0), another one (1) or a group, tagged or not, cut somewhere or not.
fn frames() -> impl Strategy<Value = (u8, Vec<u8>)> {
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
        // The kernel runs no program on less than an Ethernet header.
        frame.truncate(cut.map_or(usize::MAX, |cut| 14 + cut.index(frame.len() - 13)));
        (to, frame)
    })
}

fn of_cut() -> impl Strategy<Value = Option<prop::sample::Index>> {
    prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)]
}

fn selections() -> impl Strategy<Value = Selection> {
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

fn port_of() -> impl Strategy<Value = Option<u16>> {
    prop::option::of(port())
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = prop_oneof![Just(Action::Deny), Just(Action::Allow)];
    let service = prop::option::of((protocol(), port_of()));
    let rule =
        (any_address(), 0..129_u8, service, action).prop_map(|(source, len, service, action)| {
            let len = len.min(if source.is_ipv4() { 32 } else { 128 });
            let source = ipnet::IpNet::new(source, len).unwrap();
            let (protocol, port) = service.map_or((None, None), |(p, port)| (Some(p), port));
            let matches = RuleMatch { source, protocol, port }.checked();
            matches.map(|matches| Rule { matches, action }).ok()
        });
    prop::collection::vec(rule, 0..6).prop_map(|rules| rules.into_iter().flatten().collect())
}

fn expected(frame: &[u8], own: MacAddr, selection: &Selection, rules: &RuleTable) -> u32 {
    let key = PacketKey::of_frame(Medium::Ethernet, frame);
    if key.and_then(|key| rules.find(&key)).is_some_and(|rule| rule.action == Action::Deny) {
        return DROP;
    }
    let for_us = frame[0] & 1 != 0 || frame[..6] == own.0;
    if for_us && selection.matches(frame) { REDIRECT } else { PASS }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_program_decides_as_software_does() {
    let bench = Bench::new(&XdpConfig::default());
    let own = bench.device.caps().mac;
    let config = ProptestConfig::with_cases(3000);
    let frames = prop::collection::vec(frames(), 1..24);
    let seen = [const { Cell::new(0_u32) }; 5];
    proptest!(config, |(selection in selections(), rules in rules(), frames in frames)| {
        bench.device.program.lock().unwrap().select(&selection).unwrap();
        let table = bench.set_rules(&rules);
        for (to, mut frame) in frames {
            frame[..6].copy_from_slice(&[own.0, OTHER_MAC.0, [0x33, 0x33, 0, 0, 0, 1]][usize::from(to)]);
            let verdict = bench.run(&frame);
            let expected = expected(&frame, own, &selection, &table);
            prop_assert_eq!(verdict, expected, "{:02x?}\n{:?}\n{:?}", frame, selection, rules);
            seen[verdict as usize].update(|n| n + 1);
        }
    });
    let seen = [DROP, PASS, REDIRECT].map(|verdict| seen[verdict as usize].get());
    assert!(seen.iter().all(|seen| *seen > 500), "dropped, passed, redirected: {seen:?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn with_an_address_of_its_own_the_station_gets_what_is_sent_there() {
    let mac = MacAddr::local(5);
    let config = XdpConfig { mac: Some(mac), ..XdpConfig::default() };
    let bench = Bench::new(&config);
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (to, verdict) in [(mac, REDIRECT), (OTHER_MAC, PASS), (MacAddr::BROADCAST, PASS)] {
        frame[..6].copy_from_slice(&to.0);
        assert_eq!(bench.run(&frame), verdict, "{to}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_source_may_send_its_rate_and_no_more() {
    let bench = Bench::new(&XdpConfig::default());
    let mut control = bench.device.control().unwrap();
    // One packet in 11 days, after a burst of five.
    let action = Action::Limit("1/5".parse().unwrap());
    control.insert(Rule { matches: "192.0.2.0/24,udp".parse().unwrap(), action }).unwrap();
    let datagram = |source: u8| {
        let mut frame = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
        frame.extend([192, 0, 2, source, 198, 51, 100, 1, 0, 9, 0, 9, 0, 8, 0, 0]);
        frame
    };
    for source in [1, 2] {
        let verdicts: Vec<_> = (0..8).map(|_| bench.run(&datagram(source))).collect();
        assert_eq!(verdicts, [PASS, PASS, PASS, PASS, PASS, DROP, DROP, DROP]);
    }
    let report = control.rules().unwrap()[0];
    assert_eq!((report.counts.pass.packets, report.counts.drop.packets), (10, 6));
    assert_eq!(report.counts.drop.bytes, 6 * 42);
    assert_eq!(control.totals().unwrap().drop.packets, 6);
    // Written again, everybody begins afresh.
    control.insert(report.rule).unwrap();
    assert_eq!(bench.run(&datagram(1)), PASS);
}
