//! What a NIC does with an offload request, in software: completing checksums and cutting TCP
//! superframes.
//!
//! ```
//! use underpass_devices::{PartialChecksum, segment::complete_checksum};
//!
//! // A "transport header" of four bytes whose checksum field holds the pseudo-header sum 0x0001.
//! let mut frame = [0x12, 0x34, 0x00, 0x01];
//! complete_checksum(&mut frame, PartialChecksum { start: 0, offset: 2 })?;
//! assert_eq!(frame, [0x12, 0x34, 0xed, 0xca]);
//! # Ok::<(), underpass_devices::segment::Malformed>(())
//! ```

use crate::checksum::{self, fold, sum};
use crate::{PartialChecksum, SegmentKind, Segmentation};

const TCP: u8 = 6;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The request does not fit the frame: an offset beyond its end, or headers that are not what the
/// request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the offload request does not fit the headers of the frame")]
pub struct Malformed;

/// Completes the checksum in place. The field must hold the sum over the pseudo-header, not
/// complemented (RFC 1071 sum; `CHECKSUM_PARTIAL` of Linux). A result of zero is written as 0xffff,
/// which means the same, because zero means "no checksum" in UDP (RFC 768).
pub fn complete_checksum(frame: &mut [u8], partial: PartialChecksum) -> Result<(), Malformed> {
    let start = usize::from(partial.start);
    let field = start + usize::from(partial.offset);
    let sum = sum(frame.get(start..).ok_or(Malformed)?);
    let checksum = if sum == 0xffff { 0xffff } else { !sum };
    put16(frame, field, checksum)
}

/// Cuts a TCP superframe into the frames a NIC would send, and calls `emit` with each. Returns
/// their number. A [`Cutter`] does the same piece by piece, into memory of the caller's.
pub fn segment(
    frame: &[u8],
    cut: Segmentation,
    partial: PartialChecksum,
    mut emit: impl FnMut(&[u8]),
) -> Result<usize, Malformed> {
    let mut cutter = Cutter::new(frame, cut, partial)?;
    let mut segment = vec![0; cutter.next_len().unwrap_or(0)];
    while let Some(len) = cutter.next_len() {
        segment.truncate(len);
        cutter.write(frame, &mut segment)?;
        emit(&segment);
    }
    Ok(cutter.index)
}

/// A TCP superframe on the way to become the frames a NIC would send: one for each `cut.size` bytes
/// of payload begun, and one for no payload at all.
///
/// The headers are repeated; the IPv4 identification counts up from the one given; sequence numbers,
/// lengths and checksums are those of each segment; FIN and PSH stay on the last one only, CWR on
/// the first (RFC 3168 section 6.1.2). Works on Ethernet frames, with or without one VLAN tag, and
/// on bare IP packets.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    headers: Headers,
    size: usize,
    payload_len: usize,
    /// Of the next segment.
    index: usize,
}

impl Cutter {
    /// Looks at the headers of a superframe.
    pub fn new(
        frame: &[u8],
        cut: Segmentation,
        partial: PartialChecksum,
    ) -> Result<Self, Malformed> {
        let headers = Headers::parse(frame, cut, partial)?;
        let payload_len = frame.len() - headers.len;
        Ok(Self { headers, size: cut.size.get().into(), payload_len, index: 0 })
    }

    /// Length of the next frame in bytes; `None` after the last one.
    pub fn next_len(&self) -> Option<usize> {
        let from = self.index * self.size;
        let more = from < self.payload_len || self.index == 0;
        more.then(|| self.headers.len + self.size.min(self.payload_len - from))
    }

    /// Writes the next frame, whose length is [`next_len`](Self::next_len), into `slot`. `frame` is
    /// the superframe this was made for. Payload is copied and summed in one pass.
    pub fn write(&mut self, frame: &[u8], slot: &mut [u8]) -> Result<(), Malformed> {
        let from = self.index * self.size;
        let head = frame.get(..self.headers.len).ok_or(Malformed)?;
        let (slot_head, slot_payload) =
            slot.split_at_mut_checked(self.headers.len).ok_or(Malformed)?;
        let start = self.headers.len + from;
        let payload = frame.get(start..start + slot_payload.len()).ok_or(Malformed)?;
        slot_head.copy_from_slice(head);
        let sum = checksum::copy(slot_payload, payload);
        let last = from + payload.len() >= self.payload_len;
        self.headers.adapt(
            slot_head,
            payload.len(),
            sum,
            Place { index: self.index, from, last },
        )?;
        self.index += 1;
        Ok(())
    }
}

/// Which segment of its superframe a segment is.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    /// Offset of its payload.
    from: usize,
    last: bool,
}

/// Where the headers of a superframe are. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug)]
struct Headers {
    kind: SegmentKind,
    ip: usize,
    tcp: usize,
    len: usize,
}

impl Headers {
    fn parse(frame: &[u8], cut: Segmentation, partial: PartialChecksum) -> Result<Self, Malformed> {
        let tcp = usize::from(partial.start);
        // IP headers are multiples of four bytes: so the transport header tells the link header.
        let ip = match tcp % 4 {
            0 => 0,
            2 if matches!(get16(frame, 12)?, 0x8100 | 0x88a8) => 18,
            2 => 14,
            _ => return Err(Malformed),
        };
        let first = *frame.get(ip).ok_or(Malformed)?;
        let ip_len = tcp.checked_sub(ip).ok_or(Malformed)?;
        let fits = match cut.kind {
            SegmentKind::Tcp4 => {
                first >> 4 == 4
                    && ip_len >= 20
                    && usize::from(first & 0xf) * 4 == ip_len
                    && frame.get(ip + 9) == Some(&TCP)
            }
            SegmentKind::Tcp6 => first >> 4 == 6 && ip_len >= 40,
        };
        let len = usize::from(cut.header_len);
        let tcp_len = usize::from(frame.get(tcp + 12).ok_or(Malformed)? >> 4) * 4;
        let consistent = partial.offset == 16 && tcp_len >= 20 && tcp + tcp_len == len;
        if fits && consistent && len <= frame.len() {
            Ok(Self { kind: cut.kind, ip, tcp, len })
        } else {
            Err(Malformed)
        }
    }

    /// Makes the headers of the superframe those of the segment at `place`, whose payload of
    /// `payload_len` bytes has the given sum.
    fn adapt(
        &self,
        head: &mut [u8],
        payload_len: usize,
        payload_sum: u16,
        place: Place,
    ) -> Result<(), Malformed> {
        let addresses = self.adapt_ip(head, payload_len, place.index)?;
        let seq = get32(head, self.tcp + 4)?.wrapping_add(place.from as u32);
        put(head, self.tcp + 4, &seq.to_be_bytes())?;
        let flags = head.get_mut(self.tcp + 13).ok_or(Malformed)?;
        if !place.last {
            *flags &= !(FIN | PSH);
        }
        if place.index > 0 {
            *flags &= !CWR;
        }
        put16(head, self.tcp + 16, 0)?;
        let tcp = head.get(self.tcp..).ok_or(Malformed)?;
        let tcp_len = (tcp.len() + payload_len) as u64;
        let sums = [addresses, sum(tcp), payload_sum];
        let total = sums.iter().map(|sum| u64::from(*sum)).sum::<u64>() + u64::from(TCP) + tcp_len;
        put16(head, self.tcp + 16, !fold(total))
    }

    /// Returns the sum over the addresses.
    fn adapt_ip(
        &self,
        head: &mut [u8],
        payload_len: usize,
        index: usize,
    ) -> Result<u16, Malformed> {
        let ip_len = head.len() - self.ip + payload_len;
        let in_field = |len: usize| u16::try_from(len).map_err(|_| Malformed);
        match self.kind {
            SegmentKind::Tcp4 => {
                put16(head, self.ip + 2, in_field(ip_len)?)?;
                let id = get16(head, self.ip + 4)?.wrapping_add(index as u16);
                put16(head, self.ip + 4, id)?;
                put16(head, self.ip + 10, 0)?;
                let header = head.get(self.ip..self.tcp).ok_or(Malformed)?;
                let checksum = !sum(header);
                put16(head, self.ip + 10, checksum)?;
                Ok(sum(head.get(self.ip + 12..self.ip + 20).ok_or(Malformed)?))
            }
            SegmentKind::Tcp6 => {
                put16(head, self.ip + 4, in_field(ip_len - 40)?)?;
                Ok(sum(head.get(self.ip + 8..self.ip + 40).ok_or(Malformed)?))
            }
        }
    }
}

fn get16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.map(|field| u16::from_be_bytes(*field)).ok_or(Malformed)
}

fn get32(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.map(|field| u32::from_be_bytes(*field)).ok_or(Malformed)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let field = bytes.get_mut(at..at + value.len()).ok_or(Malformed)?;
    field.copy_from_slice(value);
    Ok(())
}

fn put16(bytes: &mut [u8], at: usize, value: u16) -> Result<(), Malformed> {
    put(bytes, at, &value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A superframe with a partial checksum, as a stack hands it to a device.
    #[derive(Clone, Debug)]
    struct Superframe {
        link: usize,
        kind: SegmentKind,
        options: usize,
        size: u16,
        seq: u32,
        id: u16,
        flags: u8,
        payload: Vec<u8>,
    }

    impl Superframe {
        fn ip_len(&self) -> usize {
            if self.kind == SegmentKind::Tcp4 { 20 } else { 40 }
        }

        fn header_len(&self) -> usize {
            self.link + self.ip_len() + 20 + self.options
        }

        fn requests(&self) -> (Segmentation, PartialChecksum) {
            let cut = Segmentation {
                kind: self.kind,
                size: self.size.try_into().unwrap(),
                header_len: self.header_len() as u16,
            };
            (cut, PartialChecksum { start: (self.link + self.ip_len()) as u16, offset: 16 })
        }

        fn bytes(&self) -> Vec<u8> {
            let tcp_len = 20 + self.options + self.payload.len();
            let mut frame = vec![2; self.link];
            if self.link == 18 {
                frame[12..14].copy_from_slice(&[0x81, 0]);
            }
            match self.kind {
                SegmentKind::Tcp4 => {
                    frame.extend([0x45, 0]);
                    frame.extend((20 + tcp_len as u16).to_be_bytes());
                    frame.extend(self.id.to_be_bytes());
                    frame.extend([0x40, 0, 64, TCP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
                }
                SegmentKind::Tcp6 => {
                    frame.extend([0x60, 0, 0, 0]);
                    frame.extend((tcp_len as u16).to_be_bytes());
                    frame.extend([TCP, 64]);
                    frame.extend([0xfd; 32]);
                }
            }
            frame.extend([0x12, 0x34, 0x56, 0x78]);
            frame.extend(self.seq.to_be_bytes());
            frame.extend([0, 0, 0, 9, (20 + self.options as u8) << 2, self.flags, 1, 0]);
            frame.extend([0xde, 0xad, 0, 0]); // the pseudo-header sum is not relied on
            frame.extend(std::iter::repeat_n(1, self.options));
            frame.extend(&self.payload);
            frame
        }
    }

    fn superframe() -> impl Strategy<Value = Superframe> {
        let link = prop_oneof![Just(0_usize), Just(14), Just(18)];
        let kind = prop_oneof![Just(SegmentKind::Tcp4), Just(SegmentKind::Tcp6)];
        let options = (0..=10_usize).prop_map(|words| words * 4);
        let payload = prop::collection::vec(any::<u8>(), 0..20_000);
        (link, kind, options, 1..9000_u16, any::<(u32, u16, u8)>(), payload).prop_map(
            |(link, kind, options, size, (seq, id, flags), payload)| Superframe {
                link,
                kind,
                options,
                size: size.max(64),
                seq,
                id,
                flags,
                payload,
            },
        )
    }

    fn transport_sum_is_right(segment: &[u8], of: &Superframe) -> bool {
        let ip = of.link;
        let tcp = ip + of.ip_len();
        let addresses = if of.ip_len() == 20 { ip + 12..ip + 20 } else { ip + 8..ip + 40 };
        let pseudo =
            u64::from(sum(&segment[addresses])) + u64::from(TCP) + (segment.len() - tcp) as u64;
        fold(pseudo + u64::from(sum(&segment[tcp..]))) == 0xffff
    }

    proptest! {
        #[test]
        fn segments_are_what_a_nic_sends(superframe in superframe()) {
            let (cut, partial) = superframe.requests();
            let frame = superframe.bytes();
            let mut segments: Vec<Vec<u8>> = Vec::new();
            let count = segment(&frame, cut, partial, |s| segments.push(s.to_vec())).unwrap();
            prop_assert_eq!(count, segments.len());

            let (header_len, tcp) = (superframe.header_len(), usize::from(partial.start));
            let mut payload: Vec<u8> = Vec::new();
            for (index, bytes) in segments.iter().enumerate() {
                let last = index + 1 == count;
                let expected_seq = superframe.seq.wrapping_add(payload.len() as u32);
                prop_assert_eq!(get32(bytes, tcp + 4).unwrap(), expected_seq);
                let kept = if last { 0xff } else { !(FIN | PSH) }
                    & if index == 0 { 0xff } else { !CWR };
                prop_assert_eq!(bytes[tcp + 13], superframe.flags & kept);
                prop_assert!(transport_sum_is_right(bytes, &superframe));
                let ip_len = (bytes.len() - superframe.link) as u16;
                if superframe.kind == SegmentKind::Tcp4 {
                    let id = superframe.id.wrapping_add(index as u16);
                    prop_assert_eq!(get16(bytes, superframe.link + 2).unwrap(), ip_len);
                    prop_assert_eq!(get16(bytes, superframe.link + 4).unwrap(), id);
                    prop_assert_eq!(sum(&bytes[superframe.link..tcp]), 0xffff);
                } else {
                    prop_assert_eq!(get16(bytes, superframe.link + 4).unwrap(), ip_len - 40);
                }
                prop_assert!(last || bytes.len() == header_len + usize::from(superframe.size));
                payload.extend(&bytes[header_len..]);
            }
            prop_assert_eq!(payload, superframe.payload);
        }

        #[test]
        fn no_request_and_no_frame_panics(
            frame in prop::collection::vec(any::<u8>(), 0..200),
            start: u16, offset: u16, header_len: u16, size in 1..=u16::MAX, six: bool,
        ) {
            let partial = PartialChecksum { start: start % 64, offset: offset % 32 };
            let kind = if six { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
            let cut = Segmentation { kind, size: size.try_into().unwrap(), header_len };
            let _ = segment(&frame, cut, partial, |_| ());
            let _ = complete_checksum(&mut frame.clone(), PartialChecksum { start, offset });
            let _ = complete_checksum(&mut frame.clone(), partial);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_ones() {
        let mut frame = [0xff, 0xfe, 0x00, 0x01];
        complete_checksum(&mut frame, PartialChecksum { start: 0, offset: 2 }).unwrap();
        assert_eq!(frame, [0xff, 0xfe, 0xff, 0xff]);
    }

    #[test]
    fn headers_that_contradict_the_request_are_malformed() {
        let superframe = Superframe {
            link: 14,
            kind: SegmentKind::Tcp4,
            options: 0,
            size: 100,
            seq: 0,
            id: 0,
            flags: 0,
            payload: vec![0; 500],
        };
        let (cut, partial) = superframe.requests();
        let frame = superframe.bytes();
        let is_malformed =
            |frame: &[u8], cut, partial| segment(frame, cut, partial, |_| ()) == Err(Malformed);
        assert!(!is_malformed(&frame, cut, partial));
        let six = Segmentation { kind: SegmentKind::Tcp6, ..cut };
        assert!(is_malformed(&frame, six, partial));
        assert!(is_malformed(&frame, Segmentation { header_len: 58, ..cut }, partial));
        assert!(is_malformed(&frame, cut, PartialChecksum { offset: 6, ..partial }));
        assert!(is_malformed(&frame[..50], cut, partial));
        let mut udp = frame.clone();
        udp[14 + 9] = 17;
        assert!(is_malformed(&udp, cut, partial));
    }
}
