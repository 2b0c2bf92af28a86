use std::io;
use std::ops::AddAssign;
use std::os::fd::BorrowedFd;

use crate::{Caps, Instant, RxMeta, Selection, TxMeta};

/// One queue pair of a packet device, owned by one shard.
///
/// The order of calls in one turn of a shard:
///
/// ```text
/// fill → next, next, … (answers go to the transmit queue meanwhile) → release → flush
/// ```
pub trait Device {
    /// The receive half, borrowed from the device or made for one turn around what is.
    type Rx<'a>: RxQueue
    where
        Self: 'a;
    /// The transmit half.
    type Tx<'a>: TxQueue
    where
        Self: 'a;

    /// What this device can do. The same value for as long as the device is open.
    fn caps(&self) -> &Caps;

    /// Both halves at once, so that a frame can be answered while it is still lent.
    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>);

    /// Prepares to sleep, and says what to sleep on. Called when `fill` returned nothing and the
    /// shard has nothing to do. A frame that arrives at any time after the last `fill` must either
    /// make this return [`Wake::Ready`] or make the descriptor readable: no wake-up is ever lost.
    fn wake(&mut self) -> io::Result<Wake<'_>>;

    /// Says which frames the stack wants from now on. A device that shares its interface with the
    /// kernel delivers these and leaves the rest to it; one that does not share delivers everything
    /// anyway. Of several queue pairs the first is told, for all of them.
    ///
    /// # Errors
    /// The device is gone, or cannot select what is wanted.
    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        let _ = wanted;
        Ok(())
    }

    /// What has happened on this queue pair since it was opened.
    fn counters(&self) -> Counters;

    /// Where every frame buffer of this queue pair is right now.
    fn buffers(&self) -> Buffers;
}

/// The receive half of a queue pair.
pub trait RxQueue {
    /// Takes a burst of what has arrived and returns the number of frames ready for [`next`], those
    /// of earlier bursts that were not taken included. Zero means "not now". A wrapper that passes
    /// frames over may count them until `next` has done so. An error means that the device is gone (interface deleted, link object closed); it is not retried.
    ///
    /// [`next`]: RxQueue::next
    fn fill(&mut self, now: Instant) -> io::Result<usize>;

    /// Lends the next frame, in order of arrival. It stays where the device wrote it.
    fn next(&mut self) -> Option<Frame<'_>>;

    /// Gives all frames that `next` has lent back to the device, at once. Frames that were filled
    /// but not yet lent stay.
    fn release(&mut self);
}

/// The transmit half of a queue pair.
pub trait TxQueue {
    /// Frames that can be sent before the queue is full: if there are none, [`send`](TxQueue::send)
    /// says so. It is [`flush`](TxQueue::flush) that makes room.
    fn room(&self) -> usize;

    /// Lends a slot of exactly `len` bytes to `write`, which must write all of it (the slot holds
    /// whatever was there), and queues it. It leaves with the next [`flush`](TxQueue::flush) at the
    /// latest.
    ///
    /// # Errors
    /// The frame was not queued and `write` was not called; the refusal is counted.
    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError>;

    /// Rings the doorbell for everything queued, and takes back slots the device is done with. It
    /// does not wait: frames the device cannot take yet stay queued for the next flush.
    fn flush(&mut self, now: Instant) -> io::Result<()>;
}

/// A received frame, lent by its device where it was written, to be read and changed.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The frame from its first header byte to the last payload byte.
    pub bytes: &'a mut [u8],
    /// What the device knows of it.
    pub meta: RxMeta,
}

/// Why a frame was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Every slot is in use: try again after a flush.
    #[error("the transmit queue is full")]
    Full,
    /// The device will never take this frame: too long, or an offload it does not have.
    #[error("the device takes no frame of this length and offload")]
    Unsupported,
}

/// How a shard may sleep until its device has frames.
#[derive(Debug)]
pub enum Wake<'a> {
    /// Frames are there already: do not sleep.
    Ready,
    /// Sleep until this descriptor is readable. The device returns the same descriptor each time.
    Fd(BorrowedFd<'a>),
    /// The device cannot wake anybody: poll it.
    Spin,
}

/// What has happened on a queue pair. All counts are since open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames lent to the stack.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames lost because no receive buffer was free, as far as the device or kernel tells.
    pub rx_overruns: u64,
    /// Frames the device dropped as malformed: shorter than a header, truncated, bad descriptor.
    pub rx_errors: u64,
    /// Frames queued for sending.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames refused because every slot was in use.
    pub tx_full: u64,
    /// Frames refused because of their length or offload.
    pub tx_unsupported: u64,
    /// Queued frames that the device or kernel then failed to send.
    pub tx_errors: u64,
}

/// The sum over several queue pairs.
impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.rx_overruns += other.rx_overruns;
        self.rx_errors += other.rx_errors;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.tx_full += other.tx_full;
        self.tx_unsupported += other.tx_unsupported;
        self.tx_errors += other.tx_errors;
    }
}

/// Where the frame buffers of a queue pair are. The conformance kit checks that they always add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Receive buffers in all.
    pub rx_total: usize,
    /// Receive buffers the device may write to.
    pub rx_free: usize,
    /// Receive buffers that hold a frame not yet lent.
    pub rx_ready: usize,
    /// Receive buffers lent and not yet released.
    pub rx_lent: usize,
    /// Transmit slots in all.
    pub tx_total: usize,
    /// Transmit slots that can be lent.
    pub tx_free: usize,
    /// Transmit slots queued, or in the hands of the device.
    pub tx_busy: usize,
}

impl Buffers {
    /// True if every buffer is accounted for exactly once.
    pub const fn add_up(&self) -> bool {
        self.rx_total == self.rx_free + self.rx_ready + self.rx_lent
            && self.tx_total == self.tx_free + self.tx_busy
    }
}
