//! The frame that is sent and received: a UDP datagram of zeros.

use underpass::devices::{MacAddr, checksum};

/// Ethernet, IPv4 and UDP headers.
pub(crate) const SHORTEST: u16 = (ETHERNET + IP + UDP) as u16;
/// What an MTU of 1500 allows.
pub(crate) const LONGEST: u16 = ETHERNET as u16 + 1500;

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;

/// A frame of `len` bytes, without the frame check sequence. Its addresses are those for benchmarks
/// (RFC 2544), its port is that of the discard service.
pub(crate) fn datagram(len: usize, to: MacAddr, from: MacAddr) -> Vec<u8> {
    let ip_len = ((len - ETHERNET) as u16).to_be_bytes();
    let udp_len = ((len - ETHERNET - IP) as u16).to_be_bytes();
    let mut ip = [
        0x45, 0, ip_len[0], ip_len[1], 0, 0, 0, 0, 64, 17, 0, 0, // checksum
        198, 18, 0, 1, 198, 18, 0, 2,
    ];
    let sum = !checksum::sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(len);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend([0x08, 0x00]);
    frame.extend(ip);
    // Without a checksum (RFC 768).
    frame.extend([0, 9, 0, 9, udp_len[0], udp_len[1], 0, 0]);
    frame.resize(len, 0);
    frame
}

#[cfg(test)]
mod tests {
    use underpass::devices::{FrameSummary, Medium};

    use super::*;

    #[test]
    fn a_datagram_for_the_discard_service() {
        let frame = datagram(60, MacAddr::local(1), MacAddr::local(2));
        assert_eq!(frame.len(), 60);
        let text = FrameSummary::new(Medium::Ethernet, &frame).to_string();
        assert!(text.contains("198.18.0.2") && text.contains("UDP"), "{text}");
    }
}
