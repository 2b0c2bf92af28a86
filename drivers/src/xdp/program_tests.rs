//! The XDP program against what `Selection` and `RuleTable` say, frame by frame.

use std::cell::Cell;

use proptest::prelude::*;
use underpass_devices::{
    Action, Device, MacAddr, Medium, PacketKey, Rule, RuleMatch, RuleTable, Selection,
};

use super::{XdpConfig, XdpDevice};
use crate::frame_cases::{OTHER_MAC, any_address, frames, port_of, protocol, selections};
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
