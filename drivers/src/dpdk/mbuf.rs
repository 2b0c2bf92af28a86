//! Mbufs in our hands.

use std::slice;

use dpdk_sys::{
    UP_MBUF_EXTERNAL, UP_MBUF_INDIRECT, rte_mbuf, rte_pktmbuf_free_bulk, up_mbuf, up_next_segment,
};

use crate::dpdk_segment::{Chain, Segment};

/// Mbufs that are ours, freed together.
pub(super) struct Mbufs(Vec<*mut rte_mbuf>);

// SAFETY: an mbuf belongs to whoever holds it, on any thread.
unsafe impl Send for Mbufs {}

impl Mbufs {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes an mbuf over from whoever held it.
    pub(super) fn push(&mut self, mbuf: *mut rte_mbuf) {
        self.0.push(mbuf);
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [*mut rte_mbuf] {
        &mut self.0
    }

    /// Somebody else has the first `count` now.
    pub(super) fn forget_first(&mut self, count: usize) {
        self.0.drain(..count.min(self.0.len()));
    }

    /// Frees the first one.
    pub(super) fn free_first(&mut self) {
        if !self.0.is_empty() {
            // SAFETY: it is ours, and no slice of it is left, as for `free`.
            unsafe { rte_pktmbuf_free_bulk(self.0.as_mut_ptr(), 1) };
            self.forget_first(1);
        }
    }

    /// Frees all, with the segments behind each.
    pub(super) fn free(&mut self) {
        if !self.0.is_empty() {
            // SAFETY: these are ours, each once, for whoever pushed one gave it away. Slices of them are
            // lent for as long as the queue is borrowed that holds them.
            unsafe { rte_pktmbuf_free_bulk(self.0.as_mut_ptr(), self.0.len() as u32) };
            self.0.clear();
        }
    }
}

impl Drop for Mbufs {
    fn drop(&mut self) {
        self.free();
    }
}

/// Whether a received frame is what its mbufs say, all of it within their buffers.
pub(super) fn is_sound(frame: &up_mbuf) -> bool {
    let mut chain = Chain::default();
    each_segment(frame, |part| chain.push(segment(part)).is_some())
        && chain.is_whole(frame.nb_segs, frame.pkt_len)
}

/// Whether the bytes of a frame lie in one piece in a buffer that nobody else reads.
pub(super) fn is_one_piece(frame: &up_mbuf) -> bool {
    frame.nb_segs == 1
        && frame.refcnt == 1
        && frame.flags & (UP_MBUF_INDIRECT | UP_MBUF_EXTERNAL) == 0
}

/// Copies the bytes of a sound frame to the end of `to`.
pub(super) fn copy(frame: &up_mbuf, to: &mut Vec<u8>) {
    each_segment(frame, |part| {
        let range = segment(part).range();
        if let Some(range) = &range {
            // SAFETY: the buffer has `buf_len` bytes, the range is within, and the mbuf is ours.
            to.extend_from_slice(unsafe {
                slice::from_raw_parts(part.buffer.add(range.start), range.len())
            });
        }
        range.is_some()
    });
}

/// The bytes of a sound frame in one piece; of an mbuf to be sent, all that it holds.
///
/// # Safety
/// The mbuf is the caller's, its buffer is nobody else's, and it is not given away for as long as the
/// slice lives.
pub(super) unsafe fn bytes<'a>(frame: &up_mbuf) -> Option<&'a mut [u8]> {
    let range = segment(frame).range()?;
    // SAFETY: the buffer has `buf_len` bytes and the range is within; the rest is the caller's promise.
    Some(unsafe { slice::from_raw_parts_mut(frame.buffer.add(range.start), range.len()) })
}

fn segment(part: &up_mbuf) -> Segment {
    Segment { buf_len: part.buf_len, data_off: part.data_off, data_len: part.data_len }
}

/// Calls `look` with each segment as long as it returns true; true if it always did.
fn each_segment(frame: &up_mbuf, mut look: impl FnMut(&up_mbuf) -> bool) -> bool {
    let mut part = *frame;
    loop {
        if !look(&part) {
            return false;
        }
        // A frame of one segment is not asked for another: that is on another cache line.
        if frame.nb_segs == 1 {
            return true;
        }
        let mut next = up_mbuf::default();
        // SAFETY: the mbuf is ours, and so are those behind it.
        if !unsafe { up_next_segment(&raw const part, &raw mut next) } {
            return true;
        }
        part = next;
    }
}
