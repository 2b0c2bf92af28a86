//! What the stack wants, as entries of the map that the XDP program looks frames up in.

use std::collections::HashMap;
use std::net::IpAddr;

use underpass_devices::{IpSelector, Selector, Service};

use super::XdpConfig;
use super::maps::{
    FAMILY_ANY, FAMILY_ETHER_TYPE, Shape, TARGET_NEIGHBOR, TARGET_PACKETS, Target, address_bytes,
    has_bit,
};

/// The entries for `selectors`, of whose whole addresses [`XdpConfig::only`] leaves a part.
pub(super) fn of(selectors: &[Selector], config: &XdpConfig) -> HashMap<Target, u32> {
    let mut targets = HashMap::new();
    for ether_type in &config.ether_types {
        add_ether_type(&mut targets, 0, *ether_type);
    }
    for selector in selectors {
        match selector {
            Selector::EtherType(ether_type) => add_ether_type(&mut targets, 0, *ether_type),
            Selector::Tagged(vlan, ether_type) => {
                add_ether_type(&mut targets, vlan.number(), *ether_type);
            }
            Selector::Ip(ip) => add_ip(&mut targets, ip, config),
            _ => {}
        }
    }
    targets
}

/// The `HAS_` bits of what is in there.
pub(super) fn kinds(targets: &HashMap<Target, u32>) -> u32 {
    targets.keys().fold(0, |kinds, target| kinds | has_bit(target.kind))
}

/// VLAN 0: that of the selection, or none.
fn add_ether_type(targets: &mut HashMap<Target, u32>, vlan: u16, ether_type: u16) {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&vlan.to_be_bytes());
    let port = ether_type.to_be_bytes();
    let target = Target { address, port, kind: FAMILY_ETHER_TYPE, ..Target::default() };
    targets.insert(target, TARGET_PACKETS);
}

fn add_ip(targets: &mut HashMap<Target, u32>, ip: &IpSelector, config: &XdpConfig) {
    if let Some(to) = ip.to {
        let neighbor = key(Some(to), None, None);
        *targets.entry(neighbor).or_default() |= TARGET_NEIGHBOR;
    }
    let is_station = ip.to.is_some_and(|to| !to.is_multicast());
    if ip.protocol.is_none() && is_station && !config.only.is_empty() {
        for Service { protocol, port } in &config.only {
            *targets.entry(key(ip.to, Some(*protocol), *port)).or_default() |= TARGET_PACKETS;
        }
    } else if ip.protocol.is_some() || ip.port.is_none() {
        *targets.entry(key(ip.to, ip.protocol, ip.port)).or_default() |= TARGET_PACKETS;
    }
}

fn key(to: Option<IpAddr>, protocol: Option<u8>, port: Option<u16>) -> Target {
    let (address, family) = to.map_or(([0; 16], FAMILY_ANY), address_bytes);
    Target {
        address,
        port: port.unwrap_or_default().to_be_bytes(),
        protocol: protocol.unwrap_or_default(),
        kind: Shape::of(protocol, port).kind(family),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;

    fn ours() -> IpAddr {
        [192, 0, 2, 1].into()
    }

    #[test]
    fn a_whole_address_is_one_entry() {
        let targets = of(&[Selector::address(ours())], &XdpConfig::default());
        let expected = TARGET_PACKETS | TARGET_NEIGHBOR;
        assert_eq!(targets, HashMap::from([(key(Some(ours()), None, None), expected)]));
        assert_eq!(kinds(&targets), 1);
    }

    #[test]
    fn a_part_of_an_address_keeps_its_neighbours() {
        let config = XdpConfig { only: vec!["tcp/80".parse().unwrap()], ..XdpConfig::default() };
        let group = IpAddr::from([224, 0, 0, 251]);
        let targets = of(&[Selector::address(ours()), Selector::address(group)], &config);
        let expected = HashMap::from([
            (key(Some(ours()), None, None), TARGET_NEIGHBOR),
            (key(Some(ours()), Some(TCP), Some(80)), TARGET_PACKETS),
            (key(Some(group), None, None), TARGET_PACKETS | TARGET_NEIGHBOR),
        ]);
        assert_eq!(targets, expected);
    }

    #[test]
    fn protocols_are_taken_beside_a_part_of_an_address() {
        let config = XdpConfig { only: vec!["tcp/80".parse().unwrap()], ..XdpConfig::default() };
        let vlan = underpass_devices::VlanId::new(7).unwrap();
        let selectors = [
            Selector::address(ours()),
            Selector::ip_protocol(Some(ours()), 253),
            Selector::EtherType(0x88b5),
            Selector::Tagged(vlan, 0x88b5),
        ];
        let targets = of(&selectors, &config);
        assert_eq!(targets.get(&key(Some(ours()), Some(253), None)), Some(&TARGET_PACKETS));
        // The address's neighbours, its service, and three protocols.
        assert_eq!(targets.len(), 5);
    }

    #[test]
    fn what_is_for_any_address_has_keys_of_its_own() {
        let config = XdpConfig { ether_types: vec![0x88b5], ..XdpConfig::default() };
        let targets = of(&[Selector::udp_port(None, 68)], &config);
        assert_eq!(targets.len(), 2);
        assert_eq!(kinds(&targets), 1 << 6 | 1 << 5);
    }
}
