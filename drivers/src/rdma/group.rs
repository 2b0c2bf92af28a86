//! The multicast group that stands for everybody on the link.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::verbs::{AddressHandle, Gid, GidEntry, Membership, QueuePair, Route};

/// A place in the group, and the way to it.
#[derive(Debug)]
pub(super) struct Group {
    _membership: Membership,
    /// Has the kernel and the network card let its packets in.
    _socket: OwnedFd,
    pub(super) handle: AddressHandle,
}

/// Of the organization's own (RFC 2365 section 6.1).
const IPV4_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 85, 80);
/// Transient, and of the link (RFC 4291 section 2.7).
const IPV6_GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x7570);

impl Group {
    /// Joins, from the port's address.
    pub(super) fn join(pair: &Arc<QueuePair>, port: u8, from: &GidEntry) -> io::Result<Self> {
        let group = match from.gid.ipv4() {
            Some(_) => Gid::of_ipv4(IPV4_GROUP),
            None => Gid(IPV6_GROUP.octets()),
        };
        let socket = join_in_kernel(from)?;
        let membership = Membership::join(pair, group)?;
        let route = Route { port, gid_index: from.index, destination: group, hop_limit: 1 };
        let handle = AddressHandle::new(pair.domain(), &route)?;
        Ok(Self { _membership: membership, _socket: socket, handle })
    }
}

/// A socket that receives nothing: it is bound to no port.
fn join_in_kernel(from: &GidEntry) -> io::Result<OwnedFd> {
    let family = if from.gid.ipv4().is_some() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match from.gid.ipv4() {
        Some(_) => sockopt::set_ip_add_membership_with_ifindex(
            &socket,
            &IPV4_GROUP,
            &Ipv4Addr::UNSPECIFIED,
            from.interface,
        )?,
        None => sockopt::set_ipv6_add_membership(&socket, &IPV6_GROUP, from.interface)?,
    }
    Ok(socket)
}
