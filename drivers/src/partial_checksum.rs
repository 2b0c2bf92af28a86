//! Checksums that the sender's kernel left to a NIC that does not exist: on a virtual link, a TCP or
//! UDP field may hold the sum over the pseudo-header only. Neither AF_XDP nor most poll-mode drivers of
//! DPDK tell; the value does.

use underpass_devices::PartialChecksum;
use underpass_devices::checksum::{combine, fold, sum};

const ETHERNET_LEN: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the checksum is to be completed, if the field holds the pseudo-header sum. A complete
/// checksum has that value once in 65,536 frames; such a frame counts as right without a look.
pub(crate) fn partial(frame: &[u8]) -> Option<PartialChecksum> {
    let packet = frame.get(ETHERNET_LEN..)?;
    let (header_len, protocol, addresses, segment_len) = match (frame[12], frame[13]) {
        (0x08, 0x00) => {
            let header: &[u8; 20] = packet.first_chunk()?;
            if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
                return None;
            }
            let header_len = usize::from(header[0] & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
            (header_len, header[9], &header[12..20], total.checked_sub(header_len)?)
        }
        (0x86, 0xdd) => {
            let header: &[u8; 40] = packet.first_chunk()?;
            let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
            (40, header[6], &header[8..40], payload)
        }
        _ => return None,
    };
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let field: &[u8; 2] = packet.get(header_len + offset..)?.first_chunk()?;
    let rest = fold(u64::from(protocol) + segment_len as u64);
    let pseudo = combine(sum(addresses), rest);
    let start = (ETHERNET_LEN + header_len) as u16;
    (u16::from_be_bytes(*field) == pseudo)
        .then_some(PartialChecksum { start, offset: offset as u16 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A TCP segment from 10.7.0.1 to 10.7.0.2 as a Linux kernel (6.18) sent it over a veth pair with
    /// `ethtool -K tx on`, and the one that it sent with `tx off`.
    fn segment(checksum: [u8; 2]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 42, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff]);
        frame.extend(checksum);
        frame.extend([0, 0, b'h', b'i']);
        frame
    }

    #[test]
    fn the_sum_of_the_pseudo_header_is_told_from_a_checksum() {
        // 0a07 + 0001 + 0a07 + 0002 + 0006 + 0016 (RFC 9293 section 3.1)
        let partial = partial(&segment([0x14, 0x2d]));
        assert_eq!(partial, Some(PartialChecksum { start: 34, offset: 16 }));
        assert_eq!(super::partial(&segment([0xeb, 0xd2])), None);
    }

    #[test]
    fn fragments_and_other_protocols_have_none() {
        let mut frame = segment([0x14, 0x2d]);
        frame[20] = 0x20;
        assert_eq!(partial(&frame), None);
        let mut frame = segment([0x14, 0x2d]);
        frame[23] = 1;
        assert_eq!(partial(&frame), None);
    }

    proptest! {
        #[test]
        fn nothing_that_arrives_does_harm(mut frame in prop::collection::vec(any::<u8>(), 0..120)) {
            for ether_type in [[8, 0], [0x86, 0xdd]] {
                if let Some(field) = frame.get_mut(12..14) {
                    field.copy_from_slice(&ether_type);
                }
                if let Some(partial) = partial(&frame) {
                    prop_assert!(usize::from(partial.start + partial.offset) + 2 <= frame.len());
                }
            }
        }
    }
}
