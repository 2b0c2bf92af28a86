//! The neighbour table: which MAC address is behind an on-link IP address.
//!
//! One table serves IPv4 (ARP, RFC 826) and IPv6 (neighbour discovery, RFC 4861); states are those
//! of RFC 4861 §7.3.2. Everything is per neighbour: the packets that wait for an address, and the
//! rate at which it is asked for.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use slab::Slab;
use underpass_devices::{Instant, MacAddr, TxMeta};

use crate::list::{Links, List};
use crate::timer::TimerWheel;

/// Limits and times of a [`NeighborTable`].
#[derive(Clone, Debug)]
pub(crate) struct NeighborConfig {
    /// Neighbours whose MAC address is known. At least one.
    pub(crate) max_entries: usize,
    /// Neighbours that are being asked for; bounds what a scan of the subnet costs (RFC 6583).
    pub(crate) max_incomplete: usize,
    /// Packets that wait for one neighbour; the oldest makes room for a new one (RFC 1122
    /// §2.3.2.2). At least one.
    pub(crate) max_pending_per_neighbor: usize,
    /// Bytes of packets that wait, over all neighbours.
    pub(crate) max_pending_bytes: usize,
    /// How long a confirmed neighbour counts as reachable.
    pub(crate) reachable_time: Duration,
    /// Between two solicitations of one neighbour.
    pub(crate) retransmit: Duration,
    /// From the use of a stale entry to the first probe: upper layers may confirm it meanwhile.
    pub(crate) delay_first_probe: Duration,
    /// Solicitations without an answer after which the neighbour is given up.
    pub(crate) max_probes: u8,
}

impl Default for NeighborConfig {
    /// Times of RFC 4861 §10.
    fn default() -> Self {
        Self {
            max_entries: 4096,
            max_incomplete: 1024,
            max_pending_per_neighbor: 1024,
            max_pending_bytes: 4 << 20,
            reachable_time: Duration::from_secs(30),
            retransmit: Duration::from_secs(1),
            delay_first_probe: Duration::from_secs(5),
            max_probes: 3,
        }
    }
}

/// A packet that waits for the MAC address of its next hop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The IP packet, without a link header.
    pub(crate) packet: Box<[u8]>,
    /// What it asks of the device.
    pub(crate) meta: TxMeta,
}

/// Ask for the MAC address of `ip` now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Solicit {
    /// Whom to ask for.
    pub(crate) ip: IpAddr,
    /// Ask this station alone (a probe of a known neighbour); `None`: broadcast or multicast.
    pub(crate) unicast: Option<MacAddr>,
}

/// How a binding of address and MAC address came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The neighbour asked for one of our addresses: it is about to talk to us, so an entry is
    /// worth making.
    Request,
    /// The neighbour advertised itself. Never makes an entry.
    Advertisement {
        /// It says it answers a solicitation of ours.
        solicited: bool,
        /// It replaces another MAC address (RFC 4861 §4.4; always so for ARP).
        overrides: bool,
    },
}

/// Why a packet was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueueError {
    /// Too many neighbours are being asked for.
    #[error("too many neighbours are being resolved")]
    Incomplete,
    /// Too many bytes wait for neighbours.
    #[error("too many bytes wait for neighbours")]
    Bytes,
    /// The MAC address is known: send the packet to what `lookup` gives.
    #[error("the neighbour is resolved")]
    Resolved,
}

/// What [`NeighborTable::poll`] has to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NeighborEvent {
    /// A solicitation is due.
    Solicit(Solicit),
    /// Nobody answered; these packets waited for it.
    Failed { ip: IpAddr, dropped: VecDeque<Pending> },
}

/// What has happened to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NeighborCounters {
    /// Neighbours that answered while packets could wait for them.
    pub(crate) resolved: u64,
    /// Neighbours that did not answer.
    pub(crate) failed: u64,
    /// Waiting packets that made room for newer ones.
    pub(crate) displaced: u64,
    /// Packets refused because too many neighbours were being asked for.
    pub(crate) refused_incomplete: u64,
    /// Packets refused because too many bytes waited.
    pub(crate) refused_bytes: u64,
    /// Bindings ignored: not a unicast address, or about nobody we asked for.
    pub(crate) ignored: u64,
    /// Bindings ignored because the table was full of neighbours in use.
    pub(crate) full: u64,
    /// Entries displaced by newer ones.
    pub(crate) evicted: u64,
}

/// See the [module](self).
pub(crate) struct NeighborTable {
    config: NeighborConfig,
    hasher: SipHasher13,
    index: HashTable<u32>,
    entries: Slab<Entry>,
    timers: TimerWheel,
    links: Links,
    /// Known neighbours that are not static, those learned or confirmed the longest ago first.
    known: List,
    known_len: usize,
    incomplete_len: usize,
    pending_bytes: usize,
    counters: NeighborCounters,
    /// Scratch of `poll`.
    due: Vec<u32>,
}

struct Entry {
    ip: IpAddr,
    mac: MacAddr,
    state: State,
    /// Looked up since eviction last passed by.
    used: bool,
    /// Solicitations sent in this state.
    probes: u8,
    pending: VecDeque<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Incomplete,
    Reachable { until: Instant },
    Stale,
    Delay,
    Probe,
}

impl NeighborTable {
    /// An empty table; `secret` keys its hash and comes from the operating system's random source.
    pub(crate) fn new(config: NeighborConfig, secret: [u8; 16], now: Instant) -> Self {
        Self {
            config,
            hasher: SipHasher13::new_with_key(&secret),
            index: HashTable::new(),
            entries: Slab::new(),
            timers: TimerWheel::new(Duration::from_millis(1), now),
            links: Links::default(),
            known: List::EMPTY,
            known_len: 0,
            incomplete_len: 0,
            pending_bytes: 0,
            counters: NeighborCounters::default(),
            due: Vec::new(),
        }
    }

    /// The MAC address of `ip`, if known. It counts as a use: a stale entry will be probed.
    pub(crate) fn lookup(&mut self, now: Instant, ip: IpAddr) -> Option<MacAddr> {
        let slot = self.find(ip)?;
        let entry = &mut self.entries[slot as usize];
        let stale = match entry.state {
            State::Incomplete => return None,
            State::Reachable { until } => now >= until,
            State::Stale => true,
            State::Delay | State::Probe => false,
        };
        entry.used = true;
        if stale {
            entry.state = State::Delay;
            self.timers.schedule(slot, now + self.config.delay_first_probe);
        }
        Some(entry.mac)
    }

    /// Keeps `packet` until the MAC address of `ip` is known, and says what to send to learn it, if
    /// anything is due. For a neighbour that [`lookup`](Self::lookup) does not know.
    pub(crate) fn queue(
        &mut self,
        now: Instant,
        ip: IpAddr,
        packet: Box<[u8]>,
        meta: TxMeta,
    ) -> Result<Option<Solicit>, QueueError> {
        let existing = self.find(ip);
        if let Some(slot) = existing {
            if self.entries[slot as usize].state != State::Incomplete {
                return Err(QueueError::Resolved);
            }
            self.make_room_behind(slot, packet.len());
        } else if self.incomplete_len >= self.config.max_incomplete {
            self.counters.refused_incomplete += 1;
            return Err(QueueError::Incomplete);
        }
        if self.pending_bytes + packet.len() > self.config.max_pending_bytes {
            self.counters.refused_bytes += 1;
            return Err(QueueError::Bytes);
        }
        let (slot, solicit) = match existing {
            Some(slot) => (slot, None),
            None => (self.start_resolution(now, ip), Some(Solicit { ip, unicast: None })),
        };
        self.pending_bytes += packet.len();
        self.entries[slot as usize].pending.push_back(Pending { packet, meta });
        Ok(solicit)
    }

    /// Takes in that `ip` is at `mac`, and returns the packets that waited for it, oldest first.
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        ip: IpAddr,
        mac: MacAddr,
        source: Source,
    ) -> VecDeque<Pending> {
        if !mac.is_unicast() || !is_unicast(ip) {
            self.counters.ignored += 1;
            return VecDeque::new();
        }
        let Some(slot) = self.find(ip) else {
            if source != Source::Request {
                self.counters.ignored += 1;
            } else if self.known_len >= self.config.max_entries && !self.evict(now, false) {
                self.counters.full += 1;
            } else {
                let slot = self.insert(ip, mac, State::Stale);
                self.links.push_back(&mut self.known, slot);
                self.known_len += 1;
            }
            return VecDeque::new();
        };
        if self.entries[slot as usize].state == State::Incomplete {
            let confirmed = matches!(source, Source::Advertisement { solicited: true, .. });
            return self.resolve(now, slot, mac, confirmed);
        }
        self.update(now, slot, mac, source);
        VecDeque::new()
    }

    /// An upper layer has proof that packets to `ip` arrive (RFC 4861 §7.3.1).
    pub(crate) fn confirm(&mut self, now: Instant, ip: IpAddr) {
        if let Some(slot) = self.find(ip)
            && self.entries[slot as usize].state != State::Incomplete
        {
            self.set_reachable(now, slot);
        }
    }

    /// Works off what is due: solicitations to repeat, stale neighbours to probe, silent ones to
    /// give up.
    pub(crate) fn poll(&mut self, now: Instant, mut event: impl FnMut(NeighborEvent)) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(now, |slot| due.push(slot));
        for slot in due.drain(..) {
            let entry = &mut self.entries[slot as usize];
            let unicast = match entry.state {
                State::Incomplete => None,
                State::Delay => {
                    entry.state = State::Probe;
                    entry.probes = 0;
                    Some(entry.mac)
                }
                State::Probe => Some(entry.mac),
                State::Reachable { .. } | State::Stale => continue,
            };
            let ip = entry.ip;
            if entry.probes < self.config.max_probes {
                entry.probes += 1;
                self.timers.schedule(slot, now + self.config.retransmit);
                event(NeighborEvent::Solicit(Solicit { ip, unicast }));
            } else {
                let dropped = self.remove(slot);
                self.counters.failed += 1;
                event(NeighborEvent::Failed { ip, dropped });
            }
        }
        self.due = due;
    }

    /// When to call [`poll`](Self::poll) next.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Counts since the table was made.
    pub(crate) fn counters(&self) -> NeighborCounters {
        self.counters
    }

    /// No packet waits for a neighbour to answer.
    pub(crate) fn nobody_waits(&self) -> bool {
        self.pending_bytes == 0
    }

    /// True if the MAC address of `ip` is known or asked for.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.find(ip).is_some()
    }

    /// Number of neighbours, unresolved ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn start_resolution(&mut self, now: Instant, ip: IpAddr) -> u32 {
        let slot = self.insert(ip, MacAddr::default(), State::Incomplete);
        self.entries[slot as usize].probes = 1;
        self.incomplete_len += 1;
        self.timers.schedule(slot, now + self.config.retransmit);
        slot
    }

    /// Drops the oldest packets that wait for `slot` until one more of `len` bytes fits.
    fn make_room_behind(&mut self, slot: u32, len: usize) {
        let pending = &mut self.entries[slot as usize].pending;
        let limit = self.config.max_pending_per_neighbor.max(1);
        while pending.len() >= limit || self.pending_bytes + len > self.config.max_pending_bytes {
            let Some(oldest) = pending.pop_front() else {
                break;
            };
            self.pending_bytes -= oldest.packet.len();
            self.counters.displaced += 1;
        }
    }

    fn resolve(
        &mut self,
        now: Instant,
        slot: u32,
        mac: MacAddr,
        confirmed: bool,
    ) -> VecDeque<Pending> {
        if self.known_len >= self.config.max_entries {
            self.evict(now, true);
        }
        self.incomplete_len -= 1;
        self.counters.resolved += 1;
        self.timers.cancel(slot);
        self.links.push_back(&mut self.known, slot);
        self.known_len += 1;
        let entry = &mut self.entries[slot as usize];
        entry.mac = mac;
        entry.used = true;
        entry.state = State::Stale;
        let pending = std::mem::take(&mut entry.pending);
        self.pending_bytes -= pending.iter().map(|p| p.packet.len()).sum::<usize>();
        if confirmed {
            self.set_reachable(now, slot);
        } else {
            // It is in use from this moment: probe it unless an upper layer confirms it.
            self.entries[slot as usize].state = State::Delay;
            self.timers.schedule(slot, now + self.config.delay_first_probe);
        }
        pending
    }

    /// RFC 4861 §7.2.3 and §7.2.5 for an entry whose MAC address is known.
    fn update(&mut self, now: Instant, slot: u32, mac: MacAddr, source: Source) {
        let entry = &mut self.entries[slot as usize];
        let changed = entry.mac != mac;
        // A stranger may call its announcement an answer: it is one only while we are asking.
        let asked = entry.state == State::Probe;
        let (confirms, overrides) = match source {
            Source::Request => (false, true),
            Source::Advertisement { solicited, overrides } => (solicited && asked, overrides),
        };
        if changed && !overrides {
            if matches!(entry.state, State::Reachable { .. }) {
                entry.state = State::Stale;
            }
        } else if confirms {
            entry.mac = mac;
            self.set_reachable(now, slot);
        } else if changed {
            entry.mac = mac;
            entry.state = State::Stale;
            self.timers.cancel(slot);
        }
    }

    fn set_reachable(&mut self, now: Instant, slot: u32) {
        let until = now + self.config.reachable_time;
        self.entries[slot as usize].state = State::Reachable { until };
        self.timers.cancel(slot);
        self.links.remove(&mut self.known, slot);
        self.links.push_back(&mut self.known, slot);
    }

    /// Removes the oldest neighbour that is stale and was not used for a while; if there is none
    /// within reach and `force` is set, the oldest of all. `false`: none was removed.
    fn evict(&mut self, now: Instant, force: bool) -> bool {
        /// Bounds what one frame of a flood costs.
        const REACH: usize = 32;
        for _ in 0..REACH {
            let Some(slot) = self.known.front() else {
                return false;
            };
            let entry = &mut self.entries[slot as usize];
            let in_use = std::mem::take(&mut entry.used)
                || match entry.state {
                    State::Reachable { until } => now < until,
                    State::Delay | State::Probe => true,
                    State::Incomplete | State::Stale => false,
                };
            if !in_use {
                self.remove(slot);
                self.counters.evicted += 1;
                return true;
            }
            self.links.remove(&mut self.known, slot);
            self.links.push_back(&mut self.known, slot);
        }
        let victim = self.known.front().filter(|_| force);
        if let Some(slot) = victim {
            self.remove(slot);
            self.counters.evicted += 1;
        }
        victim.is_some()
    }

    fn find(&self, ip: IpAddr) -> Option<u32> {
        let hash = hash(&self.hasher, ip);
        self.index.find(hash, |slot| self.entries[*slot as usize].ip == ip).copied()
    }

    fn insert(&mut self, ip: IpAddr, mac: MacAddr, state: State) -> u32 {
        let pending = VecDeque::new();
        let entry = Entry { ip, mac, state, used: false, probes: 0, pending };
        let slot = self.entries.insert(entry) as u32;
        let (hasher, entries) = (&self.hasher, &self.entries);
        self.index
            .insert_unique(hash(hasher, ip), slot, |slot| hash(hasher, entries[*slot as usize].ip));
        slot
    }

    fn remove(&mut self, slot: u32) -> VecDeque<Pending> {
        self.timers.cancel(slot);
        let entry = self.entries.remove(slot as usize);
        if let Ok(found) = self.index.find_entry(hash(&self.hasher, entry.ip), |s| *s == slot) {
            found.remove();
        }
        if entry.state == State::Incomplete {
            self.incomplete_len -= 1;
        } else {
            self.links.remove(&mut self.known, slot);
            self.known_len -= 1;
        }
        self.pending_bytes -= entry.pending.iter().map(|p| p.packet.len()).sum::<usize>();
        entry.pending
    }
}

fn hash(hasher: &SipHasher13, ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(a) => hasher.hash(&a.octets()),
        IpAddr::V6(a) => hasher.hash(&a.octets()),
    }
}

fn is_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(a) if a.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback())
}

#[cfg(test)]
#[path = "neighbor_tests.rs"]
mod tests;
