//! Which queue the frames of a flow belong to.

use std::net::{IpAddr, SocketAddr};

use crate::Medium;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A hash of the two ends of a flow that a device spreads flows over its queues by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowHash {
    /// Our own, [`software_hash`]: simple enough for a classic BPF program.
    #[default]
    Software,
}

impl FlowHash {
    /// The hash of the flow between two ends of one IP version. It is the same for both directions,
    /// so that both ends of a link put a flow on queues of the same number.
    pub fn of(self, a: SocketAddr, b: SocketAddr) -> u32 {
        match self {
            Self::Software => software_hash(
                fold_address(a.ip()) ^ fold_address(b.ip()),
                u32::from(a.port() ^ b.port()),
            ),
        }
    }

    /// The same for the flow that a received frame belongs to. `None`: it is no TCP or UDP packet
    /// whose ports can be told from the frame alone, as a fragment or a packet with IPv6 extension
    /// headers. One 802.1Q tag is looked behind.
    pub fn of_frame(self, medium: Medium, frame: &[u8]) -> Option<u32> {
        let packet = ip_packet(medium, frame)?;
        let (addresses, transport) = match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                if is_fragment || !matches!(header[9], TCP | UDP) {
                    return None;
                }
                (fold(&header[12..20]), packet.get(usize::from(header[0] & 0x0f) * 4..)?)
            }
            6 => {
                let (header, transport) = packet.split_first_chunk::<40>()?;
                if !matches!(header[6], TCP | UDP) {
                    return None;
                }
                (fold(&header[8..40]), transport)
            }
            _ => return None,
        };
        let &[s0, s1, d0, d1] = transport.first_chunk()?;
        let ports = u16::from_be_bytes([s0, s1]) ^ u16::from_be_bytes([d0, d1]);
        match self {
            Self::Software => Some(software_hash(addresses, u32::from(ports))),
        }
    }
}

/// The flow hash in software: `addresses` is the exclusive or of all 32-bit words of both
/// addresses, `ports` that of both ports. The finish is that of MurmurHash3 (`fmix32`), so that
/// every bit counts for every number of queues. It is not keyed: a peer can choose its ports so that
/// all of its flows meet on one queue, as it can with most network cards.
pub const fn software_hash(addresses: u32, ports: u32) -> u32 {
    let mut hash = addresses ^ ports.wrapping_mul(SOFTWARE_HASH_FACTORS[0]);
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(SOFTWARE_HASH_FACTORS[1]);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(SOFTWARE_HASH_FACTORS[2]);
    hash ^ hash >> 16
}

/// The factors of [`software_hash`], in their order, for programs that compute it elsewhere.
pub const SOFTWARE_HASH_FACTORS: [u32; 3] = [0x9e37_79b1, 0x85eb_ca6b, 0xc2b2_ae35];

/// The choice of a queue: a pure function of a flow's two ends, so a flow never moves.
///
/// ```
/// use underpass_devices::{FlowHash, Steering};
///
/// let steering = Steering::new(FlowHash::Software, 4);
/// let (a, b) = ("10.0.0.1:40000".parse()?, "10.0.0.2:80".parse()?);
/// assert!(steering.queue_of(a, b) < 4);
/// assert_eq!(steering.queue_of(a, b), steering.queue_of(b, a));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    hash: FlowHash,
    queues: u32,
}

impl Steering {
    /// Over `queues` queues, at least one.
    pub const fn new(hash: FlowHash, queues: usize) -> Self {
        Self { hash, queues: if queues == 0 { 1 } else { queues as u32 } }
    }

    /// The number of queues.
    pub const fn queues(&self) -> usize {
        self.queues as usize
    }

    /// The queue of the flow between two ends.
    pub fn queue_of(&self, a: SocketAddr, b: SocketAddr) -> usize {
        if self.queues == 1 { 0 } else { self.reduce(self.hash.of(a, b)) }
    }

    /// The queue of a frame; 0 for one that [`FlowHash::of_frame`] knows no flow of.
    pub fn queue_of_frame(&self, medium: Medium, frame: &[u8]) -> usize {
        if self.queues == 1 {
            return 0;
        }
        self.hash.of_frame(medium, frame).map_or(0, |hash| self.reduce(hash))
    }

    /// The remainder, as Linux takes it of what a fanout program returns.
    fn reduce(self, hash: u32) -> usize {
        (hash % self.queues) as usize
    }
}

fn ip_packet(medium: Medium, frame: &[u8]) -> Option<&[u8]> {
    if medium == Medium::Ip {
        return Some(frame);
    }
    let (ether_type, rest) = frame.get(12..)?.split_first_chunk::<2>()?;
    let (ether_type, packet) = match *ether_type {
        ETHERTYPE_VLAN => rest.get(2..)?.split_first_chunk::<2>()?,
        _ => (ether_type, rest),
    };
    let version = match *ether_type {
        ETHERTYPE_IPV4 => 4,
        ETHERTYPE_IPV6 => 6,
        _ => return None,
    };
    (packet.first()? >> 4 == version).then_some(packet)
}

fn fold_address(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => fold(&v6.octets()),
    }
}

/// The exclusive or of the 32-bit words.
fn fold(bytes: &[u8]) -> u32 {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().fold(0, |sum, word| sum ^ u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An Ethernet frame without a right checksum, from `a` to `b`.
    fn frame(a: SocketAddr, b: SocketAddr, protocol: u8) -> Vec<u8> {
        let ports = [a.port().to_be_bytes(), b.port().to_be_bytes()].concat();
        let (ether_type, header) = match (a.ip(), b.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let head = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, protocol, 0, 0];
                (ETHERTYPE_IPV4, [&head[..], &a.octets(), &b.octets()].concat())
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let head = [0x60, 0, 0, 0, 0, 8, protocol, 64];
                (ETHERTYPE_IPV6, [&head[..], &a.octets(), &b.octets()].concat())
            }
            _ => panic!("two IP versions"),
        };
        [&[0; 12][..], &ether_type, &header, &ports, &[0; 4]].concat()
    }

    fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let end = |v4: u32, v6: u128, port| {
            (SocketAddr::from((v4.to_be_bytes(), port)), SocketAddr::from((v6.to_be_bytes(), port)))
        };
        any::<(u32, u128, u16, u32, u128, u16, bool)>().prop_map(
            move |(a4, a6, ap, b4, b6, bp, v6)| {
                let (a, b) = (end(a4, a6, ap), end(b4, b6, bp));
                if v6 { (a.1, b.1) } else { (a.0, b.0) }
            },
        )
    }

    proptest! {
        #[test]
        fn a_frame_hashes_as_its_ends_in_both_directions((a, b) in ends(), tcp: bool) {
            let hash = FlowHash::Software;
            let protocol = if tcp { TCP } else { UDP };
            prop_assert_eq!(hash.of(a, b), hash.of(b, a));
            for frame in [frame(a, b, protocol), frame(b, a, protocol)] {
                prop_assert_eq!(hash.of_frame(Medium::Ethernet, &frame), Some(hash.of(a, b)));
                prop_assert_eq!(hash.of_frame(Medium::Ip, &frame[14..]), Some(hash.of(a, b)));
                let tagged = [&frame[..12], &[0x81, 0, 0, 42], &frame[12..]].concat();
                prop_assert_eq!(hash.of_frame(Medium::Ethernet, &tagged), Some(hash.of(a, b)));
            }
        }

        #[test]
        fn whatever_arrives_has_a_queue(frame: Vec<u8>, queues in 1..9_usize) {
            let steering = Steering::new(FlowHash::Software, queues);
            prop_assert!(steering.queue_of_frame(Medium::Ethernet, &frame) < queues);
            prop_assert!(steering.queue_of_frame(Medium::Ip, &frame) < queues);
        }
    }

    #[test]
    fn frames_without_ports_belong_to_nobody() {
        let (a, b) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let of = |frame: &[u8]| FlowHash::Software.of_frame(Medium::Ethernet, frame);
        assert_eq!(of(&frame(a, b, 1)), None, "ICMP");
        let mut fragment = frame(a, b, UDP);
        fragment[20] = 0x20;
        assert_eq!(of(&fragment), None, "a first fragment");
        fragment[20..22].copy_from_slice(&[0, 1]);
        assert_eq!(of(&fragment), None, "a later fragment");
        let whole = frame(a, b, UDP);
        assert_eq!(of(&whole[..37]), None, "cut within the ports");
        assert_eq!(Steering::new(FlowHash::Software, 7).queue_of_frame(Medium::Ip, &[]), 0);
    }

    #[test]
    fn ports_in_a_row_spread_evenly() {
        let server = "192.0.2.1:80".parse().unwrap();
        for queues in 2..9_usize {
            let steering = Steering::new(FlowHash::Software, queues);
            let mut counts = vec![0; queues];
            for port in 32_768..42_768 {
                let client = SocketAddr::from(([198, 51, 100, 7], port));
                counts[steering.queue_of(client, server)] += 1;
            }
            let fair = 10_000 / queues;
            assert!(
                counts.iter().all(|n| (fair * 9 / 10..fair * 11 / 10).contains(n)),
                "{counts:?}"
            );
        }
    }
}
