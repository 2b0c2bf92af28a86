//! The peers to which the way is known, by the MAC address that follows from each. It is bounded, for
//! anybody can send.
//!
//! **What is trusted.** A datagram's sender is its source address and the number of its queue pair: who
//! forges them makes an entry that leads to the one who really is there, or nowhere. What a frame says of
//! itself is not looked at, so that nobody gets the frames of somebody else.
//!
//! **When it is full,** a newcomer takes the place of the one that was not heard for the longest time, if
//! that is [`IDLE`] or more. Otherwise it is refused, and counted. Configured peers stay.

use std::collections::HashMap;
use std::time::Duration;

use underpass_devices::{Instant, MacAddr};

use crate::rdma_peer::Peer;

/// Peers, each with a way `W` to it.
#[derive(Debug)]
pub(crate) struct PeerTable<W> {
    entries: HashMap<MacAddr, Entry<W>>,
    limit: usize,
    /// Until then the one that was silent for the longest time is not [`IDLE`].
    full_until: Instant,
    refused: u64,
}

#[derive(Debug)]
struct Entry<W> {
    peer: Peer,
    /// `None`: it is being looked for.
    way: Option<W>,
    heard: Instant,
    configured: bool,
}

/// What hearing of a peer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<W> {
    /// It is in the table.
    Known,
    /// It is now, and the way is to be looked for; that of the one whose place it got is not needed
    /// any more.
    New(Option<W>),
    /// There is no place, or somebody else has the same MAC address.
    Refused,
}

/// A peer that was not heard for so long leaves its place to a newcomer.
pub(crate) const IDLE: Duration = Duration::from_secs(30);

impl<W> PeerTable<W> {
    /// Room for `limit` peers; these are in it for good.
    pub(crate) fn new(limit: usize, configured: &[Peer]) -> Self {
        let mut entries = HashMap::with_capacity(limit);
        for peer in configured.iter().take(limit) {
            let entry = Entry { peer: *peer, way: None, heard: Instant::ZERO, configured: true };
            entries.insert(peer.mac(), entry);
        }
        Self { entries, limit, full_until: Instant::ZERO, refused: 0 }
    }

    /// A datagram of `peer` was received.
    pub(crate) fn heard(&mut self, peer: Peer, now: Instant) -> Heard<W> {
        let mac = peer.mac();
        if let Some(entry) = self.entries.get_mut(&mac) {
            if entry.peer == peer {
                entry.heard = entry.heard.max(now);
                return Heard::Known;
            }
            self.refused += 1;
            return Heard::Refused;
        }
        let mut replaced = None;
        if self.entries.len() >= self.limit {
            let Some(silent) = self.most_silent(now) else {
                self.refused += 1;
                return Heard::Refused;
            };
            replaced = self.entries.remove(&silent).and_then(|entry| entry.way);
        }
        self.entries.insert(mac, Entry { peer, way: None, heard: now, configured: false });
        Heard::New(replaced)
    }

    /// The way to a peer was found. It comes back if nobody asked for it, or it replaces another.
    pub(crate) fn found(&mut self, peer: &Peer, way: W) -> Option<W> {
        match self.entry_mut(peer) {
            Some(entry) => entry.way.replace(way),
            None => Some(way),
        }
    }

    /// There is no way to a peer. A configured one keeps its place.
    pub(crate) fn not_found(&mut self, peer: &Peer) {
        if self.entry_mut(peer).is_some_and(|entry| entry.way.is_none() && !entry.configured) {
            self.entries.remove(&peer.mac());
        }
    }

    /// The way to the station with this MAC address.
    pub(crate) fn way(&self, mac: MacAddr) -> Option<(&Peer, &W)> {
        self.entries.get(&mac).and_then(Entry::known)
    }

    /// All peers to which the way is known.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&Peer, &W)> {
        self.entries.values().filter_map(Entry::known)
    }

    /// Configured peers to which the way is not known.
    pub(crate) fn missing(&self) -> Vec<Peer> {
        let missing = self.entries.values().filter(|e| e.configured && e.way.is_none());
        missing.map(|entry| entry.peer).collect()
    }

    /// How often a peer was refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Peers in the table, with or without a way.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry_mut(&mut self, peer: &Peer) -> Option<&mut Entry<W>> {
        self.entries.get_mut(&peer.mac()).filter(|entry| entry.peer == *peer)
    }

    /// Whoever can go. The table is searched again only when somebody may have become idle.
    fn most_silent(&mut self, now: Instant) -> Option<MacAddr> {
        if now < self.full_until {
            return None;
        }
        let learned = self.entries.iter().filter(|(_, entry)| !entry.configured);
        let (mac, entry) = learned.min_by_key(|(_, entry)| entry.heard)?;
        let idle_from = entry.heard + IDLE;
        if now >= idle_from {
            return Some(*mac);
        }
        self.full_until = idle_from;
        None
    }
}

impl<W> Entry<W> {
    fn known(&self) -> Option<(&Peer, &W)> {
        self.way.as_ref().map(|way| (&self.peer, way))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma_peer::Gid;

    fn peer(number: u32) -> Peer {
        Peer { gid: Gid::of_ipv4([10, 9, 0, 1].into()), queue_pair: number }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(1000 * seconds)
    }

    #[test]
    fn a_peer_that_was_heard_can_be_reached_once_the_way_is_found() {
        let mut table = PeerTable::new(4, &[]);
        assert_eq!(table.heard(peer(17), at(0)), Heard::New(None));
        assert_eq!(table.heard(peer(17), at(1)), Heard::Known);
        assert_eq!(table.way(peer(17).mac()), None);
        assert_eq!(table.found(&peer(17), 'a'), None);
        assert_eq!(table.way(peer(17).mac()), Some((&peer(17), &'a')));
        assert_eq!(table.found(&peer(18), 'b'), Some('b'), "nobody asked for it");
    }

    #[test]
    fn a_flood_of_newcomers_does_not_push_out_whoever_is_heard() {
        let mut table = PeerTable::new(3, &[peer(1)]);
        table.found(&peer(1), 'c');
        for number in [17, 18] {
            table.heard(peer(number), at(0));
            table.found(&peer(number), 'l');
        }
        for number in 100..200 {
            assert_eq!(table.heard(peer(number), at(29)), Heard::Refused);
        }
        assert_eq!(table.refused(), 100);
        table.heard(peer(17), at(29));
        assert_eq!(table.heard(peer(200), at(31)), Heard::New(Some('l')), "18 was silent");
        assert_eq!(table.heard(peer(201), at(31)), Heard::Refused);
        assert!(table.way(peer(17).mac()).is_some() && table.way(peer(1).mac()).is_some());
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn a_peer_that_cannot_be_reached_leaves_its_place_unless_it_is_configured() {
        let mut table = PeerTable::<()>::new(2, &[peer(1)]);
        table.heard(peer(17), at(0));
        for number in [1, 17] {
            table.not_found(&peer(number));
        }
        assert_eq!((table.len(), table.missing()), (1, vec![peer(1)]));
        assert_eq!(table.heard(peer(18), at(0)), Heard::New(None));
    }

    #[test]
    fn configured_peers_leave_no_place_to_a_newcomer_if_they_are_all() {
        let mut table = PeerTable::<()>::new(1, &[peer(1)]);
        assert_eq!(table.heard(peer(17), at(1000)), Heard::Refused);
    }
}
