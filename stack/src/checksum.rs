//! Checksums of transport protocols. Of *sum* and *checksum*, see [`underpass_devices::checksum`].

use std::net::IpAddr;

use underpass_devices::PartialChecksum;
use underpass_devices::checksum::fold;
pub(crate) use underpass_devices::checksum::{combine, sum};

/// The sum over the pseudo-header of RFC 9293 §3.1 (IPv4) or RFC 8200 §8.1 (IPv6), for a transport
/// header and payload of `len` bytes together. It is what a [`PartialChecksum`] field starts from.
pub(crate) fn partial(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u16 {
    // `len` is 16 bits in the one and 32 bits in the other; the sum is the same.
    fold(address_words(src) + address_words(dst) + u64::from(protocol) + len as u64)
}

/// The checksum of a transport `segment` whose own checksum field is zero. UDP sends a result of
/// zero as 0xffff.
pub(crate) fn transport(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    !combine(partial(src, dst, protocol, segment.len()), sum(segment))
}

/// True if the checksum within a transport `segment` is right. A UDP datagram over IPv4 whose field
/// is zero carries none: that is for the caller to know.
pub(crate) fn verify_transport(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> bool {
    combine(partial(src, dst, protocol, segment.len()), sum(segment)) == 0xffff
}

/// Completes a checksum in `frame` whose field holds the pseudo-header sum. `false`: the request
/// points outside of the frame, which is unchanged.
pub(crate) fn complete(frame: &mut [u8], request: PartialChecksum) -> bool {
    let Some(segment) = frame.get_mut(usize::from(request.start)..) else {
        return false;
    };
    let checksum = !sum(segment);
    let offset = usize::from(request.offset);
    let Some(field) = segment.get_mut(offset..offset + 2) else {
        return false;
    };
    // Both zeroes are the same number; UDP reads 0x0000 as "no checksum" (RFC 768).
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    field.copy_from_slice(&checksum.to_be_bytes());
    true
}

/// The sum of an address as 32-bit words.
fn address_words(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(a) => u64::from(a.to_bits()),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            [bits >> 96, bits >> 64, bits >> 32, bits]
                .map(|word| u64::from(word as u32))
                .iter()
                .sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::checksum as reference;
    use smoltcp::wire::{IpAddress, IpProtocol};

    use super::*;

    proptest! {
        #[test]
        fn sums_as_the_reference(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&data), reference::data(&data));
        }

        #[test]
        fn pseudo_header_as_the_reference(
            addresses in prop_oneof![
                any::<(std::net::Ipv4Addr, std::net::Ipv4Addr)>()
                    .prop_map(|(a, b)| (IpAddr::V4(a), IpAddr::V4(b))),
                any::<(std::net::Ipv6Addr, std::net::Ipv6Addr)>()
                    .prop_map(|(a, b)| (IpAddr::V6(a), IpAddr::V6(b))),
            ],
            protocol: u8,
            len in 0_u16..,
        ) {
            let (src, dst) = addresses;
            let expected = reference::pseudo_header(
                &IpAddress::from(src),
                &IpAddress::from(dst),
                IpProtocol::from(protocol),
                u32::from(len),
            );
            prop_assert_eq!(partial(src, dst, protocol, usize::from(len)), expected);
        }

        #[test]
        fn completed_and_computed_checksums_verify(
            mut segment in proptest::collection::vec(any::<u8>(), 20..200),
            header in 0_usize..40,
            src: std::net::Ipv4Addr,
            dst: std::net::Ipv4Addr,
        ) {
            let (src, dst) = (IpAddr::V4(src), IpAddr::V4(dst));
            segment[16..18].fill(0);
            let computed = transport(src, dst, 6, &segment);
            let mut whole = segment.clone();
            whole[16..18].copy_from_slice(&computed.to_be_bytes());
            prop_assert!(verify_transport(src, dst, 6, &whole));

            let start = partial(src, dst, 6, segment.len());
            segment[16..18].copy_from_slice(&start.to_be_bytes());
            let mut frame = vec![0xaa; header];
            frame.extend_from_slice(&segment);
            let request = PartialChecksum { start: header as u16, offset: 16 };
            prop_assert!(complete(&mut frame, request));
            prop_assert!(verify_transport(src, dst, 6, &frame[header..]));

            frame[header + 3] ^= 0x10;
            prop_assert!(!verify_transport(src, dst, 6, &frame[header..]));
        }

        #[test]
        fn a_request_outside_of_the_frame_is_refused(len in 0_usize..64, start: u16, offset: u16) {
            let mut frame = vec![7; len];
            let inside = usize::from(start) + usize::from(offset) + 2 <= len;
            prop_assert_eq!(complete(&mut frame, PartialChecksum { start, offset }), inside);
            prop_assert!(inside || frame.iter().all(|b| *b == 7));
        }
    }
}
