use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdma_mummy_sys::{
    ibv_ack_cq_events, ibv_comp_channel, ibv_cq, ibv_create_comp_channel, ibv_create_cq,
    ibv_destroy_comp_channel, ibv_destroy_cq, ibv_get_cq_event, ibv_poll_cq, ibv_req_notify_cq,
    ibv_wc, ibv_wc_flags, ibv_wc_status,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::context::Context;
use super::error::VerbsError;
use super::library::{done, object, status_text};

/// Where completion queues say that they have something: a descriptor to sleep on.
#[derive(Debug)]
pub struct CompletionChannel {
    channel: NonNull<ibv_comp_channel>,
    _context: Arc<Context>,
}

/// Where requests end up that are done.
#[derive(Debug)]
pub struct CompletionQueue {
    queue: NonNull<ibv_cq>,
    context: Arc<Context>,
    channel: Option<Arc<CompletionChannel>>,
}

/// What became of a request.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Completion(ibv_wc);

/// Why a request failed: `enum ibv_wc_status`. The queue pair is in the error state from then on, but
/// for requests that were flushed because it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompletionError {
    /// A message does not fit a receive buffer, or is longer than messages may be.
    #[error("a message is longer than the receive buffer")]
    LocalLength,
    /// Something of ours does not go together, such as an address handle of another domain.
    #[error("the queue pair cannot carry out the request")]
    LocalQueuePair,
    /// Memory of ours is not registered, or not for this.
    #[error("the request names local memory that is not registered for it")]
    LocalProtection,
    /// The queue pair was in the error state already, or was put there.
    #[error("the queue pair failed before the request was carried out")]
    Flushed,
    /// The peer found the request malformed, or has no room for it.
    #[error("the peer refuses the request as invalid")]
    RemoteInvalidRequest,
    /// The key, the address or the access rights are wrong.
    #[error("the peer's memory is not registered for this: wrong key, range or access")]
    RemoteAccess,
    /// The peer could not carry it out.
    #[error("the peer failed to carry out the request")]
    RemoteOperation,
    /// The peer does not answer.
    #[error("the peer does not answer: retries exceeded")]
    NoAnswer,
    /// The peer has posted no receive buffer.
    #[error("the peer has no receive buffer: retries exceeded")]
    ReceiverNotReady,
    /// Another one.
    #[error("{} (status {_0})", status_text(*.0).unwrap_or("unknown"))]
    Other(u32),
}

impl CompletionError {
    fn of(status: ibv_wc_status::Type) -> Self {
        match status {
            ibv_wc_status::IBV_WC_LOC_LEN_ERR => Self::LocalLength,
            ibv_wc_status::IBV_WC_LOC_QP_OP_ERR => Self::LocalQueuePair,
            ibv_wc_status::IBV_WC_LOC_PROT_ERR => Self::LocalProtection,
            ibv_wc_status::IBV_WC_WR_FLUSH_ERR => Self::Flushed,
            ibv_wc_status::IBV_WC_REM_INV_REQ_ERR => Self::RemoteInvalidRequest,
            ibv_wc_status::IBV_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            ibv_wc_status::IBV_WC_REM_OP_ERR => Self::RemoteOperation,
            ibv_wc_status::IBV_WC_RETRY_EXC_ERR => Self::NoAnswer,
            ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR => Self::ReceiverNotReady,
            other => Self::Other(other),
        }
    }
}

impl Completion {
    /// The number that the request was given.
    pub fn id(&self) -> u64 {
        self.0.wr_id
    }

    /// Whether it was carried out. If not, all but the number is meaningless.
    pub fn result(&self) -> Result<(), CompletionError> {
        match self.0.status {
            ibv_wc_status::IBV_WC_SUCCESS => Ok(()),
            status => Err(CompletionError::of(status)),
        }
    }

    /// Bytes received; of a datagram with the 40 of its global routing header.
    pub fn len(&self) -> usize {
        self.0.byte_len as usize
    }

    /// Whether nothing was received.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The queue pair that sent a datagram.
    pub fn source_queue_pair(&self) -> u32 {
        self.0.src_qp
    }

    /// Whether the first 40 bytes of the buffer are a global routing header.
    pub fn has_routing_header(&self) -> bool {
        self.0.wc_flags & ibv_wc_flags::IBV_WC_GRH.0 != 0
    }
}

impl Default for Completion {
    fn default() -> Self {
        // SAFETY: it is made of integers.
        Self(unsafe { std::mem::zeroed() })
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("id", &self.id())
            .field("result", &self.result())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

// SAFETY: channels are not bound to a thread, and libibverbs is thread-safe.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    /// A channel for the queues of one device.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let made = unsafe { ibv_create_comp_channel(context.as_ptr()) };
        let channel = object("making a completion channel", made)?;
        let channel = Self { channel, _context: Arc::clone(context) };
        let nonblocking =
            fcntl_getfl(&channel).and_then(|flags| fcntl_setfl(&channel, flags | OFlags::NONBLOCK));
        nonblocking.map_err(|e| VerbsError::failed("making a completion channel", e.into()))?;
        Ok(Arc::new(channel))
    }

    /// Takes all events, after which the descriptor is readable again only when an armed queue gets
    /// something.
    ///
    /// # Errors
    /// The device is gone.
    pub fn drain(&self) -> io::Result<()> {
        loop {
            let (mut queue, mut context) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the channel lives, its descriptor does not block, and there is room for both.
            let result = unsafe {
                ibv_get_cq_event(self.channel.as_ptr(), &raw mut queue, &raw mut context)
            };
            if result != 0 {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(()),
                    io::ErrorKind::Interrupted => continue,
                    _ => Err(error),
                };
            }
            // SAFETY: the queue lives: destroying it waits for this.
            unsafe { ibv_ack_cq_events(queue, 1) };
        }
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel's descriptor is open for as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: the queues that use it had an `Arc` of it and are gone. Nothing can be done about an
        // error.
        unsafe { ibv_destroy_comp_channel(self.channel.as_ptr()) };
    }
}

// SAFETY: queues are not bound to a thread, and libibverbs is thread-safe.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue of at least `slots` completions. It must never hold more: requests that are posted and
    /// not polled count.
    pub fn new(
        context: &Arc<Context>,
        slots: usize,
        channel: Option<&Arc<CompletionChannel>>,
    ) -> Result<Arc<Self>, VerbsError> {
        let slots = i32::try_from(slots).unwrap_or(i32::MAX);
        let to = channel.map_or(ptr::null_mut(), |channel| channel.channel.as_ptr());
        // SAFETY: context and channel live.
        let made = unsafe { ibv_create_cq(context.as_ptr(), slots, ptr::null_mut(), to, 0) };
        let queue = object("making a completion queue", made)?;
        let (context, channel) = (Arc::clone(context), channel.map(Arc::clone));
        Ok(Arc::new(Self { queue, context, channel }))
    }

    /// The device that it is of.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Takes as many completions as there are and `into` has room for.
    ///
    /// # Errors
    /// The device failed.
    pub fn poll<'a>(&self, into: &'a mut [Completion]) -> io::Result<&'a [Completion]> {
        let room = i32::try_from(into.len()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives; a `Completion` is an `ibv_wc`, and there are so many.
        let taken = unsafe { ibv_poll_cq(self.queue.as_ptr(), room, into.as_mut_ptr().cast()) };
        match usize::try_from(taken) {
            Ok(taken) => Ok(&into[..taken.min(into.len())]),
            Err(_) => Err(io::Error::other("the completion queue failed")),
        }
    }

    /// The next completion that is put into the queue makes the channel's descriptor readable. What is
    /// there already does not: poll once more afterwards.
    pub fn arm(&self) -> io::Result<()> {
        // SAFETY: the queue lives.
        let result = unsafe { ibv_req_notify_cq(self.queue.as_ptr(), 0) };
        done("arming the completion queue", result).map_err(io::Error::from)
    }

    /// The channel that it speaks to.
    pub fn channel(&self) -> Option<&Arc<CompletionChannel>> {
        self.channel.as_ref()
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_cq {
        self.queue.as_ptr()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue pairs that use it had an `Arc` of it and are gone, and every event was
        // acknowledged by whoever got it. Nothing can be done about an error.
        unsafe { ibv_destroy_cq(self.as_ptr()) };
    }
}
