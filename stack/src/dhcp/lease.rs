use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::Ipv4Net;
use underpass_devices::Instant;

use super::message::{Reply, option};

/// DNS servers and routes taken from one lease.
const MAX_SERVERS: usize = 8;
const MAX_ROUTES: usize = 32;
/// Least time from one renewal to the next, whatever a server says.
const MIN_TIME: Duration = Duration::from_secs(1);

/// What a server has given us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) net: Ipv4Net,
    pub(crate) server: Ipv4Addr,
    /// Networks and their gateways; the unspecified one means that they are on the link.
    pub(crate) routes: Vec<(Ipv4Net, Ipv4Addr)>,
    pub(crate) dns_servers: Vec<IpAddr>,
    pub(crate) domain: Option<String>,
    pub(crate) mtu: Option<usize>,
    /// When to renew it, to ask anybody, and to stop using it (T1, T2 of RFC 2131 §4.4.5).
    pub(crate) renew_at: Instant,
    pub(crate) rebind_at: Instant,
    pub(crate) expires_at: Instant,
}

impl Lease {
    /// The lease of an acknowledgement for a request sent at `asked_at`. `None`: an option without
    /// which there is none is missing or impossible.
    pub(super) fn new(reply: &Reply<'_>, asked_at: Instant) -> Option<Self> {
        let address = reply.your_ip;
        let mask = reply.address(option::SUBNET_MASK).unwrap_or_else(|| class_mask(address));
        let net = Ipv4Net::with_netmask(address, mask).ok()?;
        let whole =
            net.prefix_len() < 31 && (address == net.network() || address == net.broadcast());
        let broken = address.is_unspecified()
            || address.is_multicast()
            || address.is_loopback()
            || address.is_broadcast();
        if whole || broken {
            return None;
        }
        let (t1, t2, lifetime) = times(reply)?;
        Some(Self {
            net,
            server: reply.address(option::SERVER)?,
            routes: routes(reply),
            dns_servers: addresses(&reply.option(option::DNS_SERVER).unwrap_or_default())
                .filter(|ip| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast())
                .take(MAX_SERVERS)
                .map(IpAddr::V4)
                .collect(),
            domain: reply.option(option::DOMAIN).and_then(|bytes| domain(&bytes)),
            mtu: reply.option(option::MTU).and_then(|bytes| {
                bytes.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes).into())
            }),
            renew_at: asked_at + t1,
            rebind_at: asked_at + t2,
            expires_at: asked_at + lifetime,
        })
    }
}

/// T1, T2 and the time the lease lasts; one without end lasts for ever.
fn times(reply: &Reply<'_>) -> Option<(Duration, Duration, Duration)> {
    let seconds = reply.seconds(option::LEASE_TIME)?;
    let time = |seconds: u32| match seconds {
        u32::MAX => Duration::MAX,
        seconds => Duration::from_secs(seconds.into()).max(MIN_TIME),
    };
    let lifetime = time(seconds);
    if lifetime == Duration::MAX {
        return Some((lifetime, lifetime, lifetime));
    }
    // The defaults, also for times that contradict each other (RFC 2131 §4.4.5).
    let rebind = reply.seconds(option::REBINDING_TIME).map(time).filter(|t2| *t2 <= lifetime);
    let rebind = rebind.unwrap_or(lifetime * 7 / 8);
    let renew = reply.seconds(option::RENEWAL_TIME).map(time).filter(|t1| *t1 <= rebind);
    Some((renew.unwrap_or((lifetime / 2).min(rebind)), rebind, lifetime))
}

/// Classless routes, or the routers if there are none (RFC 3442).
fn routes(reply: &Reply<'_>) -> Vec<(Ipv4Net, Ipv4Addr)> {
    if let Some(bytes) = reply.option(option::CLASSLESS_ROUTES)
        && let Some(routes) = classless_routes(&bytes)
    {
        return routes;
    }
    let routers = reply.option(option::ROUTER).unwrap_or_default();
    addresses(&routers).take(1).map(|router| (Ipv4Net::default(), router)).collect()
}

/// Prefix length, as many bytes of the network as it covers, router. `None`: malformed.
fn classless_routes(mut bytes: &[u8]) -> Option<Vec<(Ipv4Net, Ipv4Addr)>> {
    let mut routes = Vec::new();
    while let [len, ref rest @ ..] = *bytes {
        let (network, rest) = rest.split_at_checked(usize::from(len).div_ceil(8))?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..network.len())?.copy_from_slice(network);
        let net = Ipv4Net::new(octets.into(), len).ok()?;
        if routes.len() < MAX_ROUTES {
            routes.push((net.trunc(), Ipv4Addr::from(*gateway)));
        }
        bytes = rest;
    }
    Some(routes)
}

fn addresses(bytes: &[u8]) -> impl Iterator<Item = Ipv4Addr> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|octets| Ipv4Addr::from(*octets))
}

/// A domain name in text, as far as it is one.
fn domain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches(['\0', '.']);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    ((1..=253).contains(&text.len()) && text.chars().all(plain)).then(|| text.to_owned())
}

/// What networks were like before they had masks (RFC 791 §3.2).
fn class_mask(ip: Ipv4Addr) -> Ipv4Addr {
    match ip.octets()[0] {
        0..=127 => Ipv4Addr::new(255, 0, 0, 0),
        128..=191 => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classless_routes_of_the_rfc() {
        // RFC 3442: a default route, 10.0.0.0/8, 10.17.0.0/16 and 10.27.129.0/24.
        let bytes = [
            0, 10, 0, 0, 1, 8, 10, 10, 0, 0, 2, 16, 10, 17, 10, 0, 0, 3, 24, 10, 27, 129, 10, 0, 0,
            4,
        ];
        let texts: Vec<_> = classless_routes(&bytes)
            .unwrap()
            .iter()
            .map(|(net, gateway)| format!("{net} {gateway}"))
            .collect();
        let want = [
            "0.0.0.0/0 10.0.0.1",
            "10.0.0.0/8 10.0.0.2",
            "10.17.0.0/16 10.0.0.3",
            "10.27.129.0/24 10.0.0.4",
        ];
        assert_eq!(texts, want);
        for cut in [1, 4, 6, 25] {
            assert_eq!(classless_routes(&bytes[..cut]), None);
        }
        assert_eq!(classless_routes(&[33, 1, 2, 3, 4, 5, 1, 1, 1, 1]), None);
    }

    #[test]
    fn names_are_names() {
        assert_eq!(domain(b"lab.test.\0").as_deref(), Some("lab.test"));
        for bad in [&b""[..], b"a b", b"\xff", b"x\n", &[b'a'; 254]] {
            assert_eq!(domain(bad), None);
        }
    }
}
