//! A device that drops what rules say.

mod counts;
mod handle;
mod limiter;
mod rule;
mod service;
mod table;
#[cfg(test)]
mod tests;

use std::io;

use polonius_the_crab::{polonius_loop, polonius_return, polonius_try};

pub use self::counts::{RuleReport, Tally, VerdictCounts};
pub use self::handle::{FilterHandle, FilterLimits};
pub use self::rule::{Action, Rate, Rule, RuleError, RuleMatch};
pub use self::service::Service;
pub use self::table::{MAX_RULES, RuleTable};
use crate::{Buffers, Caps, Counters, Device, Frame, Instant, Medium, RxQueue, Selection, Wake};

/// A device around a device that drops received packets as [`Rule`]s say: a firewall in software.
///
/// Its [`FilterHandle`] changes the rules and reads the counts while frames are received. Frames that
/// carry no IP packet are never dropped, and one 802.1Q tag is looked behind. What is kept counts as
/// `redirect`, and a superframe that the device has put together counts as one packet. Dropped frames
/// are `rx_errors` of the device, too. With no rules no lock is taken.
///
/// ```
/// use underpass_devices::{Action, Filter, FilterHandle, MemoryConfig, MemoryDevice, Rule};
///
/// let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
/// let rules = FilterHandle::default();
/// let device = Filter::new(device, rules.clone());
/// rules.insert(Rule { matches: "192.0.2.0/24,udp".parse()?, action: Action::Deny })?;
/// assert_eq!(rules.totals().drop.packets, 0);
/// # Ok::<(), underpass_devices::RuleError>(())
/// ```
#[derive(Debug)]
pub struct Filter<D> {
    device: D,
    handle: FilterHandle,
    state: RxState,
}

/// The receive half of a [`Filter`].
#[derive(Debug)]
pub struct FilterRx<'a, Q> {
    queue: Q,
    medium: Medium,
    handle: &'a FilterHandle,
    state: &'a mut RxState,
}

#[derive(Debug, Default)]
struct RxState {
    /// As of the last `fill`.
    now: Instant,
    /// Since the last `release`.
    burst: VerdictCounts,
    dropped: Tally,
}

impl<D: Device> Filter<D> {
    /// The device with the rules of a handle, which several queues may share.
    pub fn new(device: D, handle: FilterHandle) -> Self {
        Self { device, handle, state: RxState::default() }
    }

    /// The rules.
    pub fn handle(&self) -> &FilterHandle {
        &self.handle
    }
}

impl<D: Device> Device for Filter<D> {
    type Rx<'a>
        = FilterRx<'a, D::Rx<'a>>
    where
        Self: 'a;
    type Tx<'a>
        = D::Tx<'a>
    where
        Self: 'a;

    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        let medium = self.device.caps().medium;
        let (queue, tx) = self.device.split();
        (FilterRx { queue, medium, handle: &self.handle, state: &mut self.state }, tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        self.device.wake()
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        self.device.select(wanted)
    }

    fn counters(&self) -> Counters {
        let counted = self.device.counters();
        let Tally { packets, bytes } = self.state.dropped;
        Counters {
            rx_frames: counted.rx_frames - packets,
            rx_bytes: counted.rx_bytes - bytes,
            rx_errors: counted.rx_errors + packets,
            ..counted
        }
    }

    fn buffers(&self) -> Buffers {
        self.device.buffers()
    }
}

impl<Q: RxQueue> RxQueue for FilterRx<'_, Q> {
    /// Counts the frames that will be dropped, too, until `next` has passed over them.
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        self.state.now = now;
        self.queue.fill(now)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let mut this = self;
        // The borrow checker does not see yet that a frame passed over is not borrowed any more.
        polonius_loop!(|this| -> Option<Frame<'polonius>> {
            let frame = polonius_try!(this.queue.next());
            let len = frame.bytes.len();
            if this.handle.keeps(this.state.now, this.medium, frame.bytes) {
                this.state.burst.redirect.add(len);
                polonius_return!(Some(frame));
            }
            this.state.burst.drop.add(len);
            this.state.dropped.add(len);
        })
    }

    fn release(&mut self) {
        self.handle.count(std::mem::take(&mut self.state.burst));
        self.queue.release();
    }
}
