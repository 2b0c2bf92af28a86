//! Who is on the link: queue pairs for datagrams, and the MAC address that follows from each.

use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use siphasher::sip::SipHasher24;
use underpass_devices::MacAddr;

/// The address of a port. With RoCE version 2 it is an IP address: that of IPv4 is mapped
/// (`::ffff:10.0.0.1`, RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gid(pub [u8; 16]);

/// The text is not a GID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a GID such as fe80::1 or ::ffff:10.0.0.1")]
pub struct ParseGidError(String);

impl Gid {
    /// The GID of an IPv4 address.
    pub fn of_ipv4(address: Ipv4Addr) -> Self {
        Self(address.to_ipv6_mapped().octets())
    }

    /// The IPv4 address that it stands for, if it does.
    pub fn ipv4(self) -> Option<Ipv4Addr> {
        Ipv6Addr::from(self.0).to_ipv4_mapped()
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.0).fmt(f)
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Gid {
    type Err = ParseGidError;

    /// An IPv4 address stands for its GID, too.
    fn from_str(text: &str) -> Result<Self, ParseGidError> {
        match text.parse() {
            Ok(IpAddr::V4(address)) => Ok(Self::of_ipv4(address)),
            Ok(IpAddr::V6(address)) => Ok(Self(address.octets())),
            Err(_) => Err(ParseGidError(text.to_owned())),
        }
    }
}

/// A queue pair for datagrams, anywhere. In text, `GID/NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The address of its port.
    pub gid: Gid,
    /// Its number: 24 bits.
    pub queue_pair: u32,
}

/// The text is not a [`Peer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a GID and the number of a queue pair, such as ::ffff:10.0.0.1/17")]
pub struct ParsePeerError(String);

/// Numbers of queue pairs have 24 bits, and this one stands for a multicast group: InfiniBand
/// Architecture Specification volume 1, section 10.5.
pub(crate) const MULTICAST_QUEUE_PAIR: u32 = 0x00ff_ffff;

impl Peer {
    /// Its MAC address on the link: 46 bits of SipHash-2-4, with a key of zeros, of GID and number in
    /// network byte order. Everybody finds the same, and nobody can choose it.
    pub fn mac(&self) -> MacAddr {
        let mut hasher = SipHasher24::new();
        hasher.write(&self.gid.0);
        hasher.write(&self.queue_pair.to_be_bytes());
        MacAddr::local(hasher.finish())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gid, self.queue_pair)
    }
}

impl FromStr for Peer {
    type Err = ParsePeerError;

    fn from_str(text: &str) -> Result<Self, ParsePeerError> {
        let parse = || {
            let (gid, number) = text.split_once('/')?;
            let queue_pair =
                number.parse().ok().filter(|n| (1..MULTICAST_QUEUE_PAIR).contains(n))?;
            Some(Self { gid: gid.parse().ok()?, queue_pair })
        };
        parse().ok_or_else(|| ParsePeerError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_reads_back_as_it_is_written() {
        let peer: Peer = "fe80::5054:ff:fe00:1/17".parse().unwrap();
        assert_eq!(peer.to_string(), "fe80::5054:ff:fe00:1/17");
        let mapped: Peer = "10.9.0.2/16777214".parse().unwrap();
        assert_eq!(mapped.to_string(), "::ffff:10.9.0.2/16777214");
        assert_eq!(mapped.gid.ipv4(), Some(Ipv4Addr::new(10, 9, 0, 2)));
    }

    #[test]
    fn a_peer_has_a_number_that_a_queue_pair_can_have() {
        for text in ["10.9.0.2", "10.9.0.2/0", "10.9.0.2/16777215", "10.9.0/3", "/3", "::1/x"] {
            assert_eq!(text.parse::<Peer>(), Err(ParsePeerError(text.to_owned())));
        }
    }

    /// Both ends of a link must find the same, whatever version they are.
    #[test]
    fn a_mac_address_follows_from_gid_and_number() {
        let peer: Peer = "10.9.0.2/17".parse().unwrap();
        assert_eq!(peer.mac().to_string(), "c2:18:fe:33:2d:63");
        assert!(peer.mac().is_unicast());
        assert_ne!(peer.mac(), Peer { queue_pair: 18, ..peer }.mac());
    }
}
