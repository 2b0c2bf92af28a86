use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use dpdk_sys::{
    UP_BURST, UP_MBUF_RX_L4_BAD, UP_MBUF_RX_L4_GOOD, UP_MBUF_RX_L4_MASK, UP_MBUF_RX_L4_NONE,
    UP_MBUF_RX_LRO, UP_MBUF_RX_RSS_HASH, up_mbuf, up_rx_burst,
};
use underpass_devices::{Buffers, Counters, Frame, Instant, RxChecksum, RxMeta, RxQueue};

use super::interface::Interface;
use super::mbuf::{self, Mbufs};
use super::port::{Port, Statistics};
use super::thread;
use crate::partial_checksum;

/// The receive half of a [`DpdkDevice`](super::DpdkDevice): frames are lent in the mbufs that the
/// poll-mode driver put them into.
pub struct DpdkRx {
    port: Arc<Port>,
    queue: u16,
    /// Frames that are ready, from `next` to `end`.
    ready: Box<[up_mbuf; BURST]>,
    next: usize,
    end: usize,
    lent: Mbufs,
    /// Frames that were not as their mbufs say.
    refused: Mbufs,
    slots: usize,
    /// A frame of several mbufs, in one piece.
    joined: Vec<u8>,
    partial_checksums: bool,
    /// The interface that it hangs on.
    interface: Option<Interface>,
    checked: Instant,
    gone: bool,
    frames: u64,
    bytes: u64,
    errors: u64,
}

// SAFETY: the mbufs that `ready` points to are this queue's own.
unsafe impl Send for DpdkRx {}

const BURST: usize = UP_BURST as usize;
/// How often to look whether the device is still there.
const CHECK_EVERY: Duration = Duration::from_secs(1);

impl DpdkRx {
    pub(super) fn new(
        port: Arc<Port>,
        queue: u16,
        slots: usize,
        partial_checksums: bool,
        interface: Option<Interface>,
    ) -> Self {
        Self {
            port,
            queue,
            ready: Box::new([up_mbuf::default(); BURST]),
            next: 0,
            end: 0,
            lent: Mbufs::with_capacity(slots),
            refused: Mbufs::with_capacity(BURST),
            slots,
            joined: Vec::new(),
            partial_checksums,
            interface,
            checked: Instant::ZERO,
            gone: false,
            frames: 0,
            bytes: 0,
            errors: 0,
        }
    }

    pub(super) fn port(&self) -> &Arc<Port> {
        &self.port
    }

    /// What was received, beside what was `sent`. The driver counts for all queues together; the first
    /// one tells.
    pub(super) fn counters(&self, sent: Counters) -> Counters {
        let driver = match self.queue {
            0 => self.port.statistics(),
            _ => Statistics::default(),
        };
        Counters {
            rx_frames: self.frames,
            rx_bytes: self.bytes,
            rx_overruns: driver.rx_overruns,
            rx_errors: self.errors + driver.rx_errors,
            tx_errors: sent.tx_errors + driver.tx_errors,
            ..sent
        }
    }

    /// The receive buffers, beside the transmit slots in `tx`. Those in the driver's ring come on top.
    pub(super) fn buffers(&self, tx: Buffers) -> Buffers {
        let (ready, lent) = (self.end - self.next, self.lent.len());
        Buffers {
            rx_total: self.slots,
            rx_free: self.slots - ready - lent,
            rx_ready: ready,
            rx_lent: lent,
            ..tx
        }
    }

    fn take_burst(&mut self) {
        if self.next > 0 {
            self.ready.copy_within(self.next..self.end, 0);
            self.end -= self.next;
            self.next = 0;
        }
        let free = self.slots - self.end - self.lent.len();
        let room = free.min(BURST - self.end) as u16;
        if room == 0 {
            return;
        }
        let Some(_pass) = self.port.pass() else {
            return;
        };
        // SAFETY: the port is open, the queue is one of it and used by this value alone; `ready` has room
        // for so many behind `end`.
        let taken = unsafe {
            let to = self.ready.as_mut_ptr().add(self.end);
            up_rx_burst(self.port.id(), self.queue, to, room)
        };
        for at in self.end..self.end + usize::from(taken.min(room)) {
            self.admit(self.ready[at]);
        }
        self.refused.free();
    }

    /// Takes a frame, if it is as its mbufs say.
    fn admit(&mut self, frame: up_mbuf) {
        if mbuf::is_sound(&frame) {
            self.ready[self.end] = frame;
            self.end += 1;
        } else {
            self.errors += 1;
            self.refused.push(frame.mbuf);
        }
    }

    /// An error if the device is gone.
    fn check_alive(&mut self, now: Instant) -> io::Result<()> {
        if now - self.checked >= CHECK_EVERY {
            self.checked = now;
            let interface = self.interface.as_mut();
            self.gone |= self.port.is_removed() || interface.is_some_and(|i| !i.exists());
        }
        if self.gone { Err(io::Error::from_raw_os_error(libc::ENODEV)) } else { Ok(()) }
    }

    fn meta(&self, frame: &up_mbuf, bytes: &[u8]) -> RxMeta {
        let partial = || partial_checksum::partial(bytes).map(RxChecksum::Partial);
        let checksum = match frame.flags & UP_MBUF_RX_L4_MASK {
            UP_MBUF_RX_L4_GOOD => RxChecksum::Valid,
            UP_MBUF_RX_L4_BAD => RxChecksum::Bad,
            // It is not in the packet, but its data are as they were sent.
            UP_MBUF_RX_L4_NONE => partial().unwrap_or(RxChecksum::Valid),
            _ if self.partial_checksums => partial().unwrap_or_default(),
            _ => RxChecksum::Unverified,
        };
        let has = |flag| frame.flags & flag != 0;
        RxMeta {
            checksum,
            segmentation: NonZeroU16::new(frame.segment).filter(|_| has(UP_MBUF_RX_LRO)),
            hash: has(UP_MBUF_RX_RSS_HASH).then_some(frame.rss),
            timestamp: None,
        }
    }
}

impl RxQueue for DpdkRx {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        thread::register();
        self.take_burst();
        if self.next == self.end {
            self.check_alive(now)?;
        }
        Ok(self.end - self.next)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        if self.next == self.end {
            return None;
        }
        let frame = self.ready[self.next];
        self.next += 1;
        self.lent.push(frame.mbuf);
        self.frames += 1;
        self.bytes += u64::from(frame.pkt_len);
        if mbuf::is_one_piece(&frame) {
            // SAFETY: the mbuf is in `lent` and stays there until `release`, which borrows this value as
            // the slice does; it is the only one that refers to its buffer, and sound.
            let bytes = unsafe { mbuf::bytes(&frame) }?;
            let meta = self.meta(&frame, bytes);
            return Some(Frame { bytes, meta });
        }
        self.joined.clear();
        mbuf::copy(&frame, &mut self.joined);
        let meta = self.meta(&frame, &self.joined);
        Some(Frame { bytes: &mut self.joined, meta })
    }

    fn release(&mut self) {
        self.lent.free();
    }
}

impl fmt::Debug for DpdkRx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, queue, .. } = self;
        f.debug_struct("DpdkRx").field("port", port).field("queue", queue).finish_non_exhaustive()
    }
}

impl Drop for DpdkRx {
    fn drop(&mut self) {
        // They are freed with what is lent.
        for at in self.next..self.end {
            self.lent.push(self.ready[at].mbuf);
        }
    }
}
