use std::io;
use std::sync::Arc;

use underpass_devices::{Buffers, Caps, Counters, Instant, MacAddr, SendError, TxMeta, TxQueue};

use super::link::Link;
use super::peers::Peers;
use super::verbs::{AddressHandle, Completion, CompletionError, Destination, SendBatch};
use crate::rdma_peer::MULTICAST_QUEUE_PAIR;

/// The transmit half of an [`RdmaDevice`](super::RdmaDevice): frames are sent from the registered buffers
/// that they were written to, which are used in turn.
#[derive(Debug)]
pub struct RdmaTx {
    link: Arc<Link>,
    peers: Arc<Peers>,
    caps: Caps,
    completions: Box<[Completion; BURST]>,
    /// Requests that the device does not have yet.
    batch: SendBatch,
    /// Requests since the last one whose success is told.
    unsignalled: usize,
    /// Frames ever queued. The buffer of a frame is its number modulo the buffers.
    queued: u64,
    /// Of these, the device is done with so many. A request's number is how many it is done with once
    /// the request is complete: requests end in order.
    done: u64,
    /// Handles that are not used any more, and the frames that were queued when they still were.
    retired: Vec<(u64, AddressHandle)>,
    failure: Option<CompletionError>,
    counters: Counters,
}

/// Most completions that are taken at a time.
const BURST: usize = 16;
/// The success of one request in so many is told, and that of the last one of a burst.
const SIGNAL_EVERY: usize = 32;
/// The same for every device on the link. The highest bit is for the privileged.
pub(super) const Q_KEY: u32 = 0x5550_4153;

impl RdmaTx {
    /// Requests that the send queue needs for `slots` buffers: a frame takes several when it goes to
    /// several peers, and in any full queue one has to be signalled.
    pub(super) fn requests(slots: usize) -> usize {
        2 * slots.max(SIGNAL_EVERY)
    }

    pub(super) fn new(link: Arc<Link>, peers: Arc<Peers>, caps: Caps) -> Self {
        let batch = SendBatch::with_capacity(Self::requests(link.plan.tx_slots));
        Self {
            link,
            peers,
            caps,
            completions: Box::new([Completion::default(); BURST]),
            batch,
            unsignalled: 0,
            queued: 0,
            done: 0,
            retired: Vec::new(),
            failure: None,
            counters: Counters::default(),
        }
    }

    /// Prepares to sleep. True: there is something to do before. A shard that has no room, or whose
    /// frames the device did not take, is to be woken when that changes.
    pub(super) fn is_ready(&mut self) -> io::Result<bool> {
        let is_blocked = |tx: &Self| tx.room() == 0 || !tx.batch.is_empty();
        if !is_blocked(self) {
            return Ok(false);
        }
        self.link.sent.arm()?;
        let done = self.done;
        self.reap()?;
        Ok(!is_blocked(self) || self.done != done)
    }

    /// What was sent.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The transmit buffers.
    pub(super) fn buffers(&self) -> Buffers {
        let (total, free) = (self.link.plan.tx_slots, self.room());
        Buffers { tx_total: total, tx_free: free, tx_busy: total - free, ..Buffers::default() }
    }

    /// Queues the frame that was written to the next buffer. False: it goes nowhere.
    fn queue(&mut self, to: MacAddr, len: usize) -> bool {
        let Self { link, peers, batch, unsignalled, .. } = self;
        let slot = (self.queued % link.plan.tx_slots as u64) as usize;
        let range = link.plan.transmit(slot, len);
        let inline = len <= link.pair.inline();
        let before = batch.len();
        let mut push = |handle: &AddressHandle, queue_pair: u32| {
            let to = Destination { handle, queue_pair, q_key: Q_KEY };
            // The number is right for all but the last one, which says that the frame is done with.
            batch.push_datagram(self.queued, &link.memory, &range, to, inline);
            *unsignalled += 1;
            if *unsignalled >= SIGNAL_EVERY {
                batch.signal_last();
                *unsignalled = 0;
            }
        };
        if to.is_multicast() || !peers.to(to, |peer, handle| push(handle, peer.queue_pair)) {
            match &link.group {
                Some(group) => push(&group.handle, MULTICAST_QUEUE_PAIR),
                None if to.is_multicast() => {
                    peers.to_all(|peer, handle| push(handle, peer.queue_pair));
                }
                None => {}
            }
        }
        if batch.len() == before {
            return false;
        }
        self.queued += 1;
        batch.set_last_id(self.queued);
        true
    }

    fn post(&mut self) -> io::Result<()> {
        self.batch.signal_last();
        self.unsignalled = 0;
        // SAFETY: memory and queue pair live in the link, which drops the queue pair first. A buffer is
        // not written to before the completion that says that it is done with. Handles live as long as
        // that, too: those of peers are retired then at the earliest, that of the group goes with the link,
        // and peers go after it.
        match unsafe { self.link.pair.post_send(&mut self.batch) } {
            Ok(()) => Ok(()),
            // The queue is full: the rest goes with the next flush.
            Err(error) if error.source.raw_os_error() == Some(libc::ENOMEM) => Ok(()),
            Err(error) => Err(error.source),
        }
    }

    /// Takes back the buffers of frames that were sent.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let taken = self.link.sent.poll(&mut self.completions[..])?.len();
            for completion in &self.completions[..taken] {
                if let Err(cause) = completion.result() {
                    self.failure.get_or_insert(cause);
                }
                // A number that cannot be is not believed.
                if (self.done..=self.queued).contains(&completion.id()) {
                    self.done = completion.id();
                }
            }
            if taken < BURST {
                break;
            }
        }
        self.free_retired();
        self.failure.map_or(Ok(()), |cause| Err(self.link.failure(cause)))
    }

    fn free_retired(&mut self) {
        let retired = self.peers.take_retired().into_iter().flatten();
        self.retired.extend(retired.map(|handle| (self.queued, handle)));
        if !self.retired.is_empty() {
            self.retired.retain(|(queued, _)| *queued > self.done);
        }
    }
}

impl TxQueue for RdmaTx {
    fn room(&self) -> usize {
        self.link.plan.tx_slots - (self.queued - self.done) as usize
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        // A longer one the device might drop and call sent.
        if !self.caps.takes(len, &meta) {
            self.counters.tx_unsupported += 1;
            return Err(SendError::Unsupported);
        }
        if self.room() == 0 {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        }
        let slot = (self.queued % self.link.plan.tx_slots as u64) as usize;
        // SAFETY: the device is done with the buffer, and no other slice of it exists.
        let bytes = unsafe { self.link.memory.bytes(self.link.plan.transmit(slot, len)) };
        let value = write(bytes);
        let to = bytes.first_chunk().map_or(MacAddr::default(), |to| MacAddr(*to));
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        if !self.queue(to, len) {
            self.counters.tx_errors += 1;
        }
        Ok(value)
    }

    fn flush(&mut self, _now: Instant) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.post()?;
        }
        self.reap()
    }
}
