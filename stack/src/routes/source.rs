use std::net::IpAddr;

use super::{Address, AddressState, Routes, is_link_local, key};

impl Routes {
    /// The own address to talk to `dst` from when its packets leave by `interface` towards `hop`:
    /// of the same version and scope, preferred before deprecated, of that interface, on the network
    /// of the next hop, then with the longest prefix in common (RFC 6724 §5, rules 2, 3, 5 and 8).
    pub(crate) fn source_on(&self, interface: usize, dst: IpAddr, hop: IpAddr) -> Option<IpAddr> {
        let link_local = scope_is_link(dst);
        let fits = |address: &&Address| {
            let ip = address.net.addr();
            address.is_usable()
                && ip.is_ipv4() == dst.is_ipv4()
                && (ip.is_ipv4() || is_link_local(ip) == link_local)
                && (!is_link_local(ip) || address.interface == interface)
        };
        let rank = |address: &&Address| {
            let common = key(address.net.addr()).common(key(dst));
            (
                address.state == AddressState::Preferred,
                address.interface == interface,
                address.net.contains(&hop),
                common.min(address.net.prefix_len().into()),
            )
        };
        // `max_by_key` takes the last of equals; the first address given is to win.
        let best = self.addresses.iter().rev().filter(fits).max_by_key(rank)?;
        Some(best.net.addr())
    }
}

/// Link-local addresses, and groups that do not leave the link (RFC 4291 §2.7).
fn scope_is_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(v6) if v6.is_multicast() => v6.octets()[1] & 0x0f <= 2,
        ip => is_link_local(ip),
    }
}
