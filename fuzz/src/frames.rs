//! Several frames in one input, in a form that a mutation seldom breaks: two bytes of length and
//! flags in front of each.

use std::num::NonZeroU16;

use underpass::devices::{PartialChecksum, SegmentKind, Segmentation, TxMeta};

use crate::wire;

/// Most frames of one input: fewer than there is room for in any table of the station.
pub const MAX_FRAMES: usize = 8;

const LEN: u16 = 0x07ff;
const FIX_CHECKSUMS: u16 = 0x8000;
const VOUCH: u16 = 0x4000;
const WAIT: u16 = 0x2000;
const READ: u16 = 0x1000;

/// One frame, and what goes on beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The bytes from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// The device says that its checksum is right.
    pub vouch: bool,
    /// Time passes before it.
    pub wait: bool,
    /// The program reads before it.
    pub read: bool,
}

/// The frames of an input.
pub fn decode(mut input: &[u8]) -> Vec<Arrival> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = input.split_first_chunk::<2>()
        && frames.len() < MAX_FRAMES
    {
        let head = u16::from_le_bytes(*head);
        let (bytes, rest) = rest.split_at(usize::from(head & LEN).min(rest.len()));
        let mut bytes = bytes.to_vec();
        if head & FIX_CHECKSUMS != 0 {
            wire::fix_checksums(&mut bytes);
        }
        let [vouch, wait, read] = [VOUCH, WAIT, READ].map(|flag| head & flag != 0);
        frames.push(Arrival { bytes, vouch, wait, read });
        input = rest;
    }
    frames
}

/// The input of these frames, for seeds.
pub fn encode<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut input = Vec::new();
    for frame in frames.into_iter().take(MAX_FRAMES) {
        let frame = &frame[..frame.len().min(usize::from(LEN))];
        input.extend((frame.len() as u16 | FIX_CHECKSUMS).to_le_bytes());
        input.extend(frame);
    }
    input
}

/// What a link says of a frame: that it is a coalesced one if it is too long for a single one, and
/// that its checksum is right if asked to vouch for it.
pub fn meta(frame: &[u8], vouch: bool) -> TxMeta {
    let v6 = frame.get(12..14) == Some(&wire::IPV6.to_be_bytes());
    let start = if v6 { 54 } else { 34 };
    let long = frame.len() > 1514;
    let vouch = long || vouch && frame.len() >= usize::from(start) + 18;
    let kind = if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
    TxMeta {
        checksum: vouch.then_some(PartialChecksum { start, offset: 16 }),
        segmentation: NonZeroU16::new(1400).filter(|_| long).map(|size| Segmentation {
            kind,
            size,
            header_len: start + 20,
        }),
    }
}
