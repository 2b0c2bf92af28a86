use std::ops::Range;

use rdma_mummy_sys::{atomic_t, ibv_send_flags, ibv_wr_opcode, rdma_t, wr_t};

use super::memory::Memory;
use super::request::SendBatch;

/// Memory of a peer, in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteAddress {
    /// Where it begins, in the peer's process.
    pub address: u64,
    /// The peer's key for it.
    pub key: u32,
}

impl SendBatch {
    /// The peer's memory is read into `range` of `memory`.
    ///
    /// # Panics
    /// If the range is not within the memory.
    pub fn push_read(
        &mut self,
        id: u64,
        memory: &Memory,
        range: &Range<usize>,
        from: RemoteAddress,
    ) {
        let remote = wr_t { rdma: rdma_t { remote_addr: from.address, rkey: from.key } };
        self.push(id, memory.element(range), ibv_wr_opcode::IBV_WR_RDMA_READ, 0, remote);
    }

    /// `range` of `memory` is written to the peer's. With `inline` it is copied when it is posted.
    ///
    /// # Panics
    /// If the range is not within the memory.
    pub fn push_write(
        &mut self,
        id: u64,
        memory: &Memory,
        range: &Range<usize>,
        to: RemoteAddress,
        inline: bool,
    ) {
        let flags = if inline { ibv_send_flags::IBV_SEND_INLINE.0 } else { 0 };
        let remote = wr_t { rdma: rdma_t { remote_addr: to.address, rkey: to.key } };
        self.push(id, memory.element(range), ibv_wr_opcode::IBV_WR_RDMA_WRITE, flags, remote);
    }

    /// The peer's eight bytes, if they are `expected`, become `new`. What they were is written to the
    /// eight bytes `range` of `memory`.
    ///
    /// # Panics
    /// If the range is not within the memory.
    pub fn push_compare_and_swap(
        &mut self,
        id: u64,
        (memory, range): (&Memory, &Range<usize>),
        at: RemoteAddress,
        expected: u64,
        new: u64,
    ) {
        let atomic =
            atomic_t { remote_addr: at.address, compare_add: expected, swap: new, rkey: at.key };
        let opcode = ibv_wr_opcode::IBV_WR_ATOMIC_CMP_AND_SWP;
        self.push(id, memory.element(range), opcode, 0, wr_t { atomic });
    }

    /// `add` is added to the peer's eight bytes. What they were is written to the eight bytes `range` of
    /// `memory`.
    ///
    /// # Panics
    /// If the range is not within the memory.
    pub fn push_fetch_add(
        &mut self,
        id: u64,
        (memory, range): (&Memory, &Range<usize>),
        at: RemoteAddress,
        add: u64,
    ) {
        let atomic = atomic_t { remote_addr: at.address, compare_add: add, swap: 0, rkey: at.key };
        let opcode = ibv_wr_opcode::IBV_WR_ATOMIC_FETCH_AND_ADD;
        self.push(id, memory.element(range), opcode, 0, wr_t { atomic });
    }
}
