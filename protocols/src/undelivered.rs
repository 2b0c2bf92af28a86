use std::net::IpAddr;

use crate::Peer;

/// What a router, or the destination itself, says of an IP packet that has not arrived (ICMP error).
#[derive(Clone, Copy, Debug)]
pub struct Undelivered<'a> {
    /// Who says so.
    pub by: IpAddr,
    /// Where the packet was to go.
    pub to: Peer,
    /// Why it did not get there.
    pub why: Reason,
    /// How the packet began, behind the headers that the selector is about: at least 8 bytes of an IP
    /// protocol; of a UDP port perhaps none (RFC 792).
    pub payload: &'a [u8],
}

/// Why a packet did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It has passed as many routers as its hop limit allows.
    HopLimit,
    /// The host does not speak the protocol, or nobody is at the port.
    Refused,
    /// There is no route, or the host does not answer its router.
    Unreachable,
    /// A filter forbids it.
    Prohibited,
    /// A field of its IP header makes no sense to somebody.
    BadHeader,
}
