use std::fmt;
use std::str::FromStr;

use super::RuleError;
use super::rule::split;
use crate::packet_key::has_ports;

/// An IP protocol, or a port of one.
///
/// As text: `PROTOCOL[/PORT]`, where the protocol is a number or one of `tcp`, `udp`, `icmp`,
/// `icmpv6` and `sctp`.
///
/// ```
/// use underpass_devices::Service;
///
/// let dns: Service = "udp/53".parse()?;
/// assert_eq!(dns, Service { protocol: 17, port: Some(53) });
/// # Ok::<(), underpass_devices::RuleError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// IP protocol.
    pub protocol: u8,
    /// Destination port, if it has ports. `None`: any, and packets without one.
    pub port: Option<u16>,
}

const PROTOCOLS: [(&str, u8); 5] =
    [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("sctp", 132)];

impl FromStr for Service {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (protocol, port) = split(text, '/');
        let port = port.map(|port| port.parse().map_err(|_| RuleError::BadPort(port.to_owned())));
        let port = port.transpose()?;
        let named = PROTOCOLS.iter().find(|(name, _)| *name == protocol);
        let number = named.map_or_else(|| protocol.parse().ok(), |(_, number)| Some(*number));
        match (number, port) {
            (Some(protocol), port) if port.is_none() || has_ports(protocol) => {
                Ok(Self { protocol, port })
            }
            (Some(_), Some(port)) => Err(RuleError::PortWithoutProtocol(port)),
            (None, Some(port)) if protocol.is_empty() => Err(RuleError::PortWithoutProtocol(port)),
            _ => Err(RuleError::BadProtocol(protocol.to_owned())),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.protocol) {
            Some((name, _)) => f.write_str(name)?,
            None => write!(f, "{}", self.protocol)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, "/{port}"))
    }
}
