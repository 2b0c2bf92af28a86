//! What the stack wants, as entries of the table that a kernel program or module looks frames up in.

use std::collections::HashMap;
use std::net::IpAddr;

use underpass_devices::{IpSelector, Selector, Service};

/// The entries for `selectors` and for `ether_types`; `only`, unless it is empty, says what of the
/// packets to a whole address is wanted.
pub(crate) fn of(
    selectors: &[Selector],
    only: &[Service],
    ether_types: &[u16],
) -> HashMap<Target, u32> {
    let mut targets = HashMap::new();
    for ether_type in ether_types {
        add_ether_type(&mut targets, 0, *ether_type);
    }
    for selector in selectors {
        match selector {
            Selector::EtherType(ether_type) => add_ether_type(&mut targets, 0, *ether_type),
            Selector::Tagged(vlan, ether_type) => {
                add_ether_type(&mut targets, vlan.number(), *ether_type);
            }
            Selector::Ip(ip) => add_ip(&mut targets, ip, only),
            _ => {}
        }
    }
    targets
}

/// A target selects packets.
pub(crate) const TARGET_PACKETS: u32 = 1 << 0;
/// A target selects questions and answers about a link address.
pub(crate) const TARGET_NEIGHBOR: u32 = 1 << 1;

/// `struct target`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct Target {
    /// An address, the big-endian VLAN of an EtherType, or zeroes.
    pub(crate) address: [u8; 16],
    /// Big-endian port or EtherType.
    pub(crate) port: [u8; 2],
    pub(crate) protocol: u8,
    pub(crate) kind: u8,
}

/// The families of addresses in a key.
pub(crate) const FAMILY_ANY: u8 = 0;
pub(crate) const FAMILY_IPV4: u8 = 4;
pub(crate) const FAMILY_IPV6: u8 = 6;
pub(crate) const FAMILY_ETHER_TYPE: u8 = 8;

/// Which fields of a key count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Neither protocol nor port.
    Whole,
    Protocol,
    /// Protocol and port.
    Port,
}

impl Shape {
    pub(crate) fn of(protocol: Option<u8>, port: Option<u16>) -> Self {
        match (protocol, port) {
            (None, _) => Self::Whole,
            (Some(_), None) => Self::Protocol,
            (Some(_), Some(_)) => Self::Port,
        }
    }

    /// The `kind` byte of a key.
    pub(crate) fn kind(self, family: u8) -> u8 {
        let shape = match self {
            Self::Whole => 0x10,
            Self::Protocol => 0x20,
            Self::Port => 0x30,
        };
        shape | family
    }
}

/// An address in the first bytes of sixteen, and its family.
pub(crate) fn address_bytes(ip: IpAddr) -> ([u8; 16], u8) {
    match ip {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, FAMILY_IPV4)
        }
        IpAddr::V6(v6) => (v6.octets(), FAMILY_IPV6),
    }
}

/// VLAN 0: that of the selection, or none.
fn add_ether_type(targets: &mut HashMap<Target, u32>, vlan: u16, ether_type: u16) {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&vlan.to_be_bytes());
    let port = ether_type.to_be_bytes();
    let target = Target { address, port, kind: FAMILY_ETHER_TYPE, ..Target::default() };
    targets.insert(target, TARGET_PACKETS);
}

fn add_ip(targets: &mut HashMap<Target, u32>, ip: &IpSelector, only: &[Service]) {
    if let Some(to) = ip.to {
        let neighbor = key(Some(to), None, None);
        *targets.entry(neighbor).or_default() |= TARGET_NEIGHBOR;
    }
    let is_station = ip.to.is_some_and(|to| !to.is_multicast());
    if ip.protocol.is_none() && is_station && !only.is_empty() {
        for Service { protocol, port } in only {
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
        let targets = of(&[Selector::address(ours())], &[], &[]);
        let expected = TARGET_PACKETS | TARGET_NEIGHBOR;
        assert_eq!(targets, HashMap::from([(key(Some(ours()), None, None), expected)]));
    }

    #[test]
    fn a_part_of_an_address_keeps_its_neighbours() {
        let only = ["tcp/80".parse().unwrap()];
        let group = IpAddr::from([224, 0, 0, 251]);
        let targets = of(&[Selector::address(ours()), Selector::address(group)], &only, &[]);
        let expected = HashMap::from([
            (key(Some(ours()), None, None), TARGET_NEIGHBOR),
            (key(Some(ours()), Some(TCP), Some(80)), TARGET_PACKETS),
            (key(Some(group), None, None), TARGET_PACKETS | TARGET_NEIGHBOR),
        ]);
        assert_eq!(targets, expected);
    }

    #[test]
    fn protocols_are_taken_beside_a_part_of_an_address() {
        let only = ["tcp/80".parse().unwrap()];
        let vlan = underpass_devices::VlanId::new(7).unwrap();
        let selectors = [
            Selector::address(ours()),
            Selector::ip_protocol(Some(ours()), 253),
            Selector::EtherType(0x88b5),
            Selector::Tagged(vlan, 0x88b5),
        ];
        let targets = of(&selectors, &only, &[]);
        assert_eq!(targets.get(&key(Some(ours()), Some(253), None)), Some(&TARGET_PACKETS));
        // The address's neighbours, its service, and three protocols.
        assert_eq!(targets.len(), 5);
    }

    #[test]
    fn what_is_for_any_address_has_keys_of_its_own() {
        let targets = of(&[Selector::udp_port(None, 68)], &[], &[0x88b5]);
        let mut kinds: Vec<u8> = targets.keys().map(|target| target.kind).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, [FAMILY_ETHER_TYPE, Shape::Port.kind(FAMILY_ANY)]);
    }
}
