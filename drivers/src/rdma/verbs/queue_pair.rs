use std::io;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdma_mummy_sys::{
    ibv_create_qp, ibv_destroy_qp, ibv_modify_qp, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask,
    ibv_qp_init_attr, ibv_qp_state, ibv_qp_type,
};

use super::completion::CompletionQueue;
use super::domain::ProtectionDomain;
use super::error::VerbsError;
use super::library::{done, object};

/// A send queue and a receive queue.
#[derive(Debug)]
pub struct QueuePair {
    pair: NonNull<ibv_qp>,
    inline: usize,
    domain: Arc<ProtectionDomain>,
    _completions: [Arc<CompletionQueue>; 2],
}

/// How a queue pair carries messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams, to and from any other of this kind (UD).
    Datagram,
    /// A connection with one other (RC).
    Connection,
}

/// How to make a [`QueuePair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePairConfig {
    /// How it carries messages.
    pub kind: Kind,
    /// Requests in the send queue.
    pub send_requests: usize,
    /// Requests in the receive queue.
    pub receive_requests: usize,
    /// Messages of up to so many bytes are copied into the request, if the device has such room.
    pub inline: usize,
}

// SAFETY: queue pairs are not bound to a thread, and libibverbs is thread-safe.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// A queue pair in the reset state, whose requests end up in `send` and `receive`. Requests say
    /// themselves whether their success is told.
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        config: &QueuePairConfig,
        send: &Arc<CompletionQueue>,
        receive: &Arc<CompletionQueue>,
    ) -> Result<Arc<Self>, VerbsError> {
        let mut inline = config.inline;
        let (pair, inline) = loop {
            match Self::create(domain, config, inline, send, receive) {
                // Devices say nowhere how much they take.
                Err(VerbsError::Failed { source, .. })
                    if inline > 0 && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    inline /= 2;
                }
                result => break result?,
            }
        };
        let completions = [Arc::clone(send), Arc::clone(receive)];
        let domain = Arc::clone(domain);
        Ok(Arc::new(Self { pair, inline, domain, _completions: completions }))
    }

    fn create(
        domain: &Arc<ProtectionDomain>,
        config: &QueuePairConfig,
        inline: usize,
        send: &Arc<CompletionQueue>,
        receive: &Arc<CompletionQueue>,
    ) -> Result<(NonNull<ibv_qp>, usize), VerbsError> {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        // SAFETY: it is made of integers and pointers that may be null.
        let mut wanted: ibv_qp_init_attr = unsafe { mem::zeroed() };
        wanted.send_cq = send.as_ptr();
        wanted.recv_cq = receive.as_ptr();
        wanted.qp_type = match config.kind {
            Kind::Datagram => ibv_qp_type::IBV_QPT_UD,
            Kind::Connection => ibv_qp_type::IBV_QPT_RC,
        };
        wanted.cap.max_send_wr = count(config.send_requests);
        wanted.cap.max_recv_wr = count(config.receive_requests);
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.cap.max_inline_data = count(inline);
        // SAFETY: domain and queues live, and so they do for as long as the pair does.
        let made = unsafe { ibv_create_qp(domain.as_ptr(), &raw mut wanted) };
        let pair = object("making a queue pair", made)?;
        // The answer may be more than what was asked for.
        Ok((pair, inline.min(wanted.cap.max_inline_data as usize)))
    }

    /// Its number, by which peers name it: 24 bits.
    pub fn number(&self) -> u32 {
        // SAFETY: the pair lives, and its number does not change.
        unsafe { self.pair.as_ref().qp_num }
    }

    /// Messages of up to so many bytes can be copied into a request.
    pub fn inline(&self) -> usize {
        self.inline
    }

    /// The domain that it is of.
    pub fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    /// Makes a queue pair for datagrams ready to receive and send. It takes those with the same
    /// `q_key`, whose highest bit is for the privileged.
    pub fn start_datagrams(&self, port: u8, q_key: u32) -> Result<(), VerbsError> {
        let (state, next) = (ibv_qp_attr_mask::IBV_QP_STATE, "starting the queue pair");
        let mut wanted = attributes(ibv_qp_state::IBV_QPS_INIT);
        wanted.port_num = port;
        wanted.qkey = q_key;
        let to_init = state
            | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
            | ibv_qp_attr_mask::IBV_QP_PORT
            | ibv_qp_attr_mask::IBV_QP_QKEY;
        self.modify(next, &mut wanted, to_init)?;
        self.modify(next, &mut attributes(ibv_qp_state::IBV_QPS_RTR), state)?;
        let to_send = state | ibv_qp_attr_mask::IBV_QP_SQ_PSN;
        self.modify(next, &mut attributes(ibv_qp_state::IBV_QPS_RTS), to_send)
    }

    /// Puts the queue pair into the error state: what was posted is flushed.
    pub fn stop(&self) -> io::Result<()> {
        let mut wanted = attributes(ibv_qp_state::IBV_QPS_ERR);
        let result =
            self.modify("stopping the queue pair", &mut wanted, ibv_qp_attr_mask::IBV_QP_STATE);
        result.map_err(io::Error::from)
    }

    /// Changes the attributes that `mask` names.
    pub(super) fn modify(
        &self,
        step: &'static str,
        wanted: &mut ibv_qp_attr,
        mask: ibv_qp_attr_mask,
    ) -> Result<(), VerbsError> {
        let mask = i32::try_from(mask.0).unwrap_or(0);
        // SAFETY: the pair lives, and the attributes are only read.
        done(step, unsafe { ibv_modify_qp(self.as_ptr(), ptr::from_mut(wanted), mask) })
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_qp {
        self.pair.as_ptr()
    }
}

/// Those of a queue pair that is to get into `state`; zero but for that.
pub(super) fn attributes(state: ibv_qp_state::Type) -> ibv_qp_attr {
    // SAFETY: it is made of integers.
    let mut attributes: ibv_qp_attr = unsafe { mem::zeroed() };
    attributes.qp_state = state;
    attributes
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: memberships have an `Arc` of it and are gone. From then on the device touches no
        // buffer of its requests. Nothing can be done about an error.
        unsafe { ibv_destroy_qp(self.as_ptr()) };
    }
}
