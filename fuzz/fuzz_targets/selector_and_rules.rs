//! Selectors and filter rules on any frame: the table finds what looking at every rule finds, and a
//! selection what its selectors say one by one.

#![no_main]

use std::net::IpAddr;

use arbitrary::Arbitrary;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use underpass_devices::{
    Action, FrameSummary, IpSelector, Medium, PacketKey, Rule, RuleMatch, RuleTable, Selection,
    Selector, VlanId,
};

#[derive(Arbitrary, Debug)]
struct Input {
    rules: Vec<Change>,
    selectors: Vec<Wanted>,
    vlan: Option<u16>,
    text: String,
    frame: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Change {
    remove: bool,
    source: IpAddr,
    /// Take the source of the frame.
    of_frame: bool,
    prefix: u8,
    protocol: Option<u8>,
    port: Option<u16>,
    deny: bool,
}

#[derive(Arbitrary, Debug)]
enum Wanted {
    EtherType(u16),
    Ip(Option<IpAddr>, Option<u8>, Option<u16>),
}

const LIMIT: usize = 12;

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// The rule that counts, found by looking at all of them.
fn naive(rules: &[Rule], key: &PacketKey) -> Option<Rule> {
    let matching = rules.iter().filter(|rule| {
        let RuleMatch { source, protocol, port } = rule.matches;
        source.contains(&key.source)
            && protocol.is_none_or(|protocol| protocol == key.protocol)
            && port.is_none_or(|port| Some(port) == key.port)
    });
    let best = matching.max_by_key(|rule| {
        let RuleMatch { source, protocol, port } = rule.matches;
        (source.prefix_len(), port.is_some(), protocol.is_some())
    });
    best.copied()
}

fn rules(input: &Input, keys: &[PacketKey]) {
    let mut table = RuleTable::new(LIMIT);
    let mut rules: Vec<Rule> = Vec::new();
    for change in &input.rules {
        let ip = keys.first().filter(|_| change.of_frame).map_or(change.source, |key| key.source);
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let source = IpNet::new(ip, change.prefix % (longest + 1)).unwrap();
        let matches = RuleMatch { source, protocol: change.protocol, port: change.port };
        let is_rule = change.port.is_none() || change.protocol.is_some_and(has_ports);
        assert_eq!(matches.checked().is_ok(), is_rule);
        let matches = RuleMatch { source: source.trunc(), ..matches };
        let at = rules.iter().position(|rule| rule.matches == matches);
        if change.remove {
            assert_eq!(table.remove(&matches).is_some(), at.is_some());
            at.map(|at| rules.remove(at));
        } else {
            let action = if change.deny { Action::Deny } else { Action::Allow };
            let taken = is_rule && (at.is_some() || rules.len() < LIMIT);
            assert_eq!(table.insert(Rule { matches, action }).is_ok(), taken);
            match at {
                Some(at) => rules[at].action = action,
                None if taken => rules.push(Rule { matches, action }),
                None => {}
            }
        }
        assert_eq!(table.len(), rules.len());
        for key in keys {
            assert_eq!(table.find(key), naive(&rules, key), "{key:?} in {rules:?}");
        }
    }
}

fn selection(input: &Input) {
    let selectors: Vec<Selector> = input
        .selectors
        .iter()
        .map(|wanted| match *wanted {
            Wanted::EtherType(ether_type) => Selector::EtherType(ether_type),
            Wanted::Ip(to, protocol, port) => Selector::Ip(IpSelector { to, protocol, port }),
        })
        .collect();
    let frame = &input.frame;
    let vlan = input.vlan.and_then(|id| VlanId::new(id).ok());
    let selection = Selection { vlan, selectors: selectors.clone() };
    // The frame without its tag, as a device that takes tags out would hand it on.
    let id = match frame.get(12..18) {
        Some(&[0x81, 0, high, low, ..]) => Some(u16::from_be_bytes([high & 0x0f, low])),
        _ => None,
    };
    let too_short = id.is_none() && frame.get(12..14) == Some(&[0x81, 0]);
    let untagged = match id {
        Some(_) => [&frame[..12], &frame[16..]].concat(),
        None => frame.clone(),
    };
    let of_vlan = id.unwrap_or(0) == vlan.map_or(0, VlanId::number) && !too_short;
    let expected = of_vlan && selectors.iter().any(|selector| selector.matches(&untagged));
    assert_eq!(selection.matches(frame), expected, "{selection:?}");
    let key = PacketKey::of_frame(Medium::Ethernet, &untagged);
    if let Some(key) = key {
        assert!(Selector::address(key.destination).matches(&untagged));
        assert!(Selector::Ip(IpSelector::default()).matches(&untagged));
    }
}

fuzz_target!(|input: Input| {
    let frame = &input.frame;
    let keys: Vec<PacketKey> = [Medium::Ethernet, Medium::Ip]
        .iter()
        .filter_map(|medium| PacketKey::of_frame(*medium, frame))
        .collect();
    for key in &keys {
        assert_eq!(key.source.is_ipv4(), key.destination.is_ipv4());
        assert!(key.port.is_none() || has_ports(key.protocol));
    }
    rules(&input, &keys);
    selection(&input);
    if let Ok(matches) = input.text.parse::<RuleMatch>() {
        assert_eq!(matches.to_string().parse(), Ok(matches));
    }
    for medium in [Medium::Ethernet, Medium::Ip] {
        let _ = FrameSummary::new(medium, frame).to_string();
    }
});
