use std::mem::MaybeUninit;

use rdma_mummy_sys::{
    ibv_atomic_cap, ibv_device_attr, ibv_port_attr, ibv_qp_attr_mask, ibv_qp_state,
    ibv_query_device, ibv_query_port,
};

use super::address::Route;
use super::context::Context;
use super::error::VerbsError;
use super::library::done;
use super::memory::Access;
use super::queue_pair::{QueuePair, attributes};

/// The two ends of a connection and what they agree on: ibv_modify_qp(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The way to the peer's port.
    pub route: Route,
    /// The peer's queue pair.
    pub queue_pair: u32,
    /// Bytes per packet: 256, 512, 1024, 2048 or 4096.
    pub mtu: usize,
    /// Number of the first packet that we send: 24 bits.
    pub our_packet: u32,
    /// Number of the first packet that the peer sends.
    pub peer_packet: u32,
    /// Reads and atomic operations of ours that the peer answers at a time.
    pub initiator_depth: u8,
    /// Reads and atomic operations of the peer that we answer at a time.
    pub responder_resources: u8,
    /// A packet that is not acknowledged is sent again after 4.096 µs × 2 to the power of this: 1 to 31.
    pub timeout: u8,
    /// How often, up to 7; Soft-RoCE takes 7 for ever.
    pub retries: u8,
}

/// How far a device's atomic operations are atomic: `enum ibv_atomic_cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomics {
    /// It has none.
    None,
    /// Among the operations of this device.
    Device,
    /// Also beside those of other devices and of the processor.
    Global,
}

impl Context {
    /// Whether the device carries out atomic operations.
    pub fn atomics(&self) -> Result<Atomics, VerbsError> {
        let mut found = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: the context is open, and there is room for the answer.
        let result = unsafe { ibv_query_device(self.as_ptr(), found.as_mut_ptr()) };
        done("asking for the device's atomic operations", result)?;
        // SAFETY: any bytes are numbers, and all of them were set.
        Ok(match unsafe { found.assume_init() }.atomic_cap {
            ibv_atomic_cap::IBV_ATOMIC_NONE => Atomics::None,
            ibv_atomic_cap::IBV_ATOMIC_GLOB => Atomics::Global,
            _ => Atomics::Device,
        })
    }

    /// Most bytes of one message through a port.
    pub fn longest_message(&self, port: u8) -> Result<usize, VerbsError> {
        let mut found = MaybeUninit::<ibv_port_attr>::zeroed();
        // SAFETY: the context is open, and there is room for the answer.
        let result = unsafe { ibv_query_port(self.as_ptr(), port, found.as_mut_ptr()) };
        done("asking for the port's longest message", result)?;
        // SAFETY: any bytes are numbers, and all of them were set.
        Ok(unsafe { found.assume_init() }.max_msg_sz as usize)
    }
}

impl QueuePair {
    /// Gives a queue pair of a connection its port, and peers the right to these accesses, so far as the
    /// memory allows them.
    pub fn prepare_connection(&self, port: u8, access: Access) -> Result<(), VerbsError> {
        let mut wanted = attributes(ibv_qp_state::IBV_QPS_INIT);
        wanted.port_num = port;
        wanted.qp_access_flags = access.bits();
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
            | ibv_qp_attr_mask::IBV_QP_PORT
            | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS;
        self.modify("preparing the queue pair", &mut wanted, mask)
    }

    /// Connects a queue pair that was prepared: it answers the peer and takes requests.
    pub fn start_connection(&self, link: &Link) -> Result<(), VerbsError> {
        let step = "connecting the queue pair";
        let mut wanted = attributes(ibv_qp_state::IBV_QPS_RTR);
        wanted.ah_attr = link.route.attributes();
        // `enum ibv_mtu`: 1 is 256 bytes, 5 is 4096.
        wanted.path_mtu = (link.mtu / 128).clamp(2, 32).ilog2();
        wanted.dest_qp_num = link.queue_pair;
        wanted.rq_psn = link.peer_packet;
        wanted.max_dest_rd_atomic = link.responder_resources;
        // No message ever waits for a receive buffer here; 0.64 ms.
        wanted.min_rnr_timer = 12;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_AV
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU
            | ibv_qp_attr_mask::IBV_QP_DEST_QPN
            | ibv_qp_attr_mask::IBV_QP_RQ_PSN
            | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(step, &mut wanted, mask)?;

        let mut wanted = attributes(ibv_qp_state::IBV_QPS_RTS);
        wanted.sq_psn = link.our_packet;
        wanted.max_rd_atomic = link.initiator_depth;
        wanted.timeout = link.timeout;
        wanted.retry_cnt = link.retries;
        wanted.rnr_retry = link.retries;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_SQ_PSN
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC
            | ibv_qp_attr_mask::IBV_QP_TIMEOUT
            | ibv_qp_attr_mask::IBV_QP_RETRY_CNT
            | ibv_qp_attr_mask::IBV_QP_RNR_RETRY;
        self.modify(step, &mut wanted, mask)
    }
}
