//! Own addresses, and the next hop towards others.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The addresses and static routes of one interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    addresses: Vec<IpNet>,
    gateways: Vec<IpAddr>,
}

impl Routes {
    pub(crate) fn new(addresses: Vec<IpNet>, gateways: Vec<IpAddr>) -> Self {
        Self { addresses, gateways }
    }

    pub(crate) fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }

    /// The limited broadcast address, or that of a network of ours (RFC 919, RFC 922).
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(v4) = address else {
            return false;
        };
        v4.is_broadcast()
            || self.addresses.iter().any(|net| {
                matches!(net, IpNet::V4(net) if net.prefix_len() < 31 && net.broadcast() == v4)
            })
    }

    /// A packet from here can be answered: a unicast address of somebody else.
    pub(crate) fn is_peer(&self, address: IpAddr) -> bool {
        !address.is_multicast()
            && !address.is_unspecified()
            && !address.is_loopback()
            && !self.is_broadcast(address)
            && !self.is_own(address)
    }

    /// The neighbour a packet to `dst` is handed to: `dst` itself on a connected network, else the
    /// gateway of its IP version. `None`: there is no route.
    pub(crate) fn next_hop(&self, dst: IpAddr) -> Option<IpAddr> {
        let on_link = self.addresses.iter().any(|net| net.contains(&dst))
            || matches!(dst, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if on_link {
            return Some(dst);
        }
        self.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == dst.is_ipv4())
    }

    /// The own address to talk to `dst` from: one on the network of the next hop, else the first of
    /// the same version and scope (RFC 6724 rules 2 and 8, for one interface).
    pub(crate) fn source_for(&self, dst: IpAddr) -> Option<IpAddr> {
        let hop = self.next_hop(dst)?;
        let link_local = is_link_local(dst);
        let mut candidates = self
            .addresses
            .iter()
            .filter(|net| net.addr().is_ipv4() == dst.is_ipv4())
            .filter(|net| dst.is_ipv4() || is_link_local(net.addr()) == link_local);
        candidates
            .clone()
            .find(|net| net.contains(&hop))
            .or_else(|| candidates.next())
            .map(IpNet::addr)
    }
}

/// The link-local address of an interface identifier made from a MAC (RFC 4291 appendix A).
pub(crate) fn link_local(mac: underpass_devices::MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::new(
            ["10.0.0.2/24", "10.1.0.2/16", "fd00::2/64", "fe80::2/64"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn next_hop_is_the_neighbour_on_link_and_the_gateway_beyond() {
        let routes = routes();
        assert_eq!(routes.next_hop(ip("10.1.9.9")), Some(ip("10.1.9.9")));
        assert_eq!(routes.next_hop(ip("192.0.2.1")), Some(ip("10.0.0.1")));
        assert_eq!(routes.next_hop(ip("2001:db8::1")), Some(ip("fd00::1")));
        assert_eq!(routes.next_hop(ip("fe80::99")), Some(ip("fe80::99")));
        assert_eq!(Routes::default().next_hop(ip("192.0.2.1")), None);
    }

    #[test]
    fn source_is_on_the_network_of_the_next_hop_and_of_the_same_scope() {
        let routes = routes();
        assert_eq!(routes.source_for(ip("10.1.9.9")), Some(ip("10.1.0.2")));
        assert_eq!(routes.source_for(ip("192.0.2.1")), Some(ip("10.0.0.2")));
        assert_eq!(routes.source_for(ip("2001:db8::1")), Some(ip("fd00::2")));
        assert_eq!(routes.source_for(ip("fe80::99")), Some(ip("fe80::2")));
    }

    #[test]
    fn broadcasts_multicasts_and_ourselves_are_no_peers() {
        let routes = routes();
        for address in ["255.255.255.255", "10.0.0.255", "224.0.0.1", "0.0.0.0", "127.0.0.1"] {
            assert!(!routes.is_peer(ip(address)), "{address}");
        }
        assert!(!routes.is_peer(ip("10.0.0.2")));
        assert!(routes.is_peer(ip("10.0.0.1")));
    }
}
