use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use underpass_devices::{Buffers, Counters, Frame, Instant, RxMeta, RxQueue};

use super::link::{Link, Plan};
use super::peers::{Finder, Peers};
use super::verbs::{Completion, CompletionError, PostError, ReceiveBatch};
use crate::ledger::Ledger;
use crate::rdma_datagram::{Arrival, ROUTING_HEADER_LEN, Receipt, receive};
use crate::rdma_peer::Peer;

/// The receive half of an [`RdmaDevice`](super::RdmaDevice): frames are lent in the registered buffers
/// that the device wrote them to.
#[derive(Debug)]
pub struct RdmaRx {
    link: Arc<Link>,
    peers: Arc<Peers>,
    finder: Finder,
    /// Ourselves: what we send to the group comes back.
    own: Peer,
    /// Who was looked up last in the table of peers, and when.
    last_heard: Option<(Peer, Instant)>,
    completions: Box<[Completion; BURST]>,
    /// Which buffers the device has; their addresses are those in the memory.
    ledger: Ledger,
    /// Received and not yet lent, oldest first.
    ready: VecDeque<Received>,
    /// Numbers of the buffers that were lent.
    lent: Vec<usize>,
    /// Numbers of the buffers that are nobody's: with nothing in them to lend, or released.
    spare: Vec<usize>,
    /// Buffers on their way to the device.
    batch: ReceiveBatch,
    failure: Option<CompletionError>,
    /// When `fill` was called.
    now: Instant,
    /// When events were looked for.
    checked: Instant,
    counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Received {
    number: usize,
    /// Bytes of the frame.
    len: usize,
}

/// Most completions that one `fill` takes.
const BURST: usize = 64;
/// A sender that goes on sending is looked up so often: far less than a silent one keeps its place.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);
/// Looking for events is a system call.
const CHECK_EVERY: Duration = Duration::from_millis(100);

impl RdmaRx {
    /// Posts all receive buffers.
    pub(super) fn new(
        link: Arc<Link>,
        peers: Arc<Peers>,
        finder: Finder,
        own: Peer,
    ) -> Result<Self, PostError> {
        let slots = link.plan.rx_slots;
        let mut rx = Self {
            link,
            peers,
            finder,
            own,
            last_heard: None,
            completions: Box::new([Completion::default(); BURST]),
            ledger: Ledger::new(0, Plan::RX_LEN, slots),
            ready: VecDeque::with_capacity(slots),
            lent: Vec::with_capacity(slots),
            spare: (0..slots).collect(),
            batch: ReceiveBatch::with_capacity(slots),
            failure: None,
            now: Instant::ZERO,
            checked: Instant::ZERO,
            counters: Counters::default(),
        };
        rx.post()?;
        Ok(rx)
    }

    /// Prepares to sleep. True: frames are there already.
    pub(super) fn is_ready(&mut self) -> io::Result<bool> {
        if self.ready.is_empty() {
            self.link.received.arm()?;
            self.take_burst()?;
            self.check_failure()?;
        }
        Ok(!self.ready.is_empty())
    }

    /// What was received, beside what was sent.
    pub(super) fn counters(&self, sent: Counters) -> Counters {
        let Counters { rx_frames, rx_bytes, rx_errors, .. } = self.counters;
        Counters { rx_frames, rx_bytes, rx_errors, ..sent }
    }

    /// The receive buffers, beside the transmit buffers in `tx`.
    pub(super) fn buffers(&self, tx: Buffers) -> Buffers {
        Buffers {
            rx_total: self.ledger.total(),
            rx_free: self.ledger.given() - self.batch.len(),
            rx_ready: self.ready.len(),
            rx_lent: self.lent.len() + self.spare.len() + self.batch.len(),
            ..tx
        }
    }

    fn take_burst(&mut self) -> io::Result<()> {
        let taken = self.link.received.poll(&mut self.completions[..])?.len();
        for at in 0..taken {
            let completion = self.completions[at];
            if let Some(sender) = self.admit(&completion)
                && self
                    .last_heard
                    .is_none_or(|(last, at)| last != sender || self.now - at >= LOOK_UP_EVERY)
            {
                self.last_heard = Some((sender, self.now));
                self.peers.heard(sender, self.now, &self.finder);
            }
        }
        self.give_back();
        Ok(())
    }

    /// Takes the frame of a completion, if there is one, and says who sent it.
    fn admit(&mut self, completion: &Completion) -> Option<Peer> {
        let address = usize::try_from(completion.id()).unwrap_or(usize::MAX);
        if let Err(cause) = completion.result() {
            self.failure.get_or_insert(cause);
            self.spare.extend(self.ledger.take_back(address));
            return None;
        }
        let receipt = Receipt {
            address,
            len: completion.len(),
            has_routing_header: completion.has_routing_header(),
            queue_pair: completion.source_queue_pair(),
        };
        let memory = &self.link.memory;
        let arrival = receive(&mut self.ledger, &receipt, &self.own, |number| {
            let mut header = [0; ROUTING_HEADER_LEN];
            // SAFETY: the buffer is ours again and not lent; no other slice of it exists.
            let bytes = unsafe { memory.bytes(Plan::receive(number, ROUTING_HEADER_LEN)) };
            header.copy_from_slice(bytes);
            header
        });
        match arrival {
            Arrival::Frame { number, len, sender } => {
                self.ready.push_back(Received { number, len });
                return Some(sender);
            }
            Arrival::Own(number) => self.spare.push(number),
            Arrival::Malformed(number) => {
                self.spare.extend(number);
                self.counters.rx_errors += 1;
            }
        }
        None
    }

    /// Hands over the buffers that are nobody's. What the device does not take stays in the batch, and
    /// `fill` says why.
    fn give_back(&mut self) {
        // A queue pair that failed would hand them back at once.
        if self.failure.is_none() && !(self.spare.is_empty() && self.batch.is_empty()) {
            let _ = self.post();
        }
    }

    fn post(&mut self) -> Result<(), PostError> {
        for number in self.spare.drain(..) {
            let buffer = Plan::receive(number, Plan::RX_LEN);
            self.ledger.give(buffer.start);
            self.batch.push(buffer.start as u64, &self.link.memory, &buffer);
        }
        // SAFETY: memory and queue pair live in the link, which drops the queue pair first; a buffer that
        // the ledger has given is not touched before its completion was polled.
        unsafe { self.link.pair.post_receive(&mut self.batch) }
    }

    fn check_failure(&self) -> io::Result<()> {
        self.failure.map_or(Ok(()), |cause| Err(self.link.failure(cause)))
    }
}

impl RxQueue for RdmaRx {
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        self.now = now;
        if self.ready.len() < BURST {
            self.take_burst()?;
        }
        if self.ready.is_empty() {
            self.check_failure()?;
            if now - self.checked >= CHECK_EVERY {
                self.checked = now;
                self.link.check_alive()?;
            }
        }
        Ok(self.ready.len())
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let Received { number, len } = self.ready.pop_front()?;
        self.lent.push(number);
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += len as u64;
        let whole = Plan::receive(number, ROUTING_HEADER_LEN + len);
        // SAFETY: the buffer is in `lent` and stays there until `release`, which borrows this value as
        // the slice does; its completion was polled, and no other slice of it exists.
        let bytes = unsafe { self.link.memory.bytes(whole.start + ROUTING_HEADER_LEN..whole.end) };
        Some(Frame { bytes, meta: RxMeta::default() })
    }

    fn release(&mut self) {
        self.spare.append(&mut self.lent);
        self.give_back();
    }
}
