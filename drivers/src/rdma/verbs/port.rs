use std::mem::MaybeUninit;

use rdma_mummy_sys::{
    _ibv_query_gid_table, IBV_LINK_LAYER_ETHERNET, ibv_gid_entry, ibv_port_attr, ibv_port_state,
    ibv_query_port,
};

use super::address::Gid;
use super::context::Context;
use super::error::VerbsError;
use super::library::done;

/// What a port is like at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Whether it has its link.
    pub state: PortState,
    /// Most bytes of a packet behind the transport headers: 256 to 4096.
    pub mtu: usize,
    /// Its link is Ethernet: it speaks RoCE, not InfiniBand.
    pub is_ethernet: bool,
}

/// The state of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Packets go through.
    Active,
    /// There is no link.
    Down,
    /// The subnet manager, or the device, is not done with it.
    Other,
}

/// An address of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GidEntry {
    /// Its number on the port.
    pub index: u8,
    /// The address.
    pub gid: Gid,
    /// What packets from it look like.
    pub kind: GidKind,
    /// Index of the network interface that it belongs to; 0: of none.
    pub interface: u32,
}

/// `enum ibv_gid_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidKind {
    /// InfiniBand.
    InfiniBand,
    /// RoCE version 1, an EtherType of its own.
    RoceV1,
    /// RoCE version 2, over UDP.
    RoceV2,
}

/// More than a port has.
const MOST_GIDS: usize = 1024;

impl Context {
    /// What a port is like; the first one is 1.
    pub fn port(&self, number: u8) -> Result<Port, VerbsError> {
        let ports = self.limits()?.ports;
        if !(1..=ports).contains(&number) {
            return Err(VerbsError::NoSuchPort { port: number, ports });
        }
        let mut found = MaybeUninit::<ibv_port_attr>::zeroed();
        // SAFETY: the context is open, and there is room for the answer.
        let result = unsafe { ibv_query_port(self.as_ptr(), number, found.as_mut_ptr()) };
        done("asking for the port's state", result)?;
        // SAFETY: any bytes are numbers, and all of them were set.
        let found = unsafe { found.assume_init() };
        Ok(Port {
            state: match found.state {
                ibv_port_state::IBV_PORT_ACTIVE => PortState::Active,
                ibv_port_state::IBV_PORT_DOWN => PortState::Down,
                _ => PortState::Other,
            },
            // `enum ibv_mtu`: 1 is 256 bytes, 5 is 4096.
            mtu: 128 << found.active_mtu.clamp(1, 5),
            is_ethernet: found.link_layer == IBV_LINK_LAYER_ETHERNET,
        })
    }

    /// The addresses of a port.
    pub fn gids(&self, port: u8) -> Result<Vec<GidEntry>, VerbsError> {
        let mut table = Vec::<ibv_gid_entry>::with_capacity(MOST_GIDS);
        // SAFETY: the context is open, and there is room for so many entries of this size.
        let count = unsafe {
            let entry_len = size_of::<ibv_gid_entry>();
            _ibv_query_gid_table(self.as_ptr(), table.as_mut_ptr(), MOST_GIDS, 0, entry_len)
        };
        let count = usize::try_from(count).map_err(|_| {
            let errno = i32::try_from(count.unsigned_abs()).unwrap_or(libc::EIO);
            let source = std::io::Error::from_raw_os_error(errno);
            VerbsError::failed("asking for the port's addresses", source)
        })?;
        // SAFETY: so many were written.
        unsafe { table.set_len(count.min(MOST_GIDS)) };
        let of_port = table.iter().filter(|entry| entry.port_num == u32::from(port));
        Ok(of_port.filter_map(gid_entry).collect())
    }

    /// The address to take if none is asked for: the first one of RoCE version 2 that is of IPv4, or the
    /// first one of RoCE version 2, or the first one.
    pub fn default_gid(&self, port: u8) -> Result<Option<GidEntry>, VerbsError> {
        let gids = self.gids(port)?;
        let routable = gids.iter().filter(|entry| entry.kind == GidKind::RoceV2);
        let ipv4 = routable.clone().find(|entry| entry.gid.ipv4().is_some());
        Ok(ipv4.or(routable.clone().next()).or(gids.first()).copied())
    }

    /// One address of a port.
    pub fn gid(&self, port: u8, index: u8) -> Result<GidEntry, VerbsError> {
        let gids = self.gids(port)?;
        gids.iter().find(|entry| entry.index == index).copied().ok_or_else(|| {
            let have: Vec<_> =
                gids.iter().map(|entry| format!("{} {}", entry.index, entry.gid)).collect();
            VerbsError::NoSuchGid { port, index, have: have.join(", ") }
        })
    }
}

fn gid_entry(entry: &ibv_gid_entry) -> Option<GidEntry> {
    Some(GidEntry {
        // Address handles have a byte for it.
        index: u8::try_from(entry.gid_index).ok()?,
        // SAFETY: any bytes are a GID.
        gid: Gid(unsafe { entry.gid.raw }),
        kind: match entry.gid_type {
            0 => GidKind::InfiniBand,
            1 => GidKind::RoceV1,
            _ => GidKind::RoceV2,
        },
        interface: entry.ndev_ifindex,
    })
}
