//! The network interface of the kernel that a virtual device hangs on. Its driver does not tell when it
//! goes.

use crate::netlink::{Netlink, NetlinkError};

/// Looks at an interface in the network namespace where the device was opened.
#[derive(Debug)]
pub(super) struct Interface {
    netlink: Netlink,
    name: String,
}

impl Interface {
    /// In the calling thread's network namespace.
    pub(super) fn new(name: &str) -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Netlink::open()?, name: name.to_owned() })
    }

    pub(super) fn exists(&mut self) -> bool {
        !matches!(self.netlink.link(&self.name), Err(NetlinkError::NoSuchLink(_)))
    }
}
