//! The few rtnetlink requests that devices and labs need, one request and one answer at a time.
//!
//! A [`Netlink`] works on the network namespace of the thread that opened it, and on no other.
//! Source: rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    LinkXdp,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use underpass_devices::{MacAddr, VlanId};

/// Why a request to the kernel's link, address and route tables failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The rtnetlink socket itself does not work.
    #[error("rtnetlink socket: {0}")]
    Socket(#[source] io::Error),
    /// Missing CAP_NET_ADMIN in the user namespace that owns this network namespace.
    #[error(
        "{request}: not permitted; it needs CAP_NET_ADMIN (run as root, or in a user namespace)"
    )]
    NotPermitted {
        /// What was asked for.
        request: String,
    },
    /// The kernel refused for another reason.
    #[error("{request}: {source}")]
    Refused {
        /// What was asked for.
        request: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No interface has this name in this namespace.
    #[error("{0}: no such interface")]
    NoSuchLink(String),
    /// The kernel's answer is not one to this request.
    #[error("{request}: unexpected answer from the kernel")]
    Unexpected {
        /// What was asked for.
        request: String,
    },
}

/// A network interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Number of the interface in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Hardware address; `None` if the interface has none of six bytes (TUN, tunnels).
    pub mac: Option<MacAddr>,
    /// Largest IP packet, in bytes.
    pub mtu: usize,
    /// Administratively up.
    pub up: bool,
    /// What kind of virtual interface it is, such as `veth`; `None` for hardware.
    pub kind: Option<String>,
    /// The XDP program attached to it, if there is one.
    pub xdp_program: Option<u32>,
}

/// A connection to the kernel's rtnetlink, in the network namespace of the opening thread.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens the connection in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Socket)?;
        socket.bind_auto().map_err(NetlinkError::Socket)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Socket)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface called `name`.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let request = format!("looking up {name}");
        match self.ask(RouteNetlinkMessage::GetLink(message), 0, &request) {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(describe(&link)),
            Ok(_) => Err(NetlinkError::Unexpected { request }),
            Err(NetlinkError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ENODEV) =>
            {
                Err(NetlinkError::NoSuchLink(name.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an interface has this name.
    pub fn link_exists(&mut self, name: &str) -> Result<bool, NetlinkError> {
        match self.link(name) {
            Ok(_) => Ok(true),
            Err(NetlinkError::NoSuchLink(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates a veth pair: `name` here, and `peer` here too or, if given, in another network
    /// namespace. Both have so many queues each way.
    pub fn create_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_namespace: Option<BorrowedFd<'_>>,
        queues: u32,
    ) -> Result<(), NetlinkError> {
        let end = |name: &str| {
            let mut message = LinkMessage::default();
            message.attributes.extend([
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::NumTxQueues(queues),
                LinkAttribute::NumRxQueues(queues),
            ]);
            message
        };
        let mut other = end(peer);
        if let Some(namespace) = peer_namespace {
            other.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        }
        let mut message = end(name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.tell(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            &format!("creating the veth pair {name}, {peer}"),
        )
    }

    /// Creates `name`, the interface of a VLAN on top of the interface `link`.
    pub fn create_vlan(&mut self, name: &str, link: &str, id: VlanId) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Link(self.link(link)?.index),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id.number())])),
            ]),
        ]);
        self.tell(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            &format!("creating {name} for VLAN {id} of {link}"),
        )
    }

    /// Deletes an interface (both ends of a veth pair).
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = self.link(name)?.index;
        self.tell(RouteNetlinkMessage::DelLink(message), 0, &format!("deleting {name}"))
    }

    /// Sets an interface administratively up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = self.link(name)?.index;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let direction = if up { "up" } else { "down" };
        self.tell(RouteNetlinkMessage::SetLink(message), 0, &format!("setting {name} {direction}"))
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&mut self, name: &str, mtu: usize) -> Result<(), NetlinkError> {
        let attribute = LinkAttribute::Mtu(u32::try_from(mtu).unwrap_or(u32::MAX));
        self.set_attribute(name, attribute, &format!("setting the MTU of {name} to {mtu}"))
    }

    /// Sets the hardware address.
    pub fn set_mac(&mut self, name: &str, mac: MacAddr) -> Result<(), NetlinkError> {
        let attribute = LinkAttribute::Address(mac.0.to_vec());
        self.set_attribute(name, attribute, &format!("setting {name}'s address to {mac}"))
    }

    /// Moves an interface into another network namespace.
    pub fn move_to(&mut self, name: &str, namespace: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        let attribute = LinkAttribute::NetNsFd(namespace.as_raw_fd());
        self.set_attribute(name, attribute, &format!("moving {name} to another namespace"))
    }

    /// Adds `address/prefix_len` to an interface. An IPv6 address is usable at once (no duplicate
    /// address detection).
    pub fn add_address(
        &mut self,
        name: &str,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = self.link(name)?.index;
        message.header.family = family(address);
        message.header.prefix_len = prefix_len;
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        if address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.tell(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            &format!("adding {address}/{prefix_len} to {name}"),
        )
    }

    /// Adds a route to `destination/prefix_len` through a gateway; prefix length 0 is the default
    /// route.
    pub fn add_route(
        &mut self,
        destination: IpAddr,
        prefix_len: u8,
        gateway: IpAddr,
    ) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = prefix_len;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        if prefix_len > 0 {
            message.attributes.push(RouteAttribute::Destination(destination.into()));
        }
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        self.tell(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            &format!("adding a route to {destination}/{prefix_len} through {gateway}"),
        )
    }

    fn set_attribute(
        &mut self,
        name: &str,
        attribute: LinkAttribute,
        request: &str,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = self.link(name)?.index;
        message.attributes.push(attribute);
        self.tell(RouteNetlinkMessage::SetLink(message), 0, request)
    }

    fn tell(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        request: &str,
    ) -> Result<(), NetlinkError> {
        self.ask(message, flags | NLM_F_ACK, request).map(drop)
    }

    /// Sends one request; the answer is an object, or `None` for a bare acknowledgement.
    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        request: &str,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        self.sequence += 1;
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(NetlinkError::Socket)?;

        let unexpected = || NetlinkError::Unexpected { request: request.to_owned() };
        loop {
            let (answer, _) = self.socket.recv_from_full().map_err(NetlinkError::Socket)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|_| unexpected())?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(object) => Ok(Some(object)),
                NetlinkPayload::Error(error) if error.code.is_none() => Ok(None),
                NetlinkPayload::Error(error) => Err(refused(error.to_io(), request)),
                _ => Err(unexpected()),
            };
        }
    }
}

fn refused(source: io::Error, request: &str) -> NetlinkError {
    let request = request.to_owned();
    if source.kind() == io::ErrorKind::PermissionDenied {
        NetlinkError::NotPermitted { request }
    } else {
        NetlinkError::Refused { request, source }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn describe(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: None,
        xdp_program: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu as usize,
            LinkAttribute::Address(mac) => {
                link.mac = mac.as_slice().try_into().ok().map(MacAddr);
            }
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(attributes) => {
                link.xdp_program = attributes.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}
