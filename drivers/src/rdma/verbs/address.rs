use std::ptr::NonNull;
use std::sync::Arc;

use rdma_mummy_sys::{
    ibv_ah, ibv_ah_attr, ibv_create_ah, ibv_destroy_ah, ibv_gid, ibv_global_route,
};

use super::domain::ProtectionDomain;
use super::error::VerbsError;
use super::library::object;

pub use crate::rdma_peer::{Gid, ParseGidError};

impl Gid {
    pub(super) fn raw(self) -> ibv_gid {
        ibv_gid { raw: self.0 }
    }
}

/// The way to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Our port.
    pub port: u8,
    /// The number of our GID on it.
    pub gid_index: u8,
    /// The address of the other port, or of a multicast group.
    pub destination: Gid,
    /// Most routers on the way, and one.
    pub hop_limit: u8,
}

impl Route {
    pub(super) fn attributes(&self) -> ibv_ah_attr {
        ibv_ah_attr {
            grh: ibv_global_route {
                dgid: self.destination.raw(),
                flow_label: 0,
                sgid_index: self.gid_index,
                hop_limit: self.hop_limit,
                traffic_class: 0,
            },
            dlid: 0,
            sl: 0,
            src_path_bits: 0,
            static_rate: 0,
            // RoCE has no other addresses.
            is_global: 1,
            port_num: self.port,
        }
    }
}

/// A [`Route`] as datagrams take it.
#[derive(Debug)]
pub struct AddressHandle {
    handle: NonNull<ibv_ah>,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: a handle is not bound to a thread, and libibverbs is thread-safe.
unsafe impl Send for AddressHandle {}
// SAFETY: as above.
unsafe impl Sync for AddressHandle {}

impl AddressHandle {
    /// Resolves the way, which may take as long as the kernel needs to find its neighbour.
    ///
    /// # Errors
    /// There is no way, or the device has no handles left.
    pub fn new(domain: &Arc<ProtectionDomain>, route: &Route) -> Result<Self, VerbsError> {
        let mut attributes = route.attributes();
        // SAFETY: the domain lives, and the attributes are only read.
        let made = unsafe { ibv_create_ah(domain.as_ptr(), &raw mut attributes) };
        let handle = object("making an address handle", made)?;
        Ok(Self { handle, _domain: Arc::clone(domain) })
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_ah {
        self.handle.as_ptr()
    }
}

impl Drop for AddressHandle {
    fn drop(&mut self) {
        // SAFETY: it is destroyed once; callers of `post_send` vouch that no request needs it. Nothing
        // can be done about an error.
        unsafe { ibv_destroy_ah(self.as_ptr()) };
    }
}
