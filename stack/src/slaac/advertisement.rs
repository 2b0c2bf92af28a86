use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::Ipv6Net;
use underpass_devices::MacAddr;

use crate::ndp;

const ADVERTISEMENT: u8 = 134;
const SOURCE_LINK_ADDRESS: u8 = 1;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const RECURSIVE_DNS: u8 = 25;

/// Metrics of default routes whose routers are of high, medium and low preference (RFC 4191 §2.1).
const METRICS: [u32; 3] = [512, 1024, 2048];
/// Options taken of each kind.
const MAX_OPTIONS: usize = 16;

/// A checked router advertisement (RFC 4861 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advertisement {
    pub(crate) router: Ipv6Addr,
    /// For how long it is a default router; zero: it is none.
    pub(super) router_lifetime: Duration,
    pub(super) metric: u32,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: Option<usize>,
    pub(super) prefixes: Vec<Prefix>,
    /// Servers and the seconds for which they may be used (RFC 8106 §5.1).
    pub(super) dns_servers: Vec<(IpAddr, u32)>,
}

/// A prefix of the link (RFC 4861 §4.6.2). Lifetimes are in seconds, `u32::MAX` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) net: Ipv6Net,
    pub(super) on_link: bool,
    pub(super) autonomous: bool,
    pub(super) valid: u32,
    pub(super) preferred: u32,
}

/// True if an IPv6 packet whose next header is ICMPv6 claims to be an advertisement.
pub(crate) fn is_advertisement(packet: &[u8]) -> bool {
    packet.get(40) == Some(&ADVERTISEMENT)
}

impl Advertisement {
    /// Judges a whole IPv6 packet (RFC 4861 §6.1.2). `None`: it is not from a router on this link.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let ndp::Checked { src, body, .. } = ndp::check(packet)?;
        let (head, options) = body.split_first_chunk::<16>()?;
        if head[0] != ADVERTISEMENT || !src.is_unicast_link_local() {
            return None;
        }
        let seconds = u16::from_be_bytes([head[6], head[7]]);
        let metric = match head[5] >> 3 & 3 {
            0b01 => METRICS[0],
            0b11 => METRICS[2],
            _ => METRICS[1],
        };
        let mut message = Self {
            router: src,
            router_lifetime: Duration::from_secs(seconds.into()),
            metric,
            mac: None,
            mtu: None,
            prefixes: Vec::new(),
            dns_servers: Vec::new(),
        };
        message.parse_options(options)?;
        Some(message)
    }

    fn parse_options(&mut self, mut options: &[u8]) -> Option<()> {
        while let Some((&[kind, units], _)) = options.split_first_chunk::<2>() {
            // A length of zero would never end; RFC 4861 §4.6 drops the packet.
            let option = options.get(..usize::from(units) * 8).filter(|o| !o.is_empty())?;
            options = &options[option.len()..];
            match kind {
                SOURCE_LINK_ADDRESS => {
                    self.mac = option.get(2..8).and_then(<[u8]>::first_chunk).copied().map(MacAddr);
                }
                MTU => {
                    let mtu = option.get(4..8).and_then(<[u8]>::first_chunk).copied();
                    self.mtu = mtu.map(|mtu| u32::from_be_bytes(mtu) as usize);
                }
                PREFIX_INFORMATION if self.prefixes.len() < MAX_OPTIONS => {
                    self.prefixes.extend(prefix(option));
                }
                RECURSIVE_DNS => self.parse_servers(option),
                _ => {}
            }
        }
        options.is_empty().then_some(())
    }

    fn parse_servers(&mut self, option: &[u8]) {
        let Some((head, servers)) = option.split_first_chunk::<8>() else {
            return;
        };
        let lifetime = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        for octets in servers.as_chunks::<16>().0 {
            let ip = Ipv6Addr::from(*octets);
            let usable = !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback();
            if usable && self.dns_servers.len() < MAX_OPTIONS {
                self.dns_servers.push((ip.into(), lifetime));
            }
        }
    }
}

fn prefix(option: &[u8]) -> Option<Prefix> {
    let option: &[u8; 32] = option.try_into().ok()?;
    let word = |at: usize| {
        u32::from_be_bytes([option[at], option[at + 1], option[at + 2], option[at + 3]])
    };
    let ip = Ipv6Addr::from(*option[16..].first_chunk::<16>()?);
    if ip.is_unicast_link_local() || ip.is_multicast() {
        return None;
    }
    Some(Prefix {
        net: Ipv6Net::new(ip, option[2]).ok()?.trunc(),
        on_link: option[3] & 0x80 != 0,
        autonomous: option[3] & 0x40 != 0,
        valid: word(4),
        preferred: word(8),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum;

    /// An advertisement from fe80::1 with these options.
    fn packet(options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 56];
        packet[0] = 0x60;
        packet[6] = 58;
        packet[7] = 255;
        packet[8..10].copy_from_slice(&[0xfe, 0x80]);
        packet[23] = 1;
        packet[24..40].copy_from_slice(&Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
        packet[40] = ADVERTISEMENT;
        packet[46..48].copy_from_slice(&1800_u16.to_be_bytes());
        packet.extend_from_slice(options);
        seal(packet)
    }

    fn seal(mut packet: Vec<u8>) -> Vec<u8> {
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet[42..44].fill(0);
        let src = Ipv6Addr::from(*packet[8..].first_chunk::<16>().unwrap());
        let dst = Ipv6Addr::from(*packet[24..].first_chunk::<16>().unwrap());
        let sum = checksum::transport(src.into(), dst.into(), 58, &packet[40..]);
        packet[42..44].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    #[test]
    fn only_routers_on_the_link_are_heard() {
        let good = packet(&[5, 1, 0, 0, 0, 0, 5, 120]);
        let message = Advertisement::parse(&good).unwrap();
        assert_eq!((message.mtu, message.router_lifetime.as_secs()), (Some(1400), 1800));
        let with = |at: usize, byte: u8| {
            let mut changed = good.clone();
            changed[at] = byte;
            Advertisement::parse(&seal(changed))
        };
        assert_eq!(with(7, 254), None, "it came through a router");
        assert_eq!(with(8, 0x20), None, "its source is not link-local");
        assert_eq!(with(41, 1), None, "code");
        assert_eq!(with(57, 0), None, "an option of length zero");
        assert_eq!(with(57, 2), None, "an option beyond the end");
        let mut damaged = good.clone();
        damaged[47] ^= 1;
        assert_eq!(Advertisement::parse(&damaged), None, "checksum");
    }

    #[test]
    fn lists_are_bounded() {
        let mut options = Vec::new();
        for n in 0..40_u8 {
            options.extend_from_slice(&[3, 4, 64, 0xc0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
            options.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        let message = Advertisement::parse(&packet(&options)).unwrap();
        assert_eq!(message.prefixes.len(), MAX_OPTIONS);
        let first = message.prefixes[0];
        assert_eq!(first.net.to_string(), "2001:db8::/64");
        assert!(first.on_link && first.autonomous && first.valid == 256);
    }

    proptest! {
        #[test]
        fn any_options_are_judged(options in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = Advertisement::parse(&packet(&options));
        }
    }
}
