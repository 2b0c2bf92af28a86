//! TCP segments by hand, and what a station has sent.

use std::net::IpAddr;

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

const IPV4: [u8; 2] = [8, 0];
const IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL: u8 = 6;

/// The fields of a segment and its data.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// Source and destination port.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The flag bits.
    pub flags: u8,
    /// As in the header.
    pub window: u16,
    /// Cut and padded to a multiple of four bytes, at most 40.
    pub options: Vec<u8>,
    /// What is behind the header.
    pub data: Vec<u8>,
}

impl Segment {
    /// The bytes behind the IP header, without a checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        let words = 5 + options.len() as u8 / 4;
        [
            &self.ports.0.to_be_bytes()[..],
            &self.ports.1.to_be_bytes(),
            &self.seq.to_be_bytes(),
            &self.ack.to_be_bytes(),
            &[words << 4, self.flags],
            &self.window.to_be_bytes(),
            &[0; 4],
            &options,
            &self.data,
        ]
        .concat()
    }

    /// Reads a frame that a station of ours has sent, whose lengths are right, and its destination.
    /// `None`: it is no TCP.
    pub fn read(frame: &[u8]) -> Option<(IpAddr, Self)> {
        let ether_type: [u8; 2] = *frame.get(12..)?.first_chunk()?;
        let (protocol, to, at) = match ether_type {
            IPV4 => (frame[23], IpAddr::from(*frame[30..].first_chunk::<4>()?), 34),
            IPV6 => (frame[20], IpAddr::from(*frame[38..].first_chunk::<16>()?), 54),
            _ => return None,
        };
        let tcp = frame.get(at..).filter(|_| protocol == PROTOCOL)?;
        let word = |at: usize| u32::from_be_bytes(*tcp[at..].first_chunk().unwrap());
        let half = |at: usize| u16::from_be_bytes(*tcp[at..].first_chunk().unwrap());
        let data_at = usize::from(tcp[12] >> 4) * 4;
        let segment = Self {
            ports: (half(0), half(2)),
            seq: word(4),
            ack: word(8),
            flags: tcp[13],
            window: half(14),
            options: tcp[20..data_at].to_vec(),
            data: tcp[data_at..].to_vec(),
        };
        Some((to, segment))
    }

    /// True if all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}
