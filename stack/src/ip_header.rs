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
