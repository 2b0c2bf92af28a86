//! What the shards of one stack hand to each other.
//!
//! A frame may arrive on a queue whose shard does not own its flow: because the device cannot tell
//! flows apart, because the frame is a fragment, or because every shard has to hear of it, as of
//! ARP. It is copied once into a bounded ring of buffers that go round between two shards, one ring
//! for each ordered pair. What was handed over once is not handed on.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use underpass_devices::Steering;

use crate::bell::Bell;
use crate::core::Arrival;
use crate::homes::Homes;
use crate::packet::Tuple;
use crate::stats::DropReason;

/// One shard's view of the others.
pub(crate) struct Siblings {
    /// Which shard this is.
    pub(crate) index: usize,
    /// Who owns a flow.
    pub(crate) steering: Steering,
    /// Who has the UDP sockets of a port.
    pub(crate) ports: Homes,
    /// Who has the custom protocols of an EtherType.
    pub(crate) ether_types: Homes,
    /// Frames given to other shards.
    pub(crate) handed_over: u64,
    /// By shard; the own one is never used.
    outboxes: Vec<Outbox>,
    inboxes: Vec<Inbox>,
}

/// What lies in a ring.
pub(crate) struct Parcel {
    pub(crate) content: Content,
    pub(crate) arrival: Arrival,
    pub(crate) bytes: Vec<u8>,
}

/// What the bytes of a [`Parcel`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// An IP packet.
    Ip,
    /// What follows an Ethernet header of type ARP.
    Arp,
    /// A whole frame of a custom protocol.
    Frame,
}

struct Outbox {
    full: Producer<Parcel>,
    empty: Consumer<Parcel>,
    bell: Arc<Bell>,
    /// Something was put in since the bell was last rung.
    filled: bool,
}

struct Inbox {
    full: Consumer<Parcel>,
    empty: Producer<Parcel>,
}

/// The views of as many shards as there are bells. Each ring has `capacity` buffers, which begin
/// with `len` bytes and grow to the longest packet they have held.
pub(crate) fn siblings(
    bells: &[Arc<Bell>],
    steering: Steering,
    capacity: usize,
    len: usize,
) -> Vec<Siblings> {
    let (ports, ether_types) = (Homes::default(), Homes::default());
    let mut all: Vec<_> = (0..bells.len())
        .map(|index| Siblings {
            index,
            steering,
            ports: ports.clone(),
            ether_types: ether_types.clone(),
            handed_over: 0,
            outboxes: Vec::new(),
            inboxes: Vec::new(),
        })
        .collect();
    for from in 0..bells.len() {
        for (to, bell) in bells.iter().enumerate() {
            let buffers = if from == to { 0 } else { capacity };
            let (full_in, full_out) = RingBuffer::new(buffers);
            let (mut empty_in, empty_out) = RingBuffer::new(buffers);
            for _ in 0..buffers {
                // The ring has as many places.
                let _ = empty_in.push(Parcel::new(len)).is_ok();
            }
            let bell = Arc::clone(bell);
            let outbox = Outbox { full: full_in, empty: empty_out, bell, filled: false };
            all[from].outboxes.push(outbox);
            all[to].inboxes.push(Inbox { full: full_out, empty: empty_in });
        }
    }
    all
}

impl Parcel {
    fn new(len: usize) -> Self {
        let bytes = Vec::with_capacity(len);
        Self { content: Content::Ip, arrival: Arrival::default(), bytes }
    }
}

impl Siblings {
    /// The number of shards.
    pub(crate) fn count(&self) -> usize {
        self.outboxes.len()
    }

    /// This shard has what belongs to the stack as a whole.
    pub(crate) fn is_first(&self) -> bool {
        self.index == 0
    }

    /// The shard that owns the flow between two ends.
    pub(crate) fn owner(&self, tuple: &Tuple) -> usize {
        self.steering.queue_of(tuple.local, tuple.remote)
    }

    /// Copies a packet into the ring to another shard.
    ///
    /// # Errors
    /// The ring is full.
    pub(crate) fn hand_over(
        &mut self,
        to: usize,
        content: Content,
        arrival: Arrival,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let outbox = self.outboxes.get_mut(to).ok_or(DropReason::HandOverFull)?;
        let mut parcel = outbox.empty.pop().map_err(|_| DropReason::HandOverFull)?;
        parcel.content = content;
        parcel.arrival = arrival;
        parcel.arrival.handed_over = true;
        parcel.bytes.clear();
        parcel.bytes.extend_from_slice(bytes);
        // There are no more buffers than places.
        outbox.full.push(parcel).map_err(|_| DropReason::HandOverFull)?;
        outbox.filled = true;
        self.handed_over += 1;
        Ok(())
    }

    /// Calls the shards that were given something.
    pub(crate) fn ring(&mut self) {
        for outbox in &mut self.outboxes {
            if std::mem::take(&mut outbox.filled) {
                outbox.bell.ring();
            }
        }
    }

    /// The next packet from shard `from`.
    pub(crate) fn take(&mut self, from: usize) -> Option<Parcel> {
        self.inboxes.get_mut(from)?.full.pop().ok()
    }

    /// Returns the buffer of a packet that came from shard `from`.
    pub(crate) fn give_back(&mut self, from: usize, parcel: Parcel) {
        if let Some(inbox) = self.inboxes.get_mut(from) {
            // There are no more buffers than places.
            let _ = inbox.empty.push(parcel).is_ok();
        }
    }

    /// Packets wait to be taken.
    pub(crate) fn has_mail(&self) -> bool {
        self.inboxes.iter().any(|inbox| !inbox.full.is_empty())
    }
}
