//! Received frames as protocols see them, and who is at the other end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use underpass_devices::MacAddr;

/// A received frame, lent to a protocol.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Who has sent it.
    pub from: Peer,
    /// The end it was sent to: ours, or a group's.
    pub to: Peer,
    /// The interface it came by, counted from 0.
    pub interface: usize,
    /// The stations of this link that it went from and to. `None`: the device carries bare IP packets.
    pub link: Option<Stations>,
    /// Time to live or hop limit that is left, if there is an IP header.
    pub hop_limit: Option<u8>,
    /// What follows the headers that the selector is about. Behind an EtherType it includes the padding
    /// of short frames (IEEE 802.3: to 60 bytes with the Ethernet header).
    pub payload: &'a [u8],
}

/// Source and destination of an Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stations {
    /// The station that has sent the frame.
    pub source: MacAddr,
    /// Where it was sent to.
    pub destination: MacAddr,
}

/// An end of a protocol, as its selector names ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Of an EtherType: a station, or a group of them, on the link of an interface.
    Station {
        /// Counted from 0, in the order of the stack's builder.
        interface: usize,
        /// Its address there.
        address: MacAddr,
    },
    /// Of an IP protocol.
    Host(IpAddr),
    /// Of a UDP port.
    Port(SocketAddr),
}

/// Where a frame goes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// To whom.
    pub peer: Peer,
    /// From which address of ours, if it is one. Else the stack chooses (RFC 6724).
    pub source: Option<IpAddr>,
    /// Time to live or hop limit. `None`: 64, and 1 to groups (RFC 1112 §6.1).
    pub hop_limit: Option<u8>,
}

impl Incoming<'_> {
    /// It was sent to several stations. An answer to such a frame makes many out of one.
    pub fn is_to_group(&self) -> bool {
        self.link.is_some_and(|link| link.destination.is_multicast())
            || self.to.ip().is_some_and(|ip| match ip {
                IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
                IpAddr::V6(ip) => ip.is_multicast(),
            })
    }

    /// Back to the sender, from the address that it has sent to.
    pub fn reply(&self) -> Destination {
        Destination { source: self.to.ip(), ..self.from.into() }
    }
}

impl Peer {
    /// Its IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Station { .. } => None,
            Self::Host(ip) => Some(*ip),
            Self::Port(address) => Some(address.ip()),
        }
    }
}

/// Its address, without the interface.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Station { address, .. } => address.fmt(f),
            Self::Host(ip) => ip.fmt(f),
            Self::Port(address) => address.fmt(f),
        }
    }
}

impl From<Peer> for Destination {
    fn from(peer: Peer) -> Self {
        Self { peer, source: None, hop_limit: None }
    }
}
