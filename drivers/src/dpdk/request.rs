//! What a device is asked to do with a frame, in the terms of DPDK (Programmer's Guide, "Meta
//! Information" of mbufs), which differ from those of the stack in what is in the checksum fields.

use underpass_devices::checksum::{combine, fold, sum};
use underpass_devices::{PartialChecksum, TxMeta};

/// Lengths and kinds of the headers, and what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) is_v6: bool,
    pub(super) is_udp: bool,
    /// Of the link header.
    pub(super) l2_len: u8,
    /// Of the IP header, extensions included.
    pub(super) l3_len: u16,
    /// Of the TCP header; 0 for a checksum alone.
    pub(super) l4_len: u8,
    /// Payload bytes of each segment; 0: it is one.
    pub(super) segment: u16,
    /// The device computes the checksum of the IP header of each segment.
    pub(super) ip_checksum: bool,
}

const ETHERNET_LEN: usize = 14;
const TAGGED_LEN: usize = 18;
const TCP_OFFSET: u16 = 16;
const UDP_OFFSET: u16 = 6;

/// Turns what the stack asks of a frame into a request, and the frame into what goes with it. `None`:
/// nothing is left to be done. A checksum that DPDK has no words for is completed here.
///
/// `ip_checksum`: the device can compute that of the IP header.
pub(super) fn prepare(frame: &mut [u8], meta: &TxMeta, ip_checksum: bool) -> Option<Request> {
    let partial = meta.checksum?;
    let Some(mut request) = headers(frame, partial) else {
        complete(frame, partial);
        return None;
    };
    let Some(cut) = meta.segmentation else {
        return Some(request);
    };
    let start = usize::from(partial.start);
    request.l4_len = cut.header_len.saturating_sub(partial.start).min(60) as u8;
    request.segment = cut.size.get();
    // Of each segment the device adds the length by itself.
    let segment_len = (frame.len() - start) as u64;
    let at = start + usize::from(partial.offset);
    if let Some(field) = frame.get_mut(at..at + 2) {
        let with_len = u16::from_be_bytes([field[0], field[1]]);
        let without = combine(with_len, !fold(segment_len));
        field.copy_from_slice(&without.to_be_bytes());
    }
    if ip_checksum && !request.is_v6 {
        request.ip_checksum = true;
        let l2_len = usize::from(request.l2_len);
        if let Some(field) = frame.get_mut(l2_len + 10..l2_len + 12) {
            field.fill(0);
        }
    }
    Some(request)
}

fn headers(frame: &[u8], partial: PartialChecksum) -> Option<Request> {
    let ether_type = |at: usize| frame.get(at..)?.first_chunk::<2>().copied();
    let l2_len = if ether_type(12)? == [0x81, 0x00] { TAGGED_LEN } else { ETHERNET_LEN };
    let is_v6 = match ether_type(l2_len - 2)? {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        _ => return None,
    };
    let is_udp = match partial.offset {
        TCP_OFFSET => false,
        UDP_OFFSET => true,
        _ => return None,
    };
    let l3_len = partial.start.checked_sub(l2_len as u16)?;
    // What the fields of an mbuf hold.
    let holds = (20..512).contains(&l3_len);
    holds.then_some(Request {
        is_v6,
        is_udp,
        l2_len: l2_len as u8,
        l3_len,
        l4_len: 0,
        segment: 0,
        ip_checksum: false,
    })
}

/// Computes the checksum that was asked for.
fn complete(frame: &mut [u8], partial: PartialChecksum) {
    let start = usize::from(partial.start);
    let at = start + usize::from(partial.offset);
    let Some(covered) = frame.get(start..) else {
        return;
    };
    // The field holds the sum of the pseudo-header, which belongs to the sum.
    let checksum = match !sum(covered) {
        // RFC 768: zero is no checksum.
        0 if partial.offset == UDP_OFFSET => 0xffff,
        checksum => checksum,
    };
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use underpass_devices::{SegmentKind, Segmentation};

    use super::*;

    /// A TCP segment of 4 bytes from 10.7.0.1 to 10.7.0.2 with the sum of the pseudo-header.
    fn segment() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 44, 0, 1, 0x40, 0, 64, 6, 0x12, 0x34]);
        frame.extend([10, 7, 0, 1, 10, 7, 0, 2]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff]);
        // 0a07 + 0001 + 0a07 + 0002 + 0006 + 0018
        frame.extend([0x14, 0x2f, 0, 0, b'a', b'b', b'c', b'd']);
        frame
    }

    const PARTIAL: PartialChecksum = PartialChecksum { start: 34, offset: 16 };

    #[test]
    fn a_checksum_keeps_the_sum_of_the_pseudo_header() {
        let meta = TxMeta { checksum: Some(PARTIAL), segmentation: None };
        let mut frame = segment();
        let request = prepare(&mut frame, &meta, true).unwrap();
        assert_eq!((request.l2_len, request.l3_len, request.l4_len), (14, 20, 0));
        assert!(!request.is_v6 && !request.is_udp && !request.ip_checksum);
        assert_eq!(frame, segment());
        assert_eq!(prepare(&mut frame, &TxMeta::default(), true), None);
    }

    #[test]
    fn segmentation_takes_the_length_out_of_the_sum_and_clears_that_of_the_ip_header() {
        let cut = Segmentation { kind: SegmentKind::Tcp4, size: NonZeroU16::MIN, header_len: 54 };
        let meta = TxMeta { checksum: Some(PARTIAL), segmentation: Some(cut) };
        let mut frame = segment();
        let request = prepare(&mut frame, &meta, true).unwrap();
        assert_eq!((request.l4_len, request.segment, request.ip_checksum), (20, 1, true));
        assert_eq!(frame[50..52], [0x14, 0x17]);
        assert_eq!(frame[24..26], [0, 0]);
        let mut frame = segment();
        assert!(!prepare(&mut frame, &meta, false).unwrap().ip_checksum);
        assert_eq!(frame[24..26], [0x12, 0x34], "a device that cannot leaves it as it is");
    }

    #[test]
    fn what_dpdk_has_no_words_for_is_completed() {
        let meta = TxMeta { checksum: Some(PARTIAL), segmentation: None };
        let mut frame = segment();
        // No EtherType that it knows.
        frame[12] = 0x88;
        assert_eq!(prepare(&mut frame, &meta, true), None);
        // RFC 1071: with its checksum a segment sums up to all ones, pseudo-header included.
        assert_eq!(combine(sum(&frame[34..]), 0x142f), 0xffff);
    }
}
