//! Mbufs as a poll-mode driver hands them over, which believes a device or a peer process, and frames with
//! any request: nothing leads outside a buffer, and a frame keeps all but its checksums.

#![no_main]

use std::num::NonZeroU16;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass_devices::{Caps, MacAddr, PartialChecksum, SegmentKind, Segmentation, TxMeta};
use underpass_drivers::fuzzing::{DpdkSegment, dpdk_frame, dpdk_request};

#[derive(Arbitrary, Debug)]
struct Input {
    segments: Vec<DpdkSegment>,
    nb_segs: u16,
    pkt_len: u32,
    /// `nb_segs` and `pkt_len` are what the segments add up to.
    honest: bool,
    frame: Vec<u8>,
    start: u16,
    offset: u16,
    cut: Option<(bool, NonZeroU16, u16)>,
    ip_checksum: bool,
}

fuzz_target!(|input: Input| {
    received(&input);
    sent(input);
});

fn received(input: &Input) {
    let segments = &input.segments;
    let sum: u32 = segments.iter().map(|(_, _, len)| u32::from(*len)).sum();
    let (nb_segs, pkt_len) = match input.honest {
        true => (segments.len() as u16, sum),
        false => (input.nb_segs, input.pkt_len),
    };
    let fit =
        segments.iter().all(|(room, at, len)| u32::from(*at) + u32::from(*len) <= (*room).into());
    let few = segments.len() <= 128 && (14..=65_553).contains(&sum);
    let whole = usize::from(nb_segs) == segments.len() && pkt_len == sum;
    let found = dpdk_frame(segments, nb_segs, pkt_len);
    assert_eq!(found.is_some(), fit && few && whole);
    for (range, (room, _, len)) in found.into_iter().flatten().zip(segments) {
        assert!(range.end <= usize::from(*room) && range.len() == usize::from(*len));
    }
}

fn sent(input: Input) {
    let Input { mut frame, start, offset, cut, ip_checksum, .. } = input;
    let segmentation = cut.map(|(v6, size, header_len)| Segmentation {
        kind: if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 },
        size,
        header_len,
    });
    let meta = TxMeta { checksum: Some(PartialChecksum { start, offset }), segmentation };
    // The driver asks the capabilities first.
    if !Caps::ethernet(MacAddr::local(1), 65_535).with_offloads(65_549).takes(frame.len(), &meta) {
        return;
    }
    let before = frame.clone();
    let request = dpdk_request(&mut frame, &meta, ip_checksum);
    let field = usize::from(start) + usize::from(offset);
    let mut may_change = vec![field, field + 1];
    if let Some((l2, l3, l4)) = request {
        assert_eq!(l2 + l3, usize::from(start));
        assert!(l4 < 256 && l3 < 512 && (l2 == 14 || l2 == 18));
        if ip_checksum && segmentation.is_some() {
            may_change.extend([l2 + 10, l2 + 11]);
        }
    }
    let changed = before.iter().zip(&frame).enumerate().filter(|(_, (a, b))| a != b);
    for (at, _) in changed {
        assert!(may_change.contains(&at), "byte {at} has changed");
    }
}
