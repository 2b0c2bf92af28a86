use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::Service;
use crate::packet_key::has_ports;

/// What becomes of the packets from some sources.
///
/// Of all rules that match a packet one counts: that of the longest source prefix; of those, the one
/// that names a port, then the one that names a protocol. A packet that none matches is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Rule {
    /// Which packets it is about. There is one rule of each kind.
    pub matches: RuleMatch,
    /// What becomes of them.
    pub action: Action,
}

/// The packets that a rule is about; every given field must match what their
/// [`PacketKey`](crate::PacketKey) says.
///
/// As text: `SOURCE[,PROTOCOL[/PORT]]`, where the source is an address or a prefix, and the protocol
/// a number or one of `tcp`, `udp`, `icmp`, `icmpv6` and `sctp`.
///
/// ```
/// use underpass_devices::RuleMatch;
///
/// let dns: RuleMatch = "192.0.2.7/24,udp/53".parse()?;
/// assert_eq!((dns.protocol, dns.port), (Some(17), Some(53)));
/// assert_eq!(dns.to_string(), "192.0.2.0/24,udp/53");
/// # Ok::<(), underpass_devices::RuleError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleMatch {
    /// Where they come from. Bits behind the prefix do not count.
    pub source: IpNet,
    /// IP protocol. `None`: any.
    pub protocol: Option<u8>,
    /// Destination port; needs a protocol with ports: TCP, UDP, DCCP, SCTP or UDP-Lite. `None`: any,
    /// and packets without one.
    pub port: Option<u16>,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They are kept.
    Allow,
    /// They are dropped.
    Deny,
    /// Each source address may send so many; what is above is dropped.
    Limit(Rate),
}

/// Packets per source address.
///
/// As text: `PER_SECOND[/BURST]`. Without a burst it is as large as the packets of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Rate {
    /// In the long run. Above 1,000,000,000 it is that.
    pub per_second: NonZeroU32,
    /// As many may come at once after a silence.
    pub burst: NonZeroU32,
}

/// Why a rule was not understood or not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// No address and no prefix.
    #[error("{0:?} is no source: an address such as 192.0.2.1, or a prefix such as 2001:db8::/32")]
    BadSource(String),
    /// No protocol.
    #[error("{0:?} is no protocol: tcp, udp, icmp, icmpv6, sctp, or a number from 0 to 255")]
    BadProtocol(String),
    /// No port.
    #[error("{0:?} is no port: a number from 0 to 65535")]
    BadPort(String),
    /// A port, and no protocol that has any.
    #[error("port {0} needs a protocol that has ports, such as udp/{0}")]
    PortWithoutProtocol(u16),
    /// No rate.
    #[error("{0:?} is no rate: packets per second such as 1000, or with a burst, 1000/50")]
    BadRate(String),
    /// There are too many rules.
    #[error("the limit of {0} rules is reached")]
    Full(usize),
}

impl RuleMatch {
    /// The same without the bits of the source behind its prefix.
    ///
    /// # Errors
    /// It has a port, and no protocol that has any.
    pub fn checked(self) -> Result<Self, RuleError> {
        match self.port {
            Some(port) if !self.protocol.is_some_and(has_ports) => {
                Err(RuleError::PortWithoutProtocol(port))
            }
            _ => Ok(Self { source: self.source.trunc(), ..self }),
        }
    }
}

impl FromStr for RuleMatch {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (source, rest) = split(text, ',');
        let net = source.parse().or_else(|_| source.parse::<IpAddr>().map(IpNet::from));
        let source = net.map_err(|_| RuleError::BadSource(source.to_owned()))?;
        let service = rest.map(str::parse::<Service>).transpose()?;
        let (protocol, port) = service.map_or((None, None), |s| (Some(s.protocol), s.port));
        Self { source, protocol, port }.checked()
    }
}

impl fmt::Display for RuleMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        match self.protocol {
            Some(protocol) => write!(f, ",{}", Service { protocol, port: self.port }),
            None => Ok(()),
        }
    }
}

/// As text.
impl Serialize for RuleMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Rate {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (per_second, burst) = split(text, '/');
        let number = |part: &str| part.parse().map_err(|_| RuleError::BadRate(text.to_owned()));
        let per_second = number(per_second)?;
        Ok(Self { per_second, burst: burst.map_or(Ok(per_second), number)? })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.per_second, self.burst)
    }
}

/// What is before the separator, and what is behind it.
pub(super) fn split(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for (text, same) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.9/24", "192.0.2.0/24"),
            ("::/0,udp", "::/0,udp"),
            ("0.0.0.0/0,tcp/22", "0.0.0.0/0,tcp/22"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("2001:db8::1,58", "2001:db8::1/128,icmpv6"),
            ("10.0.0.1,136/7", "10.0.0.1/32,136/7"),
        ] {
            assert_eq!(text.parse::<RuleMatch>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        let error = |text: &str| text.parse::<RuleMatch>().unwrap_err();
        for text in ["", "x", "10.0.0.0/33", "10.0.0/8", "::/129,udp"] {
            assert!(matches!(error(text), RuleError::BadSource(_)), "{text}");
        }
        for text in ["10.0.0.1,", "10.0.0.1,TCP", "10.0.0.1,256", "10.0.0.1,udp,53", "::1,x/5"] {
            assert!(matches!(error(text), RuleError::BadProtocol(_)), "{text}");
        }
        for text in ["10.0.0.1,udp/", "10.0.0.1,udp/65536", "10.0.0.1,udp/dns"] {
            assert!(matches!(error(text), RuleError::BadPort(_)), "{text}");
        }
        assert_eq!(error("10.0.0.1,/53"), RuleError::PortWithoutProtocol(53));
        assert_eq!(error("10.0.0.1,icmp/53"), RuleError::PortWithoutProtocol(53));
        assert!(error("10.0.0.1,icmp/53").to_string().contains("udp/53"));
    }

    #[test]
    fn rates_are_read_and_written() {
        assert_eq!("1000".parse::<Rate>().unwrap().to_string(), "1000/1000");
        assert_eq!("1000/50".parse::<Rate>().unwrap().to_string(), "1000/50");
        for text in ["", "0", "5/0", "-1", "5/", "1/2/3"] {
            assert_eq!(text.parse::<Rate>(), Err(RuleError::BadRate(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn a_rule_is_its_text(
            ip: IpAddr, len in 0_u8..129, protocol: Option<u8>, port: Option<u16>,
        ) {
            let source = IpNet::new(ip, len.min(if ip.is_ipv4() { 32 } else { 128 })).unwrap();
            if let Ok(rule) = (RuleMatch { source, protocol, port }).checked() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }

        #[test]
        fn any_text_is_judged(text in "[0-9a-f:.,/tcpud]{0,24}") {
            let _ = (text.parse::<RuleMatch>(), text.parse::<Rate>());
        }
    }
}
