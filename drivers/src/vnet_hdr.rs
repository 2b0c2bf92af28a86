//! `struct virtio_net_hdr`, the ten bytes that TAP and AF_PACKET put in front of a frame to speak
//! of checksums and segmentation (linux/virtio_net.h; Virtio 1.3, section 5.1.6). Integers are in
//! the machine's byte order, as for a legacy guest.

use std::num::NonZeroU16;

use underpass_devices::{PartialChecksum, RxChecksum, RxMeta, SegmentKind, Segmentation, TxMeta};
use zerocopy::byteorder::native_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

/// Bytes of the header.
pub(crate) const LEN: usize = size_of::<VnetHdr>();

/// Longest frame that is sent with segmentation. One byte more, and the kernel would cut it in
/// software whatever the interface can do (`GSO_LEGACY_MAX_SIZE`).
pub(crate) const MAX_SUPERFRAME: usize = 65_535;

/// A received header that contradicts itself or its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The header for a frame with these requests.
pub(crate) fn encode(meta: &TxMeta) -> [u8; LEN] {
    let mut header = VnetHdr::default();
    if let Some(PartialChecksum { start, offset }) = meta.checksum {
        header.flags = NEEDS_CSUM;
        header.csum_start = start.into();
        header.csum_offset = offset.into();
    }
    if let Some(Segmentation { kind, size, header_len }) = meta.segmentation {
        header.gso_type = match kind {
            SegmentKind::Tcp4 => GSO_TCPV4,
            SegmentKind::Tcp6 => GSO_TCPV6,
        };
        header.gso_size = size.get().into();
        header.hdr_len = header_len.into();
    }
    transmute!(header)
}

/// What a received header says of its frame of `frame_len` bytes. Nothing in it is trusted.
pub(crate) fn decode(header: [u8; LEN], frame_len: usize) -> Result<RxMeta, Malformed> {
    let header: VnetHdr = transmute!(header);
    let checksum = if header.flags & NEEDS_CSUM != 0 {
        let partial =
            PartialChecksum { start: header.csum_start.get(), offset: header.csum_offset.get() };
        if !lies_within(partial, frame_len) {
            return Err(Malformed);
        }
        RxChecksum::Partial(partial)
    } else if header.flags & DATA_VALID != 0 {
        RxChecksum::Valid
    } else {
        RxChecksum::Unverified
    };
    let segmentation = match header.gso_type & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4 => {
            let size = NonZeroU16::new(header.gso_size.get()).ok_or(Malformed)?;
            if usize::from(header.hdr_len.get()) > frame_len {
                return Err(Malformed);
            }
            Some(size)
        }
        _ => return Err(Malformed),
    };
    Ok(RxMeta { checksum, segmentation, ..RxMeta::default() })
}

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct VnetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
}

fn lies_within(partial: PartialChecksum, frame_len: usize) -> bool {
    usize::from(partial.start) + usize::from(partial.offset) + 2 <= frame_len
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_frame_has_a_header_of_zeroes() {
        assert_eq!(encode(&TxMeta::default()), [0; LEN]);
        assert_eq!(decode([0; LEN], 60), Ok(RxMeta::default()));
    }

    #[test]
    fn fields_are_where_the_kernel_looks_for_them() {
        let meta = TxMeta {
            checksum: Some(PartialChecksum { start: 0x0102, offset: 0x0304 }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Tcp6,
                size: NonZeroU16::new(0x0506).unwrap(),
                header_len: 0x0708,
            }),
        };
        let mut expected = vec![1, 4];
        for field in [0x0708u16, 0x0506, 0x0102, 0x0304] {
            expected.extend(field.to_ne_bytes());
        }
        assert_eq!(encode(&meta).as_slice(), expected);
    }

    #[test]
    fn verified_frames_are_valid() {
        let mut header = [0; LEN];
        header[0] = DATA_VALID;
        let meta = decode(header, 60).unwrap();
        assert_eq!(meta.checksum, RxChecksum::Valid);
    }

    #[test]
    fn contradictions_are_refused() {
        let tcp = |size: u16, header_len: u16| {
            let mut header = encode(&TxMeta::default());
            header[1] = GSO_TCPV4 | GSO_ECN;
            header[2..4].copy_from_slice(&header_len.to_ne_bytes());
            header[4..6].copy_from_slice(&size.to_ne_bytes());
            header
        };
        assert!(decode(tcp(1448, 66), 60_000).is_ok());
        assert_eq!(decode(tcp(0, 66), 60_000), Err(Malformed));
        assert_eq!(decode(tcp(1448, 66), 65), Err(Malformed));
        let mut unknown = [0; LEN];
        unknown[1] = 2;
        assert_eq!(decode(unknown, 60), Err(Malformed));
        let past_the_end = encode(&TxMeta {
            checksum: Some(PartialChecksum { start: 34, offset: 25 }),
            segmentation: None,
        });
        assert_eq!(decode(past_the_end, 60), Err(Malformed));
        assert!(decode(past_the_end, 61).is_ok());
    }

    fn any_meta() -> impl Strategy<Value = TxMeta> {
        let checksum = (any::<u16>(), any::<u16>())
            .prop_map(|(start, offset)| PartialChecksum { start, offset });
        let segmentation =
            (any::<bool>(), 1..=u16::MAX, any::<u16>()).prop_map(|(six, size, header_len)| {
                Segmentation {
                    kind: if six { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 },
                    size: NonZeroU16::new(size).unwrap(),
                    header_len,
                }
            });
        (proptest::option::of(checksum), proptest::option::of(segmentation))
            .prop_map(|(checksum, segmentation)| TxMeta { checksum, segmentation })
    }

    proptest! {
        #[test]
        fn what_was_sent_is_what_is_received(meta in any_meta()) {
            let received = decode(encode(&meta), usize::MAX).unwrap();
            let checksum = meta.checksum.map_or(RxChecksum::Unverified, RxChecksum::Partial);
            prop_assert_eq!(received.checksum, checksum);
            prop_assert_eq!(received.segmentation, meta.segmentation.map(|s| s.size));
        }

        #[test]
        fn nothing_received_points_outside_the_frame(header: [u8; LEN], frame_len in 0usize..70_000) {
            if let Ok(RxMeta { checksum: RxChecksum::Partial(partial), .. }) =
                decode(header, frame_len)
            {
                prop_assert!(lies_within(partial, frame_len));
            }
        }
    }
}
