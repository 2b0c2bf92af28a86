use std::fmt;
use std::io;
use std::mem;
use std::ops::Range;
use std::ptr;

use rdma_mummy_sys::{
    ibv_post_recv, ibv_post_send, ibv_recv_wr, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wr_opcode,
    ud_t, wr_t,
};

use super::address::AddressHandle;
use super::memory::Memory;
use super::queue_pair::QueuePair;

/// Requests that are sent with one doorbell. Its memory is used again and again.
pub struct SendBatch {
    requests: Vec<ibv_send_wr>,
    elements: Vec<ibv_sge>,
}

/// Receive buffers that are handed over with one doorbell. Its memory is used again and again.
pub struct ReceiveBatch {
    requests: Vec<ibv_recv_wr>,
    elements: Vec<ibv_sge>,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The way.
    pub handle: &'a AddressHandle,
    /// The queue pair there.
    pub queue_pair: u32,
    /// The key that it takes.
    pub q_key: u32,
}

/// Not all requests of a batch were taken.
#[derive(Debug, thiserror::Error)]
#[error("{taken} of the batch were posted: {source}")]
pub struct PostError {
    /// Those in front of the one that failed were taken.
    pub taken: usize,
    /// Why it failed; `ENOMEM`: the queue is full.
    pub source: io::Error,
}

// SAFETY: the pointers in requests lead to the elements beside them, and to handles and memory of which
// callers of `post_send` vouch that they live.
unsafe impl Send for SendBatch {}
// SAFETY: as above.
unsafe impl Send for ReceiveBatch {}

impl SendBatch {
    /// Room for so many requests.
    pub fn with_capacity(requests: usize) -> Self {
        let elements = Vec::with_capacity(requests);
        Self { requests: Vec::with_capacity(requests), elements }
    }

    /// Requests in it.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The number of the first one.
    pub fn first_id(&self) -> Option<u64> {
        self.requests.first().map(|request| request.wr_id)
    }

    /// Takes all out that are in it.
    pub fn clear(&mut self) {
        self.remove_first(self.len());
    }

    /// A datagram of `range` of `memory`. With `inline` it is copied when it is posted.
    ///
    /// # Panics
    /// If the range is not within the memory.
    pub fn push_datagram(
        &mut self,
        id: u64,
        memory: &Memory,
        range: &Range<usize>,
        to: Destination<'_>,
        inline: bool,
    ) {
        let flags = if inline { ibv_send_flags::IBV_SEND_INLINE.0 } else { 0 };
        let address =
            ud_t { ah: to.handle.as_ptr(), remote_qpn: to.queue_pair, remote_qkey: to.q_key };
        self.push(
            id,
            memory.element(range),
            ibv_wr_opcode::IBV_WR_SEND,
            flags,
            wr_t { ud: address },
        );
    }

    /// A request of any kind.
    pub(super) fn push(
        &mut self,
        id: u64,
        element: ibv_sge,
        opcode: ibv_wr_opcode::Type,
        flags: u32,
        wr: wr_t,
    ) {
        // SAFETY: it is made of integers and pointers that may be null.
        let mut request: ibv_send_wr = unsafe { mem::zeroed() };
        request.wr_id = id;
        request.num_sge = 1;
        request.opcode = opcode;
        request.send_flags = flags;
        request.wr = wr;
        self.elements.push(element);
        self.requests.push(request);
    }

    /// Gives the request that was pushed last another number.
    pub fn set_last_id(&mut self, id: u64) {
        if let Some(request) = self.requests.last_mut() {
            request.wr_id = id;
        }
    }

    /// The success of the request that was pushed last is told, too; a failure always is.
    pub fn signal_last(&mut self) {
        if let Some(request) = self.requests.last_mut() {
            request.send_flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
    }

    fn chain(&mut self) -> *mut ibv_send_wr {
        let first = self.requests.as_mut_ptr();
        let count = self.requests.len();
        for (at, element) in self.elements.iter_mut().enumerate() {
            self.requests[at].sg_list = element;
            // Requests do not move until the next push, after which they are chained again.
            self.requests[at].next =
                if at + 1 < count { first.wrapping_add(at + 1) } else { ptr::null_mut() };
        }
        first
    }

    fn remove_first(&mut self, count: usize) {
        self.requests.drain(..count);
        self.elements.drain(..count);
    }
}

impl ReceiveBatch {
    /// Room for so many requests.
    pub fn with_capacity(requests: usize) -> Self {
        let elements = Vec::with_capacity(requests);
        Self { requests: Vec::with_capacity(requests), elements }
    }

    /// Requests in it.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// A buffer: `range` of `memory`.
    ///
    /// # Panics
    /// If the range is not within the memory.
    pub fn push(&mut self, id: u64, memory: &Memory, range: &Range<usize>) {
        self.elements.push(memory.element(range));
        self.requests.push(ibv_recv_wr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: 1,
        });
    }

    fn chain(&mut self) -> *mut ibv_recv_wr {
        let first = self.requests.as_mut_ptr();
        let count = self.requests.len();
        for (at, element) in self.elements.iter_mut().enumerate() {
            self.requests[at].sg_list = element;
            self.requests[at].next =
                if at + 1 < count { first.wrapping_add(at + 1) } else { ptr::null_mut() };
        }
        first
    }

    fn remove_first(&mut self, count: usize) {
        self.requests.drain(..count);
        self.elements.drain(..count);
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBatch").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl QueuePair {
    /// Posts a batch with one doorbell. What was taken is no longer in it afterwards.
    ///
    /// # Safety
    /// Until the requests are complete (their own completion was polled, or that of a later one, or the
    /// queue pair is gone), their memory and address handles live, and nobody writes to that memory
    /// (nor reads it, if the request has the device write to it). Inline datagrams need their memory
    /// during the call alone.
    pub unsafe fn post_send(&self, batch: &mut SendBatch) -> Result<(), PostError> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = batch.chain();
        let mut bad = ptr::null_mut();
        // SAFETY: the pair lives, the requests are a chain that ends, and the caller vouches for what
        // they point to.
        let result = unsafe { ibv_post_send(self.as_ptr(), first, &raw mut bad) };
        let outcome = outcome(result, index(first, bad, batch.len()), batch.len());
        batch.remove_first(outcome.as_ref().map_or_else(|error| error.taken, |()| batch.len()));
        outcome
    }

    /// Posts receive buffers with one doorbell. Those that were taken are no longer in the batch
    /// afterwards.
    ///
    /// # Safety
    /// Until a buffer's completion was polled, or the queue pair is gone, its memory lives and nobody
    /// touches it.
    pub unsafe fn post_receive(&self, batch: &mut ReceiveBatch) -> Result<(), PostError> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = batch.chain();
        let mut bad = ptr::null_mut();
        // SAFETY: the pair lives, the requests are a chain that ends, and the caller vouches for what
        // they point to.
        let result = unsafe { ibv_post_recv(self.as_ptr(), first, &raw mut bad) };
        let outcome = outcome(result, index(first, bad, batch.len()), batch.len());
        batch.remove_first(outcome.as_ref().map_or_else(|error| error.taken, |()| batch.len()));
        outcome
    }
}

/// Which request of a chain the library stopped at.
fn index<T>(first: *mut T, bad: *mut T, count: usize) -> usize {
    let bytes = (bad as usize).saturating_sub(first as usize);
    (bytes / size_of::<T>()).min(count)
}

fn outcome(result: i32, bad: usize, count: usize) -> Result<(), PostError> {
    match result {
        0 => Ok(()),
        errno => {
            let source = io::Error::from_raw_os_error(errno.abs());
            Err(PostError { taken: bad.min(count.saturating_sub(1)), source })
        }
    }
}
