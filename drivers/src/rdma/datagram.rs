//! What a received datagram says of its sender. The device writes it from what came over the network.

use underpass_devices::checksum;

use crate::rdma_peer::{Gid, MULTICAST_QUEUE_PAIR, Peer};

/// Bytes in front of every datagram: a global routing header (GRH), or an IPv4 header in the second
/// half of it. InfiniBand Architecture Specification volume 1, section 8.3, and annex A17 (RoCEv2).
pub(crate) const ROUTING_HEADER_LEN: usize = 40;

/// Where the IPv4 header begins; what is in front of it is undefined.
const IPV4_AT: usize = ROUTING_HEADER_LEN - 20;

/// Who sent a datagram, by its first bytes and the number that the completion names. `None`: nobody
/// that can be answered.
pub(crate) fn sender(header: &[u8; ROUTING_HEADER_LEN], queue_pair: u32) -> Option<Peer> {
    let gid = source(header)?;
    (1..MULTICAST_QUEUE_PAIR).contains(&queue_pair).then_some(Peer { gid, queue_pair })
}

fn source(header: &[u8; ROUTING_HEADER_LEN]) -> Option<Gid> {
    let ipv4 = &header[IPV4_AT..];
    // What is in front of an IPv4 header may look like version 6 by chance, an IPv4 header with the
    // right checksum in an address of IPv6 hardly.
    let is_ipv4 = ipv4[0] == 0x45 && (header[0] >> 4 != 6 || checksum::sum(ipv4) == 0xffff);
    let gid = if is_ipv4 {
        let [.., a, b, c, d, _, _, _, _] = *header;
        Gid::of_ipv4([a, b, c, d].into())
    } else if header[0] >> 4 == 6 {
        let mut gid = [0; 16];
        gid.copy_from_slice(&header[8..24]);
        Gid(gid)
    } else {
        return None;
    };
    is_one_station(gid).then_some(gid)
}

/// Whether it is the address of one station: no group, no broadcast, not unspecified.
fn is_one_station(gid: Gid) -> bool {
    match gid.ipv4() {
        Some(address) => {
            !(address.is_multicast() || address.is_broadcast() || address.is_unspecified())
        }
        None => gid.0[0] != 0xff && gid.0 != [0; 16],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV6: [u8; 40] = {
        let mut header = [0; 40];
        header[0] = 0x60;
        header[8] = 0xfe;
        header[9] = 0x80;
        header[23] = 1;
        header
    };

    fn ipv4(source: [u8; 4]) -> [u8; 40] {
        let mut header = [0; 40];
        header[20] = 0x45;
        header[32..36].copy_from_slice(&source);
        let sum = !checksum::sum(&header[20..]);
        header[30..32].copy_from_slice(&sum.to_be_bytes());
        header
    }

    #[test]
    fn a_sender_is_found_in_either_header() {
        assert_eq!(sender(&IPV6, 17).unwrap().to_string(), "fe80::1/17");
        assert_eq!(sender(&ipv4([10, 9, 0, 2]), 17).unwrap().to_string(), "::ffff:10.9.0.2/17");
    }

    #[test]
    fn what_is_in_front_of_an_ipv4_header_does_not_matter() {
        let mut header = ipv4([10, 9, 0, 2]);
        header[..20].fill(0x66);
        assert_eq!(sender(&header, 17).unwrap().to_string(), "::ffff:10.9.0.2/17");
    }

    #[test]
    fn an_ipv6_header_is_one_although_a_byte_of_its_addresses_says_version_4() {
        let mut header = IPV6;
        header[20] = 0x45;
        assert_eq!(sender(&header, 17).unwrap().to_string(), "fe80::4500:1/17");
    }

    #[test]
    fn nobody_sends_from_a_group_or_from_nowhere() {
        for source in [[224, 0, 0, 1], [0, 0, 0, 0], [255, 255, 255, 255]] {
            assert_eq!(sender(&ipv4(source), 17), None, "{source:?}");
        }
        let mut group = IPV6;
        group[8] = 0xff;
        assert_eq!(sender(&group, 17), None);
        assert_eq!(sender(&[0; 40], 17), None);
        for number in [0, MULTICAST_QUEUE_PAIR, u32::MAX] {
            assert_eq!(sender(&IPV6, number), None);
        }
    }
}
