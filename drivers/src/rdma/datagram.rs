//! What becomes of a receive completion, and what the datagram says of its sender. Both are written by
//! the device, from what came over the network; neither is believed without a look.

use underpass_devices::checksum;

use crate::ledger::{Ledger, Refused};
use crate::rdma_peer::{Gid, MULTICAST_QUEUE_PAIR, Peer};

/// Bytes in front of every datagram: a global routing header (GRH), or an IPv4 header in the second
/// half of it. InfiniBand Architecture Specification volume 1, section 8.3, and annex A17 (RoCEv2).
pub(crate) const ROUTING_HEADER_LEN: usize = 40;

/// Where the IPv4 header begins; what is in front of it is undefined.
const IPV4_AT: usize = ROUTING_HEADER_LEN - 20;

/// Shortest frame.
const ETHERNET_HEADER_LEN: usize = 14;

/// What a successful receive completion says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    /// Where the buffer begins, as it was when it was posted.
    pub(crate) address: usize,
    /// Bytes written to it.
    pub(crate) len: usize,
    pub(crate) has_routing_header: bool,
    /// The queue pair that sent it.
    pub(crate) queue_pair: u32,
}

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A frame of `len` bytes behind the routing header in the buffer of this number.
    Frame { number: usize, len: usize, sender: Peer },
    /// What we have sent to the group ourselves. Nothing is to be lent of this buffer.
    Own(usize),
    /// No frame. Nothing is to be lent of this buffer, if it was one that the device had.
    Malformed(Option<usize>),
}

/// Looks at a completion. `header` reads the first bytes of the buffer of a number, which the device has
/// given back.
pub(crate) fn receive(
    ledger: &mut Ledger,
    receipt: &Receipt,
    own: &Peer,
    header: impl FnOnce(usize) -> [u8; ROUTING_HEADER_LEN],
) -> Arrival {
    let number = match ledger.receive(receipt.address, receipt.len) {
        Ok(number) => number,
        Err(Refused::TooLong) => return Arrival::Malformed(ledger.number(receipt.address)),
        Err(Refused::NotGiven) => return Arrival::Malformed(None),
    };
    let len = receipt.len.checked_sub(ROUTING_HEADER_LEN).filter(|len| *len >= ETHERNET_HEADER_LEN);
    let (Some(len), true) = (len, receipt.has_routing_header) else {
        return Arrival::Malformed(Some(number));
    };
    match sender(&header(number), receipt.queue_pair) {
        Some(sender) if sender == *own => Arrival::Own(number),
        Some(sender) => Arrival::Frame { number, len, sender },
        None => Arrival::Malformed(Some(number)),
    }
}

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
    fn a_completion_is_a_frame_only_if_everything_fits() {
        let mut ledger = Ledger::new(0, 4160, 2);
        let own: Peer = "10.9.0.1/17".parse().unwrap();
        let whole = Receipt { address: 4160, len: 100, has_routing_header: true, queue_pair: 18 };
        let mut receive = |receipt: Receipt, source: [u8; 4]| {
            ledger.give(4160);
            super::receive(&mut ledger, &receipt, &own, |_| ipv4(source))
        };
        let sender = Peer { queue_pair: 18, ..own };
        let frame = Arrival::Frame { number: 1, len: 60, sender };
        assert_eq!(receive(whole, [10, 9, 0, 1]), frame);
        assert_eq!(receive(Receipt { queue_pair: 17, ..whole }, [10, 9, 0, 1]), Arrival::Own(1));
        let malformed = Arrival::Malformed(Some(1));
        assert_eq!(receive(whole, [224, 0, 0, 1]), malformed);
        for len in [0, 39, 53, 4161, usize::MAX] {
            assert_eq!(receive(Receipt { len, ..whole }, [10, 9, 0, 1]), malformed, "{len}");
        }
        let bare = Receipt { has_routing_header: false, ..whole };
        assert_eq!(receive(bare, [10, 9, 0, 1]), malformed);
        for address in [0, 8320, usize::MAX] {
            let elsewhere = Receipt { address, ..whole };
            assert_eq!(receive(elsewhere, [10, 9, 0, 1]), Arrival::Malformed(None), "{address}");
        }
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
