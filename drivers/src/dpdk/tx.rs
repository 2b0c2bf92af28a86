use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dpdk_sys::{
    UP_BURST, UP_MBUF_TX_IP_CHECKSUM, UP_MBUF_TX_IPV4, UP_MBUF_TX_IPV6, UP_MBUF_TX_TCP_CHECKSUM,
    UP_MBUF_TX_TCP_SEG, UP_MBUF_TX_UDP_CHECKSUM, rte_mbuf, up_alloc_bulk, up_append, up_mbuf,
    up_request, up_set_len, up_tx_burst, up_tx_prepare,
};
use underpass_devices::{Buffers, Caps, Counters, Instant, SendError, TxMeta, TxQueue};

use super::mbuf::{self, Mbufs};
use super::port::{Found, Port};

use super::thread;
use crate::dpdk_request::{self as request, Request};

/// The transmit half of a [`DpdkDevice`](super::DpdkDevice): frames are written into mbufs, which the
/// poll-mode driver takes.
pub struct DpdkTx {
    port: Arc<Port>,
    queue: u16,
    caps: Caps,
    /// The device computes checksums of IPv4 headers.
    ip_checksum: bool,
    /// Mbufs that can be written to, the one that was used last at the end.
    stock: Vec<up_mbuf>,
    /// Frames that the driver has not taken, oldest first.
    written: Mbufs,
    /// Mbufs in each of them.
    parts: Vec<usize>,
    /// Some of them ask for an offload.
    has_requests: bool,
    /// Mbufs that the longest frame takes.
    mbufs_per_frame: usize,
    slots: usize,
    /// A frame of several mbufs, in one piece.
    joined: Vec<u8>,
    /// Since when the driver has taken nothing.
    stalled: Option<Instant>,
    counters: Counters,
}

// SAFETY: the mbufs that `stock` points to are this queue's own.
unsafe impl Send for DpdkTx {}

const BURST: usize = UP_BURST as usize;
/// A driver that has taken nothing for so long will never take the first frame.
const PATIENCE: Duration = Duration::from_secs(1);

impl DpdkTx {
    pub(super) fn new(
        port: Arc<Port>,
        queue: u16,
        caps: Caps,
        found: &Found,
        slots: usize,
    ) -> Self {
        let mbufs_per_frame = caps.max_tx_frame().div_ceil(found.room);
        let mut tx = Self {
            port,
            queue,
            caps,
            ip_checksum: found.tx.ip_checksum,
            stock: Vec::with_capacity(slots),
            written: Mbufs::with_capacity(slots),
            parts: Vec::with_capacity(slots),
            has_requests: false,
            mbufs_per_frame,
            slots,
            joined: Vec::new(),
            stalled: None,
            counters: Counters::default(),
        };
        tx.restock();
        tx
    }

    /// What was sent.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The transmit slots, of as many mbufs as the longest frame takes.
    pub(super) fn buffers(&self) -> Buffers {
        let (total, free) = (self.slots / self.mbufs_per_frame, self.room());
        Buffers { tx_total: total, tx_free: free, tx_busy: total - free, ..Buffers::default() }
    }

    /// Gets mbufs for those that the driver has taken.
    fn restock(&mut self) {
        let Some(pool) = self.port.pool(self.queue) else {
            return;
        };
        let mut burst = BURST;
        let written: usize = self.parts.iter().sum();
        loop {
            let missing = self.slots.saturating_sub(self.stock.len() + written);
            burst = burst.min(missing);
            if burst == 0 {
                return;
            }
            let mut mbufs = [up_mbuf::default(); BURST];
            // SAFETY: the pool lives as long as the port; there is room for `burst` mbufs.
            if unsafe { up_alloc_bulk(pool.as_ptr(), mbufs.as_mut_ptr(), burst as u16) } == 0 {
                self.stock.extend_from_slice(&mbufs[..burst]);
            } else {
                // The driver still holds some: as many as there are.
                burst /= 2;
            }
        }
    }

    /// The next mbuf, to hold `len` bytes.
    fn take(&mut self, len: usize) -> Option<up_mbuf> {
        let mut mbuf = self.stock.pop()?;
        mbuf.data_len = len as u16;
        // SAFETY: the mbuf is ours; `bytes` looks whether it has room for so many.
        unsafe { up_set_len(mbuf.mbuf, len as u16) };
        Some(mbuf)
    }

    /// Queues a frame whose mbufs are written.
    fn queue(&mut self, mbuf: *mut rte_mbuf, mbufs: usize, request: Option<&Request>) {
        if let Some(request) = request {
            self.has_requests = true;
            // SAFETY: the mbuf is ours, the first of its frame.
            unsafe {
                up_request(
                    mbuf,
                    flags(request),
                    request.l2_len,
                    request.l3_len,
                    request.l4_len,
                    request.segment,
                );
            }
        }
        self.written.push(mbuf);
        self.parts.push(mbufs);
    }

    /// Cuts the frame in `joined` over several mbufs.
    fn scatter(&mut self, room: usize, request: Option<&Request>) {
        let joined = std::mem::take(&mut self.joined);
        let mut chain: Option<(up_mbuf, up_mbuf)> = None;
        let mut mbufs = 0;
        for part in joined.chunks(room) {
            // There is room for the longest frame.
            let Some(mbuf) = self.take(part.len()) else {
                break;
            };
            mbufs += 1;
            // SAFETY: the mbuf is ours and new.
            if let Some(bytes) = unsafe { mbuf::bytes(&mbuf) } {
                bytes.copy_from_slice(part);
            }
            let first = match chain {
                None => mbuf,
                Some((first, last)) => {
                    // SAFETY: all three are ours; `last` is the end of the chain of `first`.
                    unsafe { up_append(first.mbuf, last.mbuf, mbuf.mbuf) };
                    first
                }
            };
            chain = Some((first, mbuf));
        }
        if let Some((first, _)) = chain {
            self.queue(first.mbuf, mbufs, request);
        }
        self.joined = joined;
    }

    /// Gives the driver what is written. It takes as much as it has room for.
    fn hand_over(&mut self, now: Instant) {
        // A fraction of a millisecond at most: who flushes may not come again.
        let _pass = self.port.wait();
        let mut taken = 0;
        let waiting = self.written.len();
        while taken < waiting {
            let frames = &mut self.written.as_mut_slice()[taken..];
            let count = frames.len().min(usize::from(u16::MAX)) as u16;
            let (port, queue) = (self.port.id(), self.queue);
            // SAFETY: the port is open, the queue is one of it and used by this value alone; the frames
            // are ours, and those that are taken are not touched again.
            let sent = unsafe {
                let mut fit = count;
                if self.has_requests {
                    fit = up_tx_prepare(port, queue, frames.as_mut_ptr(), count);
                }
                up_tx_burst(port, queue, frames.as_mut_ptr(), fit)
            };
            if sent == 0 {
                break;
            }
            taken += usize::from(sent);
        }
        self.written.forget_first(taken);
        self.parts.drain(..taken);
        if self.written.len() == 0 {
            self.has_requests = false;
            self.stalled = None;
        } else if taken > 0 {
            self.stalled = Some(now);
        } else if now - *self.stalled.get_or_insert(now) >= PATIENCE {
            self.stalled = None;
            self.written.free_first();
            self.parts.remove(0);
            self.counters.tx_errors += 1;
        }
    }
}

/// In the words of DPDK.
fn flags(request: &Request) -> u64 {
    let when = |on, flag| if on { flag } else { 0 };
    when(!request.is_v6, UP_MBUF_TX_IPV4)
        | when(request.is_v6, UP_MBUF_TX_IPV6)
        | when(request.ip_checksum, UP_MBUF_TX_IP_CHECKSUM)
        | when(request.segment > 0, UP_MBUF_TX_TCP_SEG)
        | if request.is_udp { UP_MBUF_TX_UDP_CHECKSUM } else { UP_MBUF_TX_TCP_CHECKSUM }
}

impl TxQueue for DpdkTx {
    fn room(&self) -> usize {
        self.stock.len() / self.mbufs_per_frame
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        if !self.caps.takes(len, &meta) {
            self.counters.tx_unsupported += 1;
            return Err(SendError::Unsupported);
        }
        if self.room() == 0 {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        }
        let room = self.stock.last().map_or(0, |mbuf| usize::from(mbuf.buf_len - mbuf.data_off));
        let value = if len > room {
            self.joined.resize(len, 0);
            let value = write(&mut self.joined);
            let request = request::prepare(&mut self.joined, &meta, self.ip_checksum);
            self.scatter(room, request.as_ref());
            value
        } else {
            // There is room.
            let mbuf = self.take(len).ok_or(SendError::Full)?;
            // SAFETY: the mbuf is ours and new; it is given away when the slice is gone.
            let bytes = unsafe { mbuf::bytes(&mbuf) }.ok_or(SendError::Unsupported)?;
            let value = write(bytes);
            let request = request::prepare(bytes, &meta, self.ip_checksum);
            self.queue(mbuf.mbuf, 1, request.as_ref());
            value
        };
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        Ok(value)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        thread::register();
        if self.written.len() > 0 {
            self.hand_over(now);
        }
        self.restock();
        Ok(())
    }
}

impl fmt::Debug for DpdkTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, queue, .. } = self;
        f.debug_struct("DpdkTx").field("port", port).field("queue", queue).finish_non_exhaustive()
    }
}

impl Drop for DpdkTx {
    fn drop(&mut self) {
        // They are freed with what is written.
        for mbuf in self.stock.drain(..) {
            self.written.push(mbuf.mbuf);
        }
    }
}
