use std::sync::Arc;

use rdma_mummy_sys::{ibv_attach_mcast, ibv_detach_mcast};

use super::address::Gid;
use super::error::VerbsError;
use super::library::done;
use super::queue_pair::QueuePair;

/// A queue pair for datagrams receives what is sent to a multicast group, for as long as this lives.
///
/// It is about the device alone: with RoCE the kernel has to be in the group, too, or it drops the
/// packets.
#[derive(Debug)]
pub struct Membership {
    pair: Arc<QueuePair>,
    group: Gid,
}

impl Membership {
    /// Joins.
    pub fn join(pair: &Arc<QueuePair>, group: Gid) -> Result<Self, VerbsError> {
        let raw = group.raw();
        // SAFETY: the pair lives, and the group is only read.
        let result = unsafe { ibv_attach_mcast(pair.as_ptr(), &raw const raw, 0) };
        done("joining the multicast group", result)?;
        Ok(Self { pair: Arc::clone(pair), group })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let raw = self.group.raw();
        // SAFETY: the pair lives, and the group is only read. Nothing can be done about an error.
        unsafe { ibv_detach_mcast(self.pair.as_ptr(), &raw const raw, 0) };
    }
}
