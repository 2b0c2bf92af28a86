use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const REPLY: Source = Source::Advertisement { solicited: true, overrides: true };
const ANNOUNCEMENT: Source = Source::Advertisement { solicited: false, overrides: true };

fn table(change: impl FnOnce(&mut NeighborConfig)) -> NeighborTable {
    let mut config = NeighborConfig::default();
    change(&mut config);
    NeighborTable::new(config, [7; 16], Instant::ZERO)
}

fn ip(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

fn mac(n: u16) -> MacAddr {
    MacAddr::local(u64::from(n) + 1)
}

fn seconds(n: u64) -> Instant {
    Instant::from_millis(n * 1000)
}

fn queue(
    table: &mut NeighborTable,
    now: Instant,
    n: u16,
    bytes: usize,
) -> Result<Option<Solicit>, QueueError> {
    table.queue(now, ip(n), vec![n as u8; bytes].into(), TxMeta::default())
}

fn events(table: &mut NeighborTable, now: Instant) -> Vec<NeighborEvent> {
    let mut events = Vec::new();
    table.poll(now, |event| events.push(event));
    events
}

/// Brings `ip(n)` to Reachable at `now`.
fn make_reachable(table: &mut NeighborTable, now: Instant, n: u16) {
    queue(table, now, n, 1).unwrap();
    assert_eq!(table.learn(now, ip(n), mac(n), REPLY).len(), 1);
}

#[test]
fn sixty_four_neighbours_asked_for_at_once_all_resolve() {
    let mut table = table(|_| ());
    for n in 0..64 {
        assert_eq!(table.lookup(Instant::ZERO, ip(n)), None);
        let solicit = queue(&mut table, Instant::ZERO, n, 100).unwrap();
        assert_eq!(solicit, Some(Solicit { ip: ip(n), unicast: None }));
        assert_eq!(queue(&mut table, Instant::ZERO, n, 50), Ok(None), "asked for already");
    }
    for n in (0..64).rev() {
        let sent = table.learn(Instant::from_millis(1), ip(n), mac(n), REPLY);
        assert_eq!(sent.iter().map(|p| p.packet.len()).collect::<Vec<_>>(), [100, 50]);
        assert_eq!(table.lookup(Instant::from_millis(1), ip(n)), Some(mac(n)));
    }
    assert_eq!((table.counters().resolved, table.pending_bytes), (64, 0));
    assert_eq!(table.next_timer(), None);
}

#[test]
fn a_silent_neighbour_is_asked_three_times_then_given_up() {
    let mut table = table(|_| ());
    let address = ip(9);
    let again = || NeighborEvent::Solicit(Solicit { ip: address, unicast: None });
    queue(&mut table, Instant::ZERO, 9, 10).unwrap();
    queue(&mut table, Instant::ZERO, 9, 10).unwrap();
    assert_eq!(events(&mut table, Instant::from_millis(999)), []);
    assert_eq!(events(&mut table, seconds(1)), [again()]);
    assert_eq!(events(&mut table, seconds(2)), [again()]);
    assert!(table.next_timer().unwrap() <= seconds(3));
    let waited = || Pending { packet: [9; 10].into(), meta: TxMeta::default() };
    let failed = NeighborEvent::Failed { ip: address, dropped: [waited(), waited()].into() };
    assert_eq!(events(&mut table, seconds(3)), [failed]);
    assert_eq!((table.len(), table.next_timer(), table.pending_bytes), (0, None, 0));
    assert!(queue(&mut table, seconds(3), 9, 10).unwrap().is_some(), "a new attempt");
}

#[test]
fn a_used_stale_neighbour_is_probed_by_unicast_and_removed_if_silent() {
    let mut table = table(|_| ());
    make_reachable(&mut table, Instant::ZERO, 1);
    assert_eq!(table.lookup(seconds(29), ip(1)), Some(mac(1)));
    assert_eq!(table.next_timer(), None, "reachable: nothing to do");
    assert_eq!(table.lookup(seconds(31), ip(1)), Some(mac(1)), "stale is still used");
    let probe = || NeighborEvent::Solicit(Solicit { ip: ip(1), unicast: Some(mac(1)) });
    for second in [36, 37, 38] {
        assert_eq!(events(&mut table, seconds(second)), [probe()]);
    }
    assert_eq!(table.lookup(seconds(38), ip(1)), Some(mac(1)));
    let failed = NeighborEvent::Failed { ip: ip(1), dropped: VecDeque::new() };
    assert_eq!(events(&mut table, seconds(39)), [failed]);
    assert_eq!(table.lookup(seconds(39), ip(1)), None);
}

#[test]
fn an_answer_or_an_upper_layer_ends_the_probing() {
    for confirm_by_upper_layer in [false, true] {
        let mut table = table(|_| ());
        make_reachable(&mut table, Instant::ZERO, 1);
        table.lookup(seconds(31), ip(1));
        assert_eq!(events(&mut table, seconds(36)).len(), 1);
        if confirm_by_upper_layer {
            table.confirm(seconds(36), ip(1));
        } else {
            table.learn(seconds(36), ip(1), mac(1), REPLY);
        }
        assert_eq!(table.next_timer(), None);
        assert_eq!(table.lookup(seconds(65), ip(1)), Some(mac(1)));
        assert_eq!(table.next_timer(), None, "reachable for 30 s from the confirmation");
    }
}

#[test]
fn only_a_request_makes_an_entry() {
    let mut table = table(|_| ());
    for source in [REPLY, ANNOUNCEMENT] {
        table.learn(Instant::ZERO, ip(1), mac(1), source);
        assert_eq!(table.lookup(Instant::ZERO, ip(1)), None);
    }
    table.learn(Instant::ZERO, ip(1), mac(1), Source::Request);
    assert_eq!(table.lookup(Instant::ZERO, ip(1)), Some(mac(1)));
    assert!(table.next_timer().is_some(), "it is unconfirmed, so its use leads to a probe");
}

#[test]
fn a_request_from_the_neighbour_asked_for_frees_its_packets() {
    let mut table = table(|_| ());
    queue(&mut table, Instant::ZERO, 1, 5).unwrap();
    assert_eq!(table.learn(Instant::ZERO, ip(1), mac(1), Source::Request).len(), 1);
    assert_eq!(table.lookup(Instant::ZERO, ip(1)), Some(mac(1)));
}

#[test]
fn group_addresses_are_never_learned() {
    let mut table = table(|_| ());
    queue(&mut table, Instant::ZERO, 1, 5).unwrap();
    for bad in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr::default()] {
        assert!(table.learn(Instant::ZERO, ip(1), bad, REPLY).is_empty());
    }
    let addresses = [
        IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "224.0.0.1".parse().unwrap(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "ff02::1".parse().unwrap(),
    ];
    for address in addresses {
        table.learn(Instant::ZERO, address, mac(1), Source::Request);
    }
    assert_eq!((table.len(), table.counters().ignored), (1, 8));
}

#[test]
fn another_mac_address_is_taken_or_doubted_as_rfc_4861_says() {
    let polite = Source::Advertisement { solicited: true, overrides: false };
    let mut table = table(|_| ());
    make_reachable(&mut table, Instant::ZERO, 1);
    // §7.2.5 I.: no override, another address: doubt, do not change.
    table.learn(seconds(1), ip(1), mac(2), polite);
    assert_eq!(table.lookup(seconds(1), ip(1)), Some(mac(1)));
    assert!(table.next_timer().is_some(), "in doubt: will be probed");
    // §7.2.5 II.: override, but nobody asked: change, and doubt.
    table.learn(seconds(2), ip(1), mac(2), REPLY);
    assert_eq!(table.lookup(seconds(2), ip(1)), Some(mac(2)));
    assert!(table.next_timer().is_some());
    // The same address again is no news.
    table.confirm(seconds(3), ip(1));
    table.learn(seconds(3), ip(1), mac(2), ANNOUNCEMENT);
    table.lookup(seconds(4), ip(1));
    assert_eq!(table.next_timer(), None, "still reachable");
}

#[test]
fn the_newest_packets_wait() {
    let mut table = table(|config| config.max_pending_per_neighbor = 3);
    for n in 0..5_u8 {
        table.queue(Instant::ZERO, ip(1), [n].into(), TxMeta::default()).unwrap();
    }
    let sent = table.learn(Instant::ZERO, ip(1), mac(1), REPLY);
    assert_eq!(sent.iter().map(|p| p.packet[0]).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(table.counters().displaced, 2);
    assert_eq!(queue(&mut table, Instant::ZERO, 1, 1), Err(QueueError::Resolved));
}

#[test]
fn waiting_bytes_are_bounded_over_all_neighbours() {
    let mut table = table(|config| config.max_pending_bytes = 100);
    assert!(queue(&mut table, Instant::ZERO, 1, 60).is_ok());
    assert_eq!(queue(&mut table, Instant::ZERO, 2, 60), Err(QueueError::Bytes));
    assert_eq!(table.len(), 1, "a refused packet leaves nothing behind");
    assert!(queue(&mut table, Instant::ZERO, 2, 40).is_ok());
    assert!(queue(&mut table, Instant::ZERO, 1, 60).is_ok(), "displaces the older one");
    assert_eq!((table.pending_bytes, table.counters().refused_bytes), (100, 1));
    assert_eq!(queue(&mut table, Instant::ZERO, 1, 101), Err(QueueError::Bytes));
}

#[test]
fn a_scan_of_the_subnet_does_not_touch_known_neighbours() {
    let mut table = table(|config| {
        config.max_entries = 4;
        config.max_incomplete = 8;
    });
    for n in 0..4 {
        make_reachable(&mut table, Instant::ZERO, n);
    }
    let refused = (100..200).filter(|n| queue(&mut table, Instant::ZERO, *n, 1).is_err()).count();
    assert_eq!((refused, table.counters().refused_incomplete), (92, 92));
    for n in 0..4 {
        assert_eq!(table.lookup(Instant::ZERO, ip(n)), Some(mac(n)));
    }
}

#[test]
fn a_flood_of_requests_displaces_unused_entries_only() {
    let mut table = table(|config| config.max_entries = 16);
    for n in 0..8 {
        make_reachable(&mut table, Instant::ZERO, n);
    }
    for n in 1000..3000 {
        table.learn(seconds(1), ip(n), mac(n), Source::Request);
        assert!(table.len() <= 16);
    }
    for n in 0..8 {
        assert_eq!(table.lookup(seconds(1), ip(n)), Some(mac(n)));
    }
    assert!(table.counters().evicted >= 1992 - table.counters().full);
}

#[test]
fn our_own_need_displaces_the_oldest_even_if_all_are_in_use() {
    let mut table = table(|config| config.max_entries = 4);
    for n in 0..20 {
        make_reachable(&mut table, Instant::ZERO, n);
        assert_eq!(table.lookup(Instant::ZERO, ip(n)), Some(mac(n)));
        assert!(table.len() <= 4);
    }
    table.learn(Instant::ZERO, ip(99), mac(99), Source::Request);
    assert_eq!((table.lookup(Instant::ZERO, ip(99)), table.counters().full), (None, 1));
}

proptest! {
    #[test]
    fn limits_hold_and_no_packet_is_lost_without_a_count(
        steps in proptest::collection::vec((0_u8..5, 0_u16..12, 0_usize..40, 0_u64..4000), 1..400),
    ) {
        let mut table = table(|config| {
            config.max_entries = 4;
            config.max_incomplete = 3;
            config.max_pending_per_neighbor = 2;
            config.max_pending_bytes = 100;
        });
        let mut now = Instant::ZERO;
        let (mut queued, mut sent, mut lost) = (0_usize, 0_usize, 0_usize);
        for (step, n, len, wait) in steps {
            match step {
                0 | 1 => queued += usize::from(queue(&mut table, now, n, len).is_ok()),
                2 => sent += table.learn(now, ip(n), mac(n), REPLY).len(),
                3 => sent += table.learn(now, ip(n), mac(n + 1), Source::Request).len(),
                _ => {
                    now += Duration::from_millis(wait);
                    table.poll(now, |event| {
                        if let NeighborEvent::Failed { dropped, .. } = event {
                            lost += dropped.len();
                        }
                    });
                    table.lookup(now, ip(n));
                }
            }
            let waiting: usize = table.entries.iter().map(|(_, e)| e.pending.len()).sum();
            let bytes: usize = table.entries.iter()
                .flat_map(|(_, e)| &e.pending).map(|p| p.packet.len()).sum();
            prop_assert_eq!(bytes, table.pending_bytes);
            prop_assert!(bytes <= 100);
            prop_assert!(table.known_len <= 4 && table.incomplete_len <= 3);
            prop_assert_eq!(table.known_len + table.incomplete_len, table.len());
            let displaced = table.counters().displaced as usize;
            prop_assert_eq!(queued, sent + waiting + displaced + lost);
        }
    }
}
