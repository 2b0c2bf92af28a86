use std::net::IpAddr;

use crate::checksum;

/// Length of a header without options or extensions.
pub(crate) const fn ip_header_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}

/// Writes a plain IPv4 header (RFC 791 §3.1; DF clear, so that it may be cut on the way) or IPv6
/// header (RFC 8200 §3) into `header`, whose length is [`ip_header_len`]. `src` and `dst` are of the
/// same version.
pub(crate) fn write_ip_header(
    header: &mut [u8],
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    payload_len: usize,
    hop_limit: u8,
) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            header.fill(0);
            header[0] = 0x45;
            header[2..4].copy_from_slice(&((20 + payload_len) as u16).to_be_bytes());
            header[8] = hop_limit;
            header[9] = protocol;
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = !checksum::sum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            header[4..6].copy_from_slice(&(payload_len as u16).to_be_bytes());
            header[6] = protocol;
            header[7] = hop_limit;
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
        }
        _ => debug_assert!(false, "{src} and {dst} are of different IP versions"),
    }
}

/// Changes the traffic class (type of service, over IPv4) of a plain header, and over IPv4 the DF
/// bit; the header checksum is adapted (RFC 1624).
pub(crate) fn rewrite_ip_header(header: &mut [u8], traffic_class: u8, dont_fragment: bool) {
    if let Some(header) = header.first_chunk_mut::<40>() {
        header[0] = header[0] & 0xf0 | traffic_class >> 4;
        header[1] = header[1] & 0x0f | traffic_class << 4;
    } else if let Some(header) = header.first_chunk_mut::<20>() {
        let words = |header: &[u8; 20]| {
            let word = |at| u16::from_be_bytes([header[at], header[at + 1]]);
            checksum::combine(word(0), word(6))
        };
        let before = words(header);
        header[1] = traffic_class;
        header[6] = header[6] & !0x40 | u8::from(dont_fragment) << 6;
        let sum = !u16::from_be_bytes([header[10], header[11]]);
        let sum = checksum::combine(checksum::combine(sum, !before), words(header));
        header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::Packet;

    proptest! {
        #[test]
        fn a_rewritten_header_stays_valid(
            v6: bool, class: u8, dont_fragment: bool, hops: u8, len in 0..1000_usize,
        ) {
            let [src, dst]: [IpAddr; 2] = if v6 {
                ["fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()]
            } else {
                ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()]
            };
            let header_len = ip_header_len(src);
            let mut bytes = vec![0; header_len + len];
            write_ip_header(&mut bytes[..header_len], src, dst, 99, len, hops);
            rewrite_ip_header(&mut bytes[..header_len], class, dont_fragment);
            let packet = Packet::parse(&bytes).unwrap();
            prop_assert_eq!((packet.src, packet.dst, packet.payload().len()), (src, dst, len));
            let found = if v6 { bytes[0] << 4 | bytes[1] >> 4 } else { bytes[1] };
            prop_assert_eq!(found, class);
            prop_assert!(v6 || (bytes[6] & 0x40 != 0) == dont_fragment);
        }
    }
}
