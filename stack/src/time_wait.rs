//! Connections in TIME-WAIT (RFC 9293 §3.10.7.4): a few words each instead of a socket with its
//! buffers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use slab::Slab;
use underpass_devices::Instant;

use crate::list::{Links, List};
use crate::packet::{TcpSegment, Tuple};

/// Least time between two acknowledgements of segments that make no sense, in milliseconds: two
/// ends that disagree must not answer each other for ever (Linux `tcp_invalid_ratelimit`).
const ACK_INTERVAL: u32 = 500;

/// What to do about a segment for a connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeWaitAction {
    /// Send a bare acknowledgement with these numbers.
    Ack { seq: u32, ack: u32 },
    /// Nothing.
    Ignore,
    /// The segment is a SYN for a new incarnation, and the old one is gone from the table: handle it
    /// as for a closed connection. The new initial sequence number must be beyond `snd_nxt`.
    Reopen { snd_nxt: u32 },
}

/// See the [module](self).
pub(crate) struct TimeWaitTable {
    max_entries: usize,
    timeout: Duration,
    hasher: SipHasher13,
    index: HashTable<u32>,
    entries: Slab<Entry>,
    links: Links,
    /// In order of expiry, which is the order of entry as the time is the same for all.
    ages: List,
    evicted: u64,
}

struct Entry {
    key: Key,
    snd_nxt: u32,
    rcv_nxt: u32,
    /// When the last senseless segment was answered, in milliseconds, wrapping.
    last_ack: u32,
    expires: Instant,
}

const _: () = assert!(size_of::<Entry>() <= 64);

/// Local address, port, remote address, port; IPv4 as IPv4-mapped IPv6.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u8; 36]);

impl TimeWaitTable {
    /// An empty table for `max_entries` connections (at least one) that stay for `timeout`. `secret`
    /// keys the hash and comes from the operating system's random source.
    pub(crate) fn new(max_entries: usize, timeout: Duration, secret: [u8; 16]) -> Self {
        Self {
            max_entries: max_entries.max(1),
            timeout,
            hasher: SipHasher13::new_with_key(&secret),
            index: HashTable::new(),
            entries: Slab::new(),
            links: Links::default(),
            ages: List::EMPTY,
            evicted: 0,
        }
    }

    /// Adds a connection both ends of which have closed. If the table is full the oldest entry goes
    /// early, and is counted.
    pub(crate) fn insert(&mut self, now: Instant, tuple: &Tuple, snd_nxt: u32, rcv_nxt: u32) {
        let key = Key::new(tuple);
        if let Some(slot) = self.find(key) {
            self.remove(slot);
        }
        if self.entries.len() >= self.max_entries
            && let Some(oldest) = self.ages.front()
        {
            self.remove(oldest);
            self.evicted += 1;
        }
        let last_ack = millis(now).wrapping_sub(ACK_INTERVAL);
        let expires = now + self.timeout;
        let entry = Entry { key, snd_nxt, rcv_nxt, last_ack, expires };
        let slot = self.entries.insert(entry) as u32;
        let (hasher, entries) = (&self.hasher, &self.entries);
        self.index.insert_unique(hasher.hash(&key.0), slot, |slot| {
            hasher.hash(&entries[*slot as usize].key.0)
        });
        self.links.push_back(&mut self.ages, slot);
    }

    /// True if a connection between these two ends is in TIME-WAIT.
    pub(crate) fn contains(&self, tuple: &Tuple) -> bool {
        self.find(Key::new(tuple)).is_some()
    }

    /// Takes a connection out, for a new one between the same ends, whose initial sequence number
    /// must be beyond the one returned (RFC 9293 §3.6.1). `None`: it is not in TIME-WAIT.
    pub(crate) fn reopen(&mut self, tuple: &Tuple) -> Option<u32> {
        let slot = self.find(Key::new(tuple))?;
        let snd_nxt = self.entries[slot as usize].snd_nxt;
        self.remove(slot);
        Some(snd_nxt)
    }

    /// Judges a segment; `None` if its connection is not in TIME-WAIT.
    pub(crate) fn on_segment(
        &mut self,
        now: Instant,
        segment: &TcpSegment<'_>,
    ) -> Option<TimeWaitAction> {
        let slot = self.find(Key::new(&segment.tuple))?;
        let entry = &mut self.entries[slot as usize];
        let (seq, flags) = (segment.seq, segment.flags);
        let ack = TimeWaitAction::Ack { seq: entry.snd_nxt, ack: entry.rcv_nxt };
        if flags.rst() {
            // A reset would let old segments into a new incarnation (RFC 1337).
            return Some(TimeWaitAction::Ignore);
        }
        if flags.syn() && !flags.ack() && !flags.fin() && is_after(seq, entry.rcv_nxt) {
            let snd_nxt = entry.snd_nxt;
            self.remove(slot);
            return Some(TimeWaitAction::Reopen { snd_nxt });
        }
        if flags.fin() && seq.wrapping_add(segment.seq_len()) == entry.rcv_nxt {
            // The peer's FIN again: our acknowledgement was lost, so the time starts anew.
            entry.expires = now + self.timeout;
            self.links.remove(&mut self.ages, slot);
            self.links.push_back(&mut self.ages, slot);
            return Some(ack);
        }
        let expected = seq == entry.rcv_nxt && segment.seq_len() == 0;
        let answerable = (flags.ack() || flags.syn()) && !expected;
        let quiet = millis(now).wrapping_sub(entry.last_ack) < ACK_INTERVAL;
        if !answerable || quiet {
            return Some(TimeWaitAction::Ignore);
        }
        entry.last_ack = millis(now);
        Some(ack)
    }

    /// Forgets the connections whose time is over.
    pub(crate) fn poll(&mut self, now: Instant) {
        while let Some(slot) = self.ages.front() {
            if self.entries[slot as usize].expires > now {
                break;
            }
            self.remove(slot);
        }
    }

    /// When to call [`poll`](Self::poll) next.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.ages.front().map(|slot| self.entries[slot as usize].expires)
    }

    /// Connections in TIME-WAIT.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Connections that left early because the table was full.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn find(&self, key: Key) -> Option<u32> {
        let same = |slot: &u32| self.entries[*slot as usize].key == key;
        self.index.find(self.hasher.hash(&key.0), same).copied()
    }

    fn remove(&mut self, slot: u32) {
        let entry = self.entries.remove(slot as usize);
        self.links.remove(&mut self.ages, slot);
        if let Ok(found) = self.index.find_entry(self.hasher.hash(&entry.key.0), |s| *s == slot) {
            found.remove();
        }
    }
}

impl Key {
    fn new(tuple: &Tuple) -> Self {
        let mut bytes = [0; 36];
        let (local, remote) = bytes.split_at_mut(18);
        write_end(local, tuple.local);
        write_end(remote, tuple.remote);
        Self(bytes)
    }
}

fn write_end(out: &mut [u8], end: SocketAddr) {
    let ip = match end.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let (address, port) = out.split_at_mut(16);
    address.copy_from_slice(&ip.octets());
    port.copy_from_slice(&end.port().to_be_bytes());
}

/// True if `a` comes after `b` in sequence space (RFC 9293 §3.4).
fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

fn millis(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip_header::{ip_header_len, write_ip_header};
    use crate::packet::{Packet, protocol};
    use proptest::prelude::*;

    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    const MINUTE: Duration = Duration::from_secs(60);
    const SND_NXT: u32 = 1000;
    const RCV_NXT: u32 = 5;

    fn tuple(port: u16) -> Tuple {
        let local = "10.0.0.1:80".parse().unwrap();
        Tuple { local, remote: SocketAddr::new("10.0.0.2".parse().unwrap(), port) }
    }

    fn table(max: usize) -> TimeWaitTable {
        TimeWaitTable::new(max, MINUTE, [1; 16])
    }

    fn receive(
        table: &mut TimeWaitTable,
        now: Instant,
        port: u16,
        seq: u32,
        flags: u8,
        data: usize,
    ) -> Option<TimeWaitAction> {
        let Tuple { local, remote } = tuple(port);
        let mut bytes = vec![0; ip_header_len(local.ip()) + 20 + data];
        let (ip, tcp) = bytes.split_at_mut(20);
        write_ip_header(ip, remote.ip(), local.ip(), protocol::TCP, tcp.len(), 64);
        tcp[0..2].copy_from_slice(&remote.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&local.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp[12] = 0x50;
        tcp[13] = flags;
        let segment = TcpSegment::parse(Packet::parse(&bytes).unwrap()).unwrap();
        assert_eq!(segment.tuple, tuple(port));
        table.on_segment(now, &segment)
    }

    fn with_one() -> TimeWaitTable {
        let mut table = table(10);
        table.insert(Instant::ZERO, &tuple(1), SND_NXT, RCV_NXT);
        table
    }

    const ANSWER: Option<TimeWaitAction> = Some(TimeWaitAction::Ack { seq: SND_NXT, ack: RCV_NXT });
    const NOTHING: Option<TimeWaitAction> = Some(TimeWaitAction::Ignore);

    #[test]
    fn an_entry_lives_for_its_time() {
        let mut table = with_one();
        assert!(table.contains(&tuple(1)) && !table.contains(&tuple(2)));
        assert!(!table.contains(&tuple(1).reversed()));
        assert_eq!(table.next_timer(), Some(Instant::ZERO + MINUTE));
        table.poll(Instant::from_millis(59_999));
        assert_eq!(table.len(), 1);
        table.poll(Instant::from_millis(60_000));
        assert_eq!((table.len(), table.next_timer()), (0, None));
        assert_eq!(receive(&mut table, Instant::ZERO, 1, 5, ACK, 0), None);
    }

    #[test]
    fn a_repeated_fin_is_acknowledged_every_time_and_restarts_the_clock() {
        let mut table = with_one();
        table.insert(Instant::from_millis(1), &tuple(2), 7, 7);
        for second in [10, 10, 30] {
            let now = Instant::from_millis(second * 1000);
            assert_eq!(receive(&mut table, now, 1, RCV_NXT - 1, FIN | ACK, 0), ANSWER);
        }
        // With its last data.
        let now = Instant::from_millis(40_000);
        assert_eq!(receive(&mut table, now, 1, RCV_NXT - 4, FIN | ACK, 3), ANSWER);
        table.poll(Instant::from_millis(99_999));
        assert!(table.contains(&tuple(1)) && !table.contains(&tuple(2)));
        table.poll(Instant::from_millis(100_000));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_reset_does_not_assassinate() {
        let mut table = with_one();
        for flags in [RST, RST | ACK, RST | SYN] {
            assert_eq!(receive(&mut table, Instant::ZERO, 1, RCV_NXT, flags, 0), NOTHING);
        }
        assert!(table.contains(&tuple(1)));
    }

    #[test]
    fn a_later_syn_opens_anew_and_an_earlier_one_does_not() {
        for (seq, reopens) in [
            (RCV_NXT + 1, true),
            (RCV_NXT + 0x7fff_ffff, true),
            (RCV_NXT, false),
            (RCV_NXT.wrapping_sub(100), false),
        ] {
            let mut table = with_one();
            let expected =
                if reopens { Some(TimeWaitAction::Reopen { snd_nxt: SND_NXT }) } else { ANSWER };
            assert_eq!(receive(&mut table, Instant::ZERO, 1, seq, SYN, 0), expected);
            assert_eq!(table.contains(&tuple(1)), !reopens);
        }
        let mut table = with_one();
        let answer = receive(&mut table, Instant::ZERO, 1, RCV_NXT + 9, SYN | ACK, 0);
        assert_eq!(answer, ANSWER, "no new incarnation begins with SYN-ACK");
    }

    #[test]
    fn what_is_expected_is_ignored_and_the_rest_is_answered_twice_a_second() {
        let mut table = with_one();
        let zero = Instant::ZERO;
        assert_eq!(receive(&mut table, zero, 1, RCV_NXT, ACK, 0), NOTHING);
        assert_eq!(receive(&mut table, zero, 1, RCV_NXT, 0, 0), NOTHING);
        assert_eq!(receive(&mut table, zero, 1, RCV_NXT, ACK, 10), ANSWER);
        for milli in 0..500 {
            let now = Instant::from_millis(milli);
            assert_eq!(receive(&mut table, now, 1, RCV_NXT + 77, ACK, 0), NOTHING);
        }
        let later = Instant::from_millis(500);
        assert_eq!(receive(&mut table, later, 1, RCV_NXT + 77, ACK, 0), ANSWER);
    }

    #[test]
    fn the_oldest_leaves_a_full_table() {
        let mut table = table(100);
        for port in 1..=1000 {
            table.insert(Instant::from_millis(u64::from(port)), &tuple(port), 0, 0);
            assert!(table.len() <= 100);
        }
        assert_eq!((table.len(), table.evicted()), (100, 900));
        assert!(table.contains(&tuple(901)) && !table.contains(&tuple(900)));
        table.insert(Instant::from_millis(1000), &tuple(950), 3, 4);
        assert_eq!((table.len(), table.evicted()), (100, 900), "replaced, not added");
    }

    proptest! {
        #[test]
        fn the_books_balance(
            steps in proptest::collection::vec((0_u8..5, 1_u16..20, 0_u32..10, 0_u8..32), 1..300),
        ) {
            let mut table = table(8);
            let mut now = Instant::ZERO;
            for (step, port, seq, flags) in steps {
                match step {
                    0 | 1 => table.insert(now, &tuple(port), SND_NXT, RCV_NXT),
                    2 => now += Duration::from_secs(u64::from(seq) * 3),
                    3 => table.poll(now),
                    _ => {
                        let known = table.contains(&tuple(port));
                        let action = receive(&mut table, now, port, seq, flags, 0);
                        prop_assert_eq!(action.is_some(), known);
                    }
                }
                prop_assert!(table.len() <= 8);
                prop_assert_eq!(table.index.len(), table.len());
                let first = table.entries.iter().map(|(_, entry)| entry.expires).min();
                prop_assert_eq!(table.next_timer(), first);
            }
        }
    }
}
