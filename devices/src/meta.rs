use core::num::NonZeroU16;

use crate::Instant;

/// A checksum that is not complete yet: its field holds the sum over the pseudo-header only, and
/// whoever puts the frame on a wire adds the sum over the bytes from `start` to the end (the
/// contract of `csum_start` and `csum_offset` in `struct virtio_net_hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the transport header begins, in bytes from the start of the frame.
    pub start: u16,
    /// Where the checksum field is, in bytes from `start`: 16 for TCP, 6 for UDP.
    pub offset: u16,
}

/// Which packets a segmented frame becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// A frame that stands for several: the device cuts its payload into pieces of `size` and repeats
/// the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Transport and IP version.
    pub kind: SegmentKind,
    /// Payload bytes per packet.
    pub size: NonZeroU16,
    /// Bytes of link, IP and transport header together, options included.
    pub header_len: u16,
}

/// What the stack asks of the device for one frame. The default asks nothing: the frame is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxMeta {
    /// Complete this checksum. Only if [`Caps::tx_checksum`](crate::Caps::tx_checksum).
    pub checksum: Option<PartialChecksum>,
    /// Cut this frame. Only with `checksum`, and up to the lengths in [`Caps`](crate::Caps).
    pub segmentation: Option<Segmentation>,
}

/// What is known of the transport checksum of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nobody looked: the stack verifies it.
    #[default]
    Unverified,
    /// The device verified it.
    Valid,
    /// The frame never was on a wire: the field holds the pseudo-header sum only. It counts as
    /// valid for the local stack, and must be completed before the frame is forwarded.
    Partial(PartialChecksum),
    /// The device verified it and found it wrong.
    Bad,
}

impl RxChecksum {
    /// What is left to complete, if anything is.
    pub const fn partial(self) -> Option<PartialChecksum> {
        match self {
            Self::Partial(partial) => Some(partial),
            Self::Unverified | Self::Valid | Self::Bad => None,
        }
    }
}

/// What the device tells of one received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxMeta {
    /// Verdict on the transport checksum.
    pub checksum: RxChecksum,
    /// The frame was coalesced from packets of this payload size.
    pub segmentation: Option<NonZeroU16>,
    /// Hash of the flow, computed by the device (RSS, fanout); the same for all frames of a flow.
    pub hash: Option<u32>,
    /// When the device received it, on the device's own clock.
    pub timestamp: Option<Instant>,
}

/// What the other end of a link without a wire knows of a frame: what was left undone stays undone.
impl From<TxMeta> for RxMeta {
    fn from(sent: TxMeta) -> Self {
        Self {
            checksum: sent.checksum.map_or(RxChecksum::Unverified, RxChecksum::Partial),
            segmentation: sent.segmentation.map(|cut| cut.size),
            ..Self::default()
        }
    }
}
