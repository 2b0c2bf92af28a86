//! What has happened so far, in numbers.

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// Shorter than its headers or its length say.
    Short,
    /// Damaged on the way, or no packet of this protocol.
    Checksum,
    /// Of another version, or of a kind that does not exist.
    Unknown,
    /// Of a session that is not known here: of an earlier life, forged, or from another address.
    Stranger,
    /// It has come before.
    Duplicate,
    /// Further ahead than a sender may be.
    Beyond,
    /// It does not fit the state of its session.
    Unexpected,
    /// It breaks the protocol; its session has ended.
    Violation,
    /// It asks for a session, and there is no room.
    NoRoom,
}

impl DropReason {
    /// All of them, in the order of [`Counters::drops`].
    pub const ALL: [Self; 9] = [
        Self::Short,
        Self::Checksum,
        Self::Unknown,
        Self::Stranger,
        Self::Duplicate,
        Self::Beyond,
        Self::Unexpected,
        Self::Violation,
        Self::NoRoom,
    ];
}

/// What has happened since a [`Courier`](super::Courier) began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets handed to the network.
    pub sent_packets: u64,
    /// Of these, packets sent before.
    pub again: u64,
    /// Of these, packets that carry no part of a body.
    pub bare: u64,
    /// Packets given to [`Courier::on_packet`](super::Courier::on_packet).
    pub received_packets: u64,
    /// Packets dropped, by [`DropReason`].
    pub drops: [u64; DropReason::ALL.len()],
    /// Requests, messages and responses taken from the application.
    pub sent_bodies: u64,
    /// Requests, messages and responses given to it.
    pub received_bodies: u64,
    /// Bodies refused because a limit of bytes or calls was reached.
    pub full: u64,
    /// Sessions opened, in both roles.
    pub opened: u64,
    /// Sessions that ended otherwise than by being idle or closed here.
    pub failed: u64,
    /// Sessions forgotten before their first use, to make room for another.
    pub forgotten: u64,
    /// Refusals that were not sent because too many were waiting.
    pub unrefused: u64,
    /// Time-outs after which something was sent again, or an answer asked for.
    pub timeouts: u64,
}

impl Counters {
    /// Packets dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    pub(super) fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }
}
