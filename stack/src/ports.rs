//! Ephemeral ports (RFC 6056).

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use siphasher::sip::SipHasher24;

/// Counters of the table; an observer learns how often we connect to one destination only, not how
/// often we connect at all.
const COUNTERS: usize = 4096;

/// Picks ephemeral ports by the double-hash algorithm (RFC 6056 §3.3.4): an outsider cannot guess
/// them, and one destination sees the same port again as late as possible.
pub(crate) struct PortAllocator {
    first: u16,
    /// Number of ports, 1 to 65536.
    count: u32,
    hasher: SipHasher24,
    counters: Box<[u32; COUNTERS]>,
    picked: u64,
}

impl PortAllocator {
    /// The range of the Linux default `ip_local_port_range`.
    pub(crate) const DEFAULT_RANGE: RangeInclusive<u16> = 32_768..=60_999;

    /// Ports of `range`, which holds its first port even if it is empty otherwise. `secret` comes
    /// from the operating system's random source.
    pub(crate) fn new(range: RangeInclusive<u16>, secret: [u8; 16]) -> Self {
        let (first, last) = range.into_inner();
        Self {
            first,
            count: u32::from(last.saturating_sub(first)) + 1,
            hasher: SipHasher24::new_with_key(&secret),
            counters: Box::new([0; COUNTERS]),
            picked: 0,
        }
    }

    /// A port for a connection from `local` to `remote` for which `in_use` is false. `None`: all of
    /// the range is in use. Every port is tried once, so a full range costs as many calls.
    pub(crate) fn pick(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        mut in_use: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let hash = self.hash(local, remote);
        let offset = hash as u32;
        let counter = (hash >> 32) as usize % COUNTERS;
        let start = offset.wrapping_add(self.counters[counter]) % self.count;
        let step = (0..self.count).find(|step| !in_use(self.port(start + step)))?;
        // A step of 1 to 8 hides how many connections share the counter.
        let noise = self.noise() % 8;
        self.counters[counter] = self.counters[counter].wrapping_add(step + 1 + noise);
        Some(self.port(start + step))
    }

    fn port(&self, index: u32) -> u16 {
        self.first + (index % self.count) as u16
    }

    /// F and G of RFC 6056 in one: the low and the high half of a hash.
    fn hash(&self, local: IpAddr, remote: SocketAddr) -> u64 {
        let mut key = [0; 35];
        let (addresses, port) = key.split_at_mut(32);
        let (from, to) = addresses.split_at_mut(16);
        from.copy_from_slice(&mapped(local));
        to.copy_from_slice(&mapped(remote.ip()));
        if let [high, low, _domain] = port {
            [*high, *low] = remote.port().to_be_bytes();
        }
        self.hasher.hash(&key)
    }

    fn noise(&mut self) -> u32 {
        self.picked = self.picked.wrapping_add(1);
        // Eight bytes: no input of `hash` has this length.
        self.hasher.hash(&self.picked.to_le_bytes()) as u32
    }
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn local() -> IpAddr {
        "10.0.0.1".parse().unwrap()
    }

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::new("10.0.0.2".parse().unwrap(), port)
    }

    #[test]
    fn the_whole_range_is_used_before_it_is_exhausted() {
        let range = 40_000..=40_999;
        let mut allocator = PortAllocator::new(range.clone(), [3; 16]);
        let mut taken = HashSet::new();
        while let Some(port) = allocator.pick(local(), remote(80), |p| taken.contains(&p)) {
            assert!(range.contains(&port));
            assert!(taken.insert(port), "{port} handed out twice");
        }
        assert_eq!(taken.len(), 1000);
        let mut tried = 0;
        let none = allocator.pick(local(), remote(80), |_| {
            tried += 1;
            true
        });
        assert_eq!((none, tried), (None, 1000));
        // One comes free, it is found.
        assert_eq!(allocator.pick(local(), remote(80), |p| p != 40_123), Some(40_123));
    }

    #[test]
    fn edges_of_the_range() {
        let mut all = PortAllocator::new(0..=u16::MAX, [1; 16]);
        assert_eq!(all.pick(local(), remote(1), |p| p != u16::MAX), Some(u16::MAX));
        assert_eq!(all.pick(local(), remote(1), |p| p != 0), Some(0));
        let mut one = PortAllocator::new(7..=7, [1; 16]);
        assert_eq!(one.pick(local(), remote(1), |_| false), Some(7));
        #[expect(clippy::reversed_empty_ranges)]
        let mut reversed = PortAllocator::new(9..=7, [1; 16]);
        assert_eq!(reversed.pick(local(), remote(1), |_| false), Some(9));
    }

    #[test]
    fn a_destination_does_not_see_a_port_again_soon() {
        let mut allocator = PortAllocator::new(PortAllocator::DEFAULT_RANGE, [9; 16]);
        let mut seen = HashSet::new();
        for _ in 0..28_232 / 8 {
            let port = allocator.pick(local(), remote(443), |_| false).unwrap();
            assert!(seen.insert(port));
        }
    }

    #[test]
    fn destinations_and_secrets_give_unrelated_ports() {
        let first = |secret, to| {
            let mut allocator = PortAllocator::new(PortAllocator::DEFAULT_RANGE, [secret; 16]);
            allocator.pick(local(), remote(to), |_| false).unwrap()
        };
        let ports: HashSet<u16> = (0..100).map(|n| first(1, n)).collect();
        assert!(ports.len() > 90, "{} different ports of 100", ports.len());
        let secrets: HashSet<u16> = (0..100).map(|n| first(n, 1)).collect();
        assert!(secrets.len() > 90, "{} different ports of 100", secrets.len());
    }
}
