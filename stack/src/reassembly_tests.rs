use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// A fragment over IPv4 (`id` selects the datagram) as it comes from the wire.
fn v4(id: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    let field = (offset / 8) as u16 | u16::from(more) << 13;
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 2).octets());
    packet[16..20].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).octets());
    sealed(packet, data)
}

fn sealed(mut packet: Vec<u8>, data: &[u8]) -> Vec<u8> {
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(data);
    packet
}

/// The same over IPv6.
fn v6(id: u32, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    packet[6] = 44;
    packet[7] = 64;
    packet[8..24].fill(0x22);
    packet[24..40].fill(0x11);
    packet.extend([17, 0]);
    packet.extend((offset as u16 | u16::from(more)).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend_from_slice(data);
    packet
}

fn insert(
    reassembler: &mut Reassembler,
    now: Instant,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>, DropReason> {
    let packet = Packet::parse(bytes).unwrap();
    assert!(packet.fragment.is_some());
    reassembler.insert(now, &packet)
}

fn reassembler(change: impl FnOnce(&mut ReassemblyConfig)) -> Reassembler {
    let mut config = ReassemblyConfig::default();
    change(&mut config);
    Reassembler::new(config, [5; 16])
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 256) as u8).collect()
}

#[test]
fn a_datagram_becomes_whole_in_any_order_over_both_versions() {
    let data = payload(24);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for family in [4, 6] {
            let mut r = reassembler(|_| ());
            let mut whole = None;
            for at in order {
                assert_eq!(whole, None);
                let (offset, more) = (at * 8, at < 2);
                let piece = &data[offset..offset + 8];
                let bytes = match family {
                    4 => v4(9, offset, more, piece),
                    _ => v6(9, offset, more, piece),
                };
                whole = insert(&mut r, Instant::ZERO, &bytes).unwrap();
            }
            let whole = whole.expect("whole after the last fragment");
            let packet = Packet::parse(&whole).unwrap();
            assert!(packet.fragment.is_none());
            assert_eq!((packet.protocol, packet.payload()), (17, &data[..]));
            assert_eq!(packet.bytes.len(), whole.len());
            assert_eq!((r.len(), r.bytes, r.next_timer()), (0, 0, None));
        }
    }
}

#[test]
fn datagrams_of_different_ids_do_not_mix() {
    let mut r = reassembler(|_| ());
    assert_eq!(insert(&mut r, Instant::ZERO, &v4(1, 0, true, &[1; 8])), Ok(None));
    assert_eq!(insert(&mut r, Instant::ZERO, &v4(2, 8, false, &[2; 8])), Ok(None));
    assert_eq!(r.len(), 2);
    assert!(insert(&mut r, Instant::ZERO, &v4(1, 8, false, &[3; 8])).unwrap().is_some());
}

#[test]
fn lengths_no_sender_produces_are_dropped() {
    let mut r = reassembler(|_| ());
    let malformed = Err(DropReason::FragmentMalformed);
    assert_eq!(insert(&mut r, Instant::ZERO, &v4(1, 0, true, &[1; 9])), malformed);
    assert_eq!(insert(&mut r, Instant::ZERO, &v4(1, 8, false, &[])), malformed);
    assert_eq!(insert(&mut r, Instant::ZERO, &v6(1, 8, true, &[])), malformed);
    // The ping of death.
    let too_long = Err(DropReason::FragmentMalformed);
    assert_eq!(insert(&mut r, Instant::ZERO, &v4(1, 65_512, false, &[1; 8])), too_long);
    assert_eq!(insert(&mut r, Instant::ZERO, &v6(1, 65_528, false, &[1; 8])), too_long);
    assert_eq!(r.len(), 0);
}

#[test]
fn an_overlap_discards_the_datagram_for_good() {
    let mut r = reassembler(|_| ());
    let zero = Instant::ZERO;
    assert_eq!(insert(&mut r, zero, &v6(1, 0, true, &[1; 16])), Ok(None));
    assert_eq!(insert(&mut r, zero, &v6(1, 8, false, &[2; 16])), Err(DropReason::FragmentOverlap));
    for bytes in [v6(1, 0, true, &[1; 16]), v6(1, 16, false, &[2; 8])] {
        assert_eq!(insert(&mut r, zero, &bytes), Err(DropReason::FragmentOverlap));
    }
    assert_eq!((r.len(), r.bytes), (1, 0), "a tombstone holds no data");
    r.poll(Instant::from_millis(60_000), |_| panic!("nothing to report"));
    assert_eq!(r.len(), 0);
}

#[test]
fn fragments_that_contradict_each_other_discard_the_datagram() {
    let cases = [
        // Two ends.
        [v4(1, 8, false, &[1; 8]), v4(1, 16, false, &[1; 8])],
        // Data behind the end.
        [v4(1, 8, false, &[1; 8]), v4(1, 16, true, &[1; 8])],
        [v4(1, 16, true, &[1; 8]), v4(1, 8, false, &[1; 8])],
        // The same data is the end, and is not.
        [v4(1, 8, false, &[1; 8]), v4(1, 8, true, &[1; 8])],
        [v4(1, 8, true, &[1; 8]), v4(1, 8, false, &[1; 8])],
        // The same place, other data.
        [v4(1, 8, true, &[1; 8]), v4(1, 8, true, &[2; 8])],
    ];
    for [first, second] in cases {
        let mut r = reassembler(|_| ());
        assert_eq!(insert(&mut r, Instant::ZERO, &first), Ok(None));
        let result = insert(&mut r, Instant::ZERO, &second);
        assert_eq!(result, Err(DropReason::FragmentOverlap));
    }
}

#[test]
fn an_exact_duplicate_is_ignored() {
    let mut r = reassembler(|_| ());
    for _ in 0..3 {
        assert_eq!(insert(&mut r, Instant::ZERO, &v4(1, 8, false, &[2; 5])), Ok(None));
    }
    assert_eq!(r.counters().duplicates, 2);
    assert!(insert(&mut r, Instant::ZERO, &v4(1, 0, true, &[1; 8])).unwrap().is_some());
}

#[test]
fn a_datagram_times_out() {
    let mut r = reassembler(|_| ());
    insert(&mut r, Instant::from_millis(5), &v4(1, 0, true, &[1; 8])).unwrap();
    insert(&mut r, Instant::from_millis(6), &v6(1, 8, true, &[1; 8])).unwrap();
    assert_eq!(r.next_timer(), Some(Instant::from_millis(30_005)));
    assert_eq!(dropped(&mut r, Instant::from_millis(30_004)), []);
    let timeout = DropReason::FragmentTimeout;
    assert_eq!(dropped(&mut r, Instant::from_millis(30_005)), [timeout]);
    assert_eq!(r.next_timer(), Some(Instant::from_millis(60_006)));
    assert_eq!(dropped(&mut r, Instant::from_millis(60_006)), [timeout]);
    assert_eq!((r.len(), r.bytes), (0, 0));
}

fn dropped(reassembler: &mut Reassembler, now: Instant) -> Vec<DropReason> {
    let mut reasons = Vec::new();
    reassembler.poll(now, |reason| reasons.push(reason));
    reasons
}

#[test]
fn a_flood_is_bounded_and_the_oldest_goes_first() {
    let mut r = reassembler(|config| {
        config.max_datagrams = 10;
        config.max_bytes = 3000;
    });
    for id in 0..1000 {
        insert(&mut r, Instant::from_millis(u64::from(id)), &v4(id, 0, true, &[0; 200])).unwrap();
        assert!(r.len() <= 10 && r.bytes <= 3000);
    }
    assert_eq!(dropped(&mut r, Instant::from_millis(1000)), [DropReason::FragmentMemory; 990]);
    let newest = insert(&mut r, Instant::from_millis(1000), &v4(999, 200, false, &[1; 8]));
    assert!(newest.unwrap().is_some());
    let mut small = reassembler(|config| config.max_bytes = 100);
    let result = insert(&mut small, Instant::ZERO, &v4(1, 0, true, &[0; 200]));
    assert_eq!(result, Err(DropReason::FragmentMemory));
}

#[test]
fn tiny_fragments_are_bounded() {
    let mut r = reassembler(|config| config.max_fragments = 4);
    for n in 0..4 {
        assert_eq!(insert(&mut r, Instant::ZERO, &v4(1, n * 16, true, &[0; 8])), Ok(None));
    }
    let result = insert(&mut r, Instant::ZERO, &v4(1, 64, true, &[0; 8]));
    assert_eq!((result, r.bytes), (Err(DropReason::FragmentMemory), 0));
}

#[test]
fn congestion_marks_are_merged() {
    let marked = |ecn: u8, offset, more| {
        let mut packet = v4(1, offset, more, &[0; 8]);
        packet[1] = ecn;
        sealed(packet[..20].to_vec(), &packet[20..])
    };
    let whole = |first, second| {
        let mut r = reassembler(|_| ());
        insert(&mut r, Instant::ZERO, &marked(first, 0, true)).unwrap();
        insert(&mut r, Instant::ZERO, &marked(second, 8, false))
    };
    let ecn = |packet: Option<Vec<u8>>| packet.unwrap()[1];
    assert_eq!(whole(0b10, 0b11).map(ecn), Ok(0b11));
    assert_eq!(whole(0b10, 0b10).map(ecn), Ok(0b10));
    assert_eq!(whole(0b00, 0b11).map(ecn), Err(DropReason::FragmentMalformed));
}

/// Cut points in units of 8 bytes, and an order of delivery with repetitions.
fn deliveries() -> impl Strategy<Value = (usize, Vec<usize>, Vec<usize>)> {
    let cuts = proptest::collection::btree_set(1_usize..60, 1..12);
    (481_usize..600, cuts, proptest::collection::vec(any::<usize>(), 40))
        .prop_map(|(len, cuts, order)| (len, cuts.into_iter().map(|c| c * 8).collect(), order))
}

proptest! {
    #[test]
    fn any_cut_order_and_repetition_gives_the_original(
        (len, cuts, order) in deliveries(),
        ipv6: bool,
    ) {
        let data = payload(len);
        let mut bounds = vec![0];
        bounds.extend(&cuts);
        bounds.push(len);
        let count = bounds.len() - 1;
        // Repeats at first, then each once: the datagram is whole at the last one missing.
        let all = order.iter().map(|n| n % count).chain(0..count);
        let mut r = reassembler(|_| ());
        let mut seen = std::collections::HashSet::new();
        for n in all {
            let (start, end) = (bounds[n], bounds[n + 1]);
            let more = end < len;
            let bytes = if ipv6 {
                v6(7, start, more, &data[start..end])
            } else {
                v4(7, start, more, &data[start..end])
            };
            seen.insert(n);
            let whole = insert(&mut r, Instant::ZERO, &bytes).unwrap();
            prop_assert_eq!(whole.is_some(), seen.len() == count);
            if let Some(whole) = whole {
                let packet = Packet::parse(&whole).unwrap();
                prop_assert!(packet.fragment.is_none());
                prop_assert_eq!(packet.payload(), &data[..]);
                prop_assert_eq!(r.bytes, 0);
                return Ok(());
            }
        }
        prop_assert!(false, "never whole");
    }

    #[test]
    fn an_overlap_never_yields_a_datagram(
        (len, cuts, order) in deliveries(),
        (start, units) in (0_usize..59, 1_usize..20),
        when in 0_usize..40,
    ) {
        let data = payload(len);
        let mut bounds = vec![0];
        bounds.extend(&cuts);
        bounds.push(len);
        let count = bounds.len() - 1;
        // The last piece comes last, so nothing is whole before the odd one is there.
        let mut pieces: Vec<(usize, usize)> = order
            .iter()
            .map(|n| n % (count - 1))
            .chain(0..count)
            .map(|n| (bounds[n], bounds[n + 1]))
            .collect();
        // It overlaps some honest pieces and cannot stand for a run of them.
        let odd = (start * 8, (start * 8 + units * 8).min(len / 8 * 8));
        prop_assume!(odd.0 < odd.1);
        prop_assume!(!bounds.contains(&odd.0) || !bounds.contains(&odd.1));
        pieces.insert(when, odd);
        let mut r = reassembler(|_| ());
        for (start, end) in pieces {
            let bytes = v6(7, start, end < len, &data[start..end]);
            let whole = insert(&mut r, Instant::ZERO, &bytes);
            prop_assert!(!matches!(whole, Ok(Some(_))));
        }
    }

    #[test]
    fn any_fragments_keep_the_books(
        fragments in proptest::collection::vec(
            (0_u16..4, 0_usize..8191, any::<bool>(), 0_usize..80), 0..200),
    ) {
        let mut r = reassembler(|config| {
            config.max_bytes = 2000;
            config.max_datagrams = 3;
            config.max_fragments = 5;
        });
        for (n, (id, units, more, len)) in fragments.into_iter().enumerate() {
            let now = Instant::from_millis(n as u64 * 1000);
            r.poll(now, |_| ());
            let offset = units % 40 * 8 + usize::from(units > 8000) * 65_000;
            let _ = insert(&mut r, now, &v4(id, offset, more || offset == 0, &payload(len)));
            let cost: usize = r.datagrams.iter().map(|(_, d)| d.cost()).sum();
            prop_assert_eq!(cost, r.bytes);
            prop_assert!(r.bytes <= 2000 && r.len() <= 3);
            prop_assert_eq!(r.index.len(), r.len());
        }
    }
}
