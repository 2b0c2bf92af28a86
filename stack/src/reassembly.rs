//! Reassembly of IP fragments (RFC 791 §3.2, RFC 8200 §4.5), before the look-up of a flow.
//!
//! Fragments that overlap never become a datagram (RFC 5722, taken for IPv4 as well): the datagram
//! is discarded, with whatever of it arrives later.

use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use slab::Slab;
use underpass_devices::Instant;

use crate::checksum;
use crate::fragment::next_header_field;
use crate::list::{Links, List};
use crate::packet::{Fragment, Packet};
use crate::stats::DropReason;

/// Limits and times of a [`Reassembler`].
#[derive(Clone, Debug)]
pub(crate) struct ReassemblyConfig {
    /// Datagrams that wait for fragments; the oldest makes room for a new one. At least one.
    pub(crate) max_datagrams: usize,
    /// Bytes of fragments that wait, with what it costs to keep them.
    pub(crate) max_bytes: usize,
    /// Fragments of one datagram.
    pub(crate) max_fragments: usize,
    /// From the first fragment that arrives to the end of the wait, over IPv4.
    pub(crate) timeout_v4: Duration,
    /// The same over IPv6.
    pub(crate) timeout_v6: Duration,
}

impl Default for ReassemblyConfig {
    /// 30 s for IPv4 as Linux has it, 60 s for IPv6 by RFC 8200; memory as Linux has it.
    fn default() -> Self {
        Self {
            max_datagrams: 1024,
            max_bytes: 4 << 20,
            max_fragments: 128,
            timeout_v4: Duration::from_secs(30),
            timeout_v6: Duration::from_secs(60),
        }
    }
}

/// What has happened to a reassembler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReassemblyCounters {
    /// Datagrams that became whole.
    pub(crate) reassembled: u64,
    /// Fragments that repeated an earlier one byte by byte.
    pub(crate) duplicates: u64,
}

/// See the [module](self).
pub(crate) struct Reassembler {
    config: ReassemblyConfig,
    hasher: SipHasher13,
    index: HashTable<u32>,
    datagrams: Slab<Datagram>,
    links: Links,
    /// IPv4 and IPv6, oldest first.
    ages: [List; 2],
    bytes: usize,
    counters: ReassemblyCounters,
    /// Datagrams that made room for others, not reported yet.
    evicted: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// Of IPv4 alone; IPv6 takes it from the first fragment.
    protocol: u8,
}

struct Datagram {
    key: Key,
    deadline: Instant,
    /// Headers in front of the first fragment's data, without the Fragment header; empty until it
    /// comes.
    header: Vec<u8>,
    /// IPv6: what follows these headers.
    next_header: u8,
    /// In order of offset.
    pieces: Vec<Piece>,
    /// Bytes in `pieces`.
    received: usize,
    /// Length of the data, once the last fragment is there.
    total: Option<usize>,
    /// The ECN code points seen, one bit each.
    ecn: u8,
    /// Given up; it stays until its time is over to swallow what is still under way.
    discarded: bool,
}

struct Piece {
    offset: usize,
    data: Box<[u8]>,
}

impl Piece {
    /// What it costs to keep a piece, besides its data.
    const OVERHEAD: usize = 64;

    fn end(&self) -> usize {
        self.offset + self.data.len()
    }
}

impl Reassembler {
    /// Keeps nothing yet; `secret` keys the hash and comes from the operating system.
    pub(crate) fn new(config: ReassemblyConfig, secret: [u8; 16]) -> Self {
        Self {
            config,
            hasher: SipHasher13::new_with_key(&secret),
            index: HashTable::new(),
            datagrams: Slab::new(),
            links: Links::default(),
            ages: [List::EMPTY; 2],
            bytes: 0,
            counters: ReassemblyCounters::default(),
            evicted: 0,
        }
    }

    /// Takes the fragment that `packet` is. If it was the last one missing, the result is the whole
    /// packet, with the headers of one that never was cut.
    ///
    /// # Errors
    /// The fragment is dropped. If it overlaps or contradicts an earlier one
    /// ([`DropReason::FragmentOverlap`]), is one too many ([`DropReason::FragmentMemory`]), or
    /// completes a datagram with contradictory ECN marks ([`DropReason::FragmentMalformed`]), the
    /// datagram is dropped with it.
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let fragment = packet.fragment.ok_or(DropReason::FragmentMalformed)?;
        let data = packet.payload();
        if data.is_empty() || (fragment.more && !data.len().is_multiple_of(8)) {
            return Err(DropReason::FragmentMalformed);
        }
        // The length field of IPv4 counts all headers, that of IPv6 those behind the first.
        let fixed = if packet.src.is_ipv4() { 0 } else { 40 };
        let counted = fragment.unfragmentable_len.saturating_sub(fixed);
        if counted + fragment.offset + data.len() > usize::from(u16::MAX) {
            return Err(DropReason::FragmentMalformed);
        }
        let cost = data.len() + packet.payload_at + Piece::OVERHEAD;
        if cost > self.config.max_bytes {
            return Err(DropReason::FragmentMemory);
        }
        while self.bytes + cost > self.config.max_bytes && self.evict_oldest() {}
        let slot = self.find_or_insert(now, packet, fragment);
        let datagram = &mut self.datagrams[slot as usize];
        let before = datagram.cost();
        let outcome = datagram.add(packet, fragment, data, self.config.max_fragments);
        self.bytes = self.bytes - before + datagram.cost();
        match outcome {
            Ok(Added::Incomplete) => Ok(None),
            Ok(Added::Duplicate) => {
                self.counters.duplicates += 1;
                Ok(None)
            }
            Ok(Added::Complete) => {
                let whole = self.remove(slot).assemble()?;
                self.counters.reassembled += 1;
                Ok(Some(whole))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives up the datagrams whose time is over. `dropped` gets a reason for each of them, and for
    /// each that made room for another since the last call.
    pub(crate) fn poll(&mut self, now: Instant, mut dropped: impl FnMut(DropReason)) {
        for _ in 0..std::mem::take(&mut self.evicted) {
            dropped(DropReason::FragmentMemory);
        }
        for family in 0..self.ages.len() {
            while let Some(slot) = self.ages[family].front() {
                if self.datagrams[slot as usize].deadline > now {
                    break;
                }
                if !self.remove(slot).discarded {
                    dropped(DropReason::FragmentTimeout);
                }
            }
        }
    }

    /// When to call [`poll`](Self::poll) next.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.ages
            .iter()
            .filter_map(|list| list.front())
            .map(|slot| self.datagrams[slot as usize].deadline)
            .min()
    }

    /// Counts since the reassembler was made.
    pub(crate) fn counters(&self) -> ReassemblyCounters {
        self.counters
    }

    /// Datagrams that wait, discarded ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.datagrams.len()
    }

    fn find_or_insert(&mut self, now: Instant, packet: &Packet<'_>, fragment: Fragment) -> u32 {
        let (protocol, timeout) = match packet.src {
            IpAddr::V4(_) => (packet.protocol, self.config.timeout_v4),
            IpAddr::V6(_) => (0, self.config.timeout_v6),
        };
        let key = Key { src: packet.src, dst: packet.dst, id: fragment.id, protocol };
        let hash = key.hash(&self.hasher);
        let same = |slot: &u32| self.datagrams[*slot as usize].key == key;
        if let Some(slot) = self.index.find(hash, same) {
            return *slot;
        }
        while self.datagrams.len() >= self.config.max_datagrams.max(1) && self.evict_oldest() {}
        let slot = self.datagrams.insert(Datagram::new(key, now + timeout)) as u32;
        let (hasher, datagrams) = (&self.hasher, &self.datagrams);
        self.index.insert_unique(hash, slot, |slot| datagrams[*slot as usize].key.hash(hasher));
        self.links.push_back(&mut self.ages[key.family()], slot);
        slot
    }

    fn evict_oldest(&mut self) -> bool {
        let oldest = self
            .ages
            .iter()
            .filter_map(|list| list.front())
            .min_by_key(|slot| self.datagrams[*slot as usize].deadline);
        if let Some(slot) = oldest {
            let datagram = self.remove(slot);
            self.evicted += usize::from(!datagram.discarded);
        }
        oldest.is_some()
    }

    fn remove(&mut self, slot: u32) -> Datagram {
        let datagram = self.datagrams.remove(slot as usize);
        if let Ok(found) = self.index.find_entry(datagram.key.hash(&self.hasher), |s| *s == slot) {
            found.remove();
        }
        self.links.remove(&mut self.ages[datagram.key.family()], slot);
        self.bytes -= datagram.cost();
        datagram
    }
}

impl Key {
    fn family(self) -> usize {
        usize::from(self.src.is_ipv6())
    }

    fn hash(self, hasher: &SipHasher13) -> u64 {
        let mut bytes = [0; 37];
        let (addresses, rest) = bytes.split_at_mut(32);
        match (self.src, self.dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                addresses[..16].copy_from_slice(&src.octets());
                addresses[16..].copy_from_slice(&dst.octets());
            }
            (src, dst) => {
                for (at, ip) in [(0, src), (4, dst)] {
                    if let IpAddr::V4(ip) = ip {
                        addresses[at..at + 4].copy_from_slice(&ip.octets());
                    }
                }
            }
        }
        rest[..4].copy_from_slice(&self.id.to_be_bytes());
        rest[4] = self.protocol;
        hasher.hash(&bytes)
    }
}

enum Added {
    Incomplete,
    Duplicate,
    Complete,
}

impl Datagram {
    fn new(key: Key, deadline: Instant) -> Self {
        Self {
            key,
            deadline,
            header: Vec::new(),
            next_header: 0,
            pieces: Vec::new(),
            received: 0,
            total: None,
            ecn: 0,
            discarded: false,
        }
    }

    fn cost(&self) -> usize {
        self.header.len() + self.received + self.pieces.len() * Piece::OVERHEAD
    }

    fn add(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        data: &[u8],
        max_fragments: usize,
    ) -> Result<Added, DropReason> {
        if self.discarded {
            return Err(DropReason::FragmentOverlap);
        }
        let (offset, end) = (fragment.offset, fragment.offset + data.len());
        let index = self.pieces.partition_point(|piece| piece.offset < offset);
        let (before, after) = self.pieces.split_at(index);
        let is_last = !fragment.more;
        if let Some(same) = after.first().filter(|p| p.offset == offset && *p.data == *data)
            && (self.total == Some(same.end())) == is_last
        {
            return Ok(Added::Duplicate);
        }
        let overlaps = before.last().is_some_and(|piece| piece.end() > offset)
            || after.first().is_some_and(|piece| piece.offset < end);
        let contradicts = match self.total {
            Some(total) => is_last || end >= total,
            None => is_last && !after.is_empty(),
        };
        if overlaps || contradicts {
            self.discard();
            return Err(DropReason::FragmentOverlap);
        }
        if self.pieces.len() >= max_fragments {
            self.discard();
            return Err(DropReason::FragmentMemory);
        }
        if offset == 0 {
            self.header = packet.bytes[..fragment.unfragmentable_len].to_vec();
            self.next_header = packet.protocol;
        }
        if is_last {
            self.total = Some(end);
        }
        self.ecn |= 1 << ecn(packet);
        self.received += data.len();
        self.pieces.insert(index, Piece { offset, data: data.into() });
        // Nothing overlaps, so the bytes are all there if there are enough of them.
        Ok(if self.total == Some(self.received) { Added::Complete } else { Added::Incomplete })
    }

    fn discard(&mut self) {
        *self = Self { discarded: true, ..Self::new(self.key, self.deadline) };
    }

    /// Writes the packet that never was cut.
    fn assemble(self) -> Result<Vec<u8>, DropReason> {
        const NOT_ECT: u8 = 1 << 0b00;
        const CE: u8 = 1 << 0b11;
        if self.ecn & CE != 0 && self.ecn & NOT_ECT != 0 {
            return Err(DropReason::FragmentMalformed);
        }
        let congested = self.ecn & CE != 0;
        let header_len = self.header.len();
        let mut output = self.header;
        output.reserve_exact(self.received);
        for piece in &self.pieces {
            output.extend_from_slice(&piece.data);
        }
        let len = output.len();
        if self.key.src.is_ipv4() {
            if congested {
                output[1] |= 0b11;
            }
            output[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            // More fragments and offset; DF stays.
            output[6] &= 0x40;
            output[7] = 0;
            output[10..12].fill(0);
            let sum = !checksum::sum(&output[..header_len]);
            output[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            if congested {
                output[1] |= 0b11 << 4;
            }
            output[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            let field = next_header_field(&output, header_len);
            output[field] = self.next_header;
        }
        Ok(output)
    }
}

/// The ECN code point (RFC 3168 §5).
fn ecn(packet: &Packet<'_>) -> u8 {
    let byte = packet.bytes.get(1).copied().unwrap_or(0);
    match packet.src {
        IpAddr::V4(_) => byte & 0b11,
        IpAddr::V6(_) => byte >> 4 & 0b11,
    }
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;
