//! Path MTUs smaller than the link's (RFC 1191, RFC 8201): learnt from routers, remembered per
//! destination for ten minutes, in bounded number.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use slab::Slab;
use underpass_devices::Instant;

use crate::list::{Links, List};
use crate::tcp::HashKey;

/// No path has a smaller MTU, as far as this stack believes: over IPv4 what every host takes
/// (RFC 791 §3.1), because a forged report of less would make many small packets.
pub(crate) const MIN_V4: usize = 576;
/// RFC 8200 §5.
pub(crate) const MIN_V6: usize = 1280;
/// How long a path MTU is remembered (RFC 1191 §6.3, RFC 8201 §4).
const LIFETIME: Duration = Duration::from_secs(600);
/// MTUs of links there are, for routers that do not tell theirs (RFC 1191 table 7-1).
const PLATEAUS: [usize; 8] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, MIN_V4];

/// See the [module](self).
pub(crate) struct PathMtus {
    max_entries: usize,
    index: HashMap<IpAddr, u32, HashKey>,
    entries: Slab<Entry>,
    links: Links,
    /// In order of expiry, which is the order of entry as the lifetime is the same for all.
    ages: List,
}

struct Entry {
    dst: IpAddr,
    mtu: usize,
    expires: Instant,
}

impl PathMtus {
    /// Nothing is known; up to `max_entries` paths will be remembered.
    pub(crate) fn new(max_entries: usize, key: HashKey) -> Self {
        Self {
            max_entries,
            index: HashMap::with_hasher(key),
            entries: Slab::new(),
            links: Links::default(),
            ages: List::EMPTY,
        }
    }

    /// Longest IP packet that reaches `dst` whole beyond our own link; `usize::MAX` if nothing is known.
    pub(crate) fn get(&self, now: Instant, dst: IpAddr) -> usize {
        if self.index.is_empty() {
            return usize::MAX;
        }
        let entry = self.index.get(&dst).and_then(|slot| self.entries.get(*slot as usize));
        entry.filter(|entry| entry.expires > now).map_or(usize::MAX, |entry| entry.mtu)
    }

    /// Takes in a path MTU that was reported and checked. One that is not smaller than what is known
    /// changes nothing. The oldest entry makes room.
    pub(crate) fn lower(&mut self, now: Instant, dst: IpAddr, mtu: usize) {
        if mtu >= self.get(now, dst) || self.max_entries == 0 {
            return;
        }
        if let Some(slot) = self.index.get(&dst).copied() {
            self.remove(slot);
        }
        while let Some(oldest) = self.ages.front()
            && (self.entries.len() >= self.max_entries
                || self.entries[oldest as usize].expires <= now)
        {
            self.remove(oldest);
        }
        let slot = self.entries.insert(Entry { dst, mtu, expires: now + LIFETIME }) as u32;
        self.index.insert(dst, slot);
        self.links.push_back(&mut self.ages, slot);
    }

    /// Entries held, expired ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, slot: u32) {
        self.links.remove(&mut self.ages, slot);
        let entry = self.entries.remove(slot as usize);
        self.index.remove(&entry.dst);
    }
}

/// The path MTU to `dst` that a "packet too big" message speaks of, which names `mtu` (0: it does
/// not say) and quotes a packet of `quoted_len` bytes. `None`: it contradicts itself, or names less
/// than IPv6 needs (RFC 8201 §4).
pub(crate) fn reported(dst: IpAddr, mtu: u32, quoted_len: usize) -> Option<usize> {
    let mtu = match (dst, mtu as usize) {
        (IpAddr::V6(_), ..MIN_V6) => return None,
        (IpAddr::V4(_), 0) => PLATEAUS.into_iter().find(|plateau| *plateau < quoted_len)?,
        (IpAddr::V4(_), mtu) => mtu.max(MIN_V4),
        (IpAddr::V6(_), mtu) => mtu,
    };
    (mtu < quoted_len).then_some(mtu)
}

/// The least path MTU believed of `dst`.
pub(crate) fn minimum(dst: IpAddr) -> usize {
    if dst.is_ipv4() { MIN_V4 } else { MIN_V6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    fn table(max: usize) -> PathMtus {
        PathMtus::new(max, HashKey([3; 16]))
    }

    #[test]
    fn a_path_mtu_falls_never_rises_and_is_forgotten_after_ten_minutes() {
        let mut paths = table(8);
        let later = |secs| Instant::ZERO + Duration::from_secs(secs);
        paths.lower(Instant::ZERO, ip(1), 1400);
        paths.lower(later(60), ip(1), 1450);
        assert_eq!(paths.get(later(60), ip(1)), 1400);
        paths.lower(later(60), ip(1), 1300);
        assert_eq!(paths.get(later(659), ip(1)), 1300);
        assert_eq!(
            (paths.get(later(660), ip(1)), paths.get(later(60), ip(2))),
            (usize::MAX, usize::MAX)
        );
        // After that it may be higher than before.
        paths.lower(later(700), ip(1), 1350);
        assert_eq!((paths.get(later(700), ip(1)), paths.len()), (1350, 1));
    }

    #[test]
    fn the_number_of_paths_is_bounded() {
        let mut paths = table(3);
        for n in 0..10 {
            paths.lower(Instant::ZERO, ip(n), 1300);
        }
        assert_eq!(paths.len(), 3);
        assert_eq!(paths.get(Instant::ZERO, ip(6)), usize::MAX);
        assert_eq!(paths.get(Instant::ZERO, ip(7)), 1300);
        assert_eq!(table(0).get(Instant::ZERO, ip(1)), usize::MAX);
    }

    #[test]
    fn reports_are_believed_within_bounds() {
        let (v4, v6) = (ip(1), "fd00::1".parse().unwrap());
        assert_eq!(reported(v4, 1300, 1500), Some(1300));
        assert_eq!(reported(v4, 68, 1500), Some(576));
        assert_eq!(reported(v4, 0, 1500), Some(1492));
        assert_eq!(reported(v4, 0, 1492), Some(1006));
        assert_eq!(reported(v4, 0, 65_000), Some(32_000));
        assert_eq!(reported(v4, 0, 576), None);
        assert_eq!(reported(v4, 1500, 1500), None);
        assert_eq!(reported(v6, 1280, 1500), Some(1280));
        assert_eq!(reported(v6, 1279, 1500), None);
        assert_eq!(reported(v6, u32::MAX, 1500), None);
    }
}
