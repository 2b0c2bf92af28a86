//! The link layer: Ethernet headers, next hops, and packets that wait for a neighbour.

use std::net::IpAddr;

use underpass_devices::{
    Caps, Instant, MacAddr, Medium, PartialChecksum, SegmentKind, Segmentation, SendError, TxMeta,
    TxQueue,
};

use crate::arp::{self, ArpEvent};
use crate::checksum;
use crate::fragment::{self, FragmentIds};
use crate::ndp::{self, NdpEvent};
use crate::neighbor::{NeighborConfig, NeighborEvent, NeighborTable, Pending, Solicit};
use crate::output::{Outgoing, Output};
use crate::packet::Packet;
use crate::random::Random;
use crate::routes::Routes;
use crate::stats::{DropReason, Stats};

const ETHERNET_HEADER_LEN: usize = 14;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// One shard's view of its link.
pub(crate) struct Link {
    pub(crate) caps: Caps,
    pub(crate) routes: Routes,
    pub(crate) stats: Stats,
    neighbors: NeighborTable,
    fragment_ids: FragmentIds,
}

/// Where a packet goes next.
#[derive(Clone, Copy)]
enum Hop {
    Known(MacAddr),
    /// The MAC address of this neighbour is not known yet.
    Asked(IpAddr),
    None,
}

/// The link together with the transmit queue, for the length of one turn.
pub(crate) struct Out<'a, T> {
    pub(crate) now: Instant,
    pub(crate) link: &'a mut Link,
    pub(crate) tx: &'a mut T,
}

impl Link {
    pub(crate) fn new(caps: Caps, routes: Routes, neighbors: usize, random: &mut Random) -> Self {
        let config = NeighborConfig { max_entries: neighbors, ..NeighborConfig::default() };
        Self {
            neighbors: NeighborTable::new(config, random.bytes(), Instant::ZERO),
            caps,
            routes,
            stats: Stats::default(),
            fragment_ids: FragmentIds::new(random.bytes()),
        }
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.stats.drops.count(reason);
    }

    /// Puts the neighbour table's numbers into `stats`.
    pub(crate) fn report(&self, stats: &mut Stats) {
        let counters = self.neighbors.counters();
        stats.neighbors = self.neighbors.len();
        stats.drops[DropReason::NeighborQueueFull] =
            counters.displaced + counters.refused_incomplete + counters.refused_bytes;
        stats.drops[DropReason::UnsolicitedNeighbor] = counters.ignored;
        stats.drops[DropReason::NeighborTableFull] = counters.full;
    }

    /// When [`Out::poll_neighbors`] has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.neighbors.next_timer()
    }
}

impl<T: TxQueue> Out<'_, T> {
    /// What follows an Ethernet header of type ARP.
    pub(crate) fn on_arp(&mut self, payload: &[u8]) {
        let routes = &self.link.routes;
        match arp::receive(payload, self.link.caps.mac, |ip| routes.is_own(ip.into())) {
            ArpEvent::Learn(ip, mac, source) => self.learn(ip, mac, source),
            ArpEvent::Answer { reply, learn } => {
                self.ethernet(reply.dst, ETHERTYPE_ARP, &reply.payload);
                if let Some((ip, mac, source)) = learn {
                    self.learn(ip, mac, source);
                }
            }
            ArpEvent::Conflict(..) => self.link.stats.address_conflicts += 1,
            ArpEvent::Own => self.link.drop(DropReason::BadSource),
            ArpEvent::Malformed => self.link.drop(DropReason::MalformedArp),
        }
    }

    /// A neighbour discovery message: a whole IPv6 packet without extension headers.
    pub(crate) fn on_ndp(&mut self, packet: &[u8], link_src: MacAddr) {
        let routes = &self.link.routes;
        match ndp::receive(packet, link_src, self.link.caps.mac, |ip| routes.is_own(ip.into())) {
            NdpEvent::Learn(ip, mac, source) => self.learn(ip, mac, source),
            NdpEvent::Confirm(ip) => self.link.neighbors.confirm(self.now, ip),
            NdpEvent::Answer { reply, learn } => {
                self.ethernet(reply.dst, ETHERTYPE_IPV6, &reply.packet);
                if let Some((ip, mac, source)) = learn {
                    self.learn(ip, mac, source);
                }
            }
            NdpEvent::Conflict(_) => self.link.stats.address_conflicts += 1,
            NdpEvent::Ignored => self.link.drop(DropReason::IcmpIgnored),
            NdpEvent::Malformed => self.link.drop(DropReason::MalformedNdp),
        }
    }

    /// Works off what the neighbour table has due. `lost` gets every packet whose next hop does not
    /// answer.
    pub(crate) fn poll_neighbors(&mut self, mut lost: impl FnMut(&Packet<'_>)) {
        let mut solicits = Vec::new();
        let Link { neighbors, stats, .. } = &mut *self.link;
        neighbors.poll(self.now, |event| match event {
            NeighborEvent::Solicit(solicit) => solicits.push(solicit),
            NeighborEvent::Failed { dropped, .. } => {
                for pending in dropped {
                    stats.drops.count(DropReason::NeighborUnreachable);
                    if let Ok(packet) = Packet::parse(&pending.packet) {
                        lost(&packet);
                    }
                }
            }
        });
        for solicit in solicits {
            self.solicit(solicit);
        }
    }

    /// Takes in a neighbour's address, and sends what waited for it.
    fn learn(&mut self, ip: IpAddr, mac: MacAddr, source: crate::neighbor::Source) {
        for Pending { packet, meta } in self.link.neighbors.learn(self.now, ip, mac, source) {
            let ether_type = ether_type_of(ip);
            self.frame(mac, ether_type, packet.len(), meta, |slot| {
                slot.copy_from_slice(&packet);
            });
        }
    }

    fn solicit(&mut self, solicit: Solicit) {
        let mac = self.link.caps.mac;
        let Some(source) = self.link.routes.source_for(solicit.ip) else {
            return;
        };
        match (source, solicit.ip) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let request = arp::request(mac, source, target, solicit.unicast);
                self.ethernet(request.dst, ETHERTYPE_ARP, &request.payload);
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let message = ndp::solicit(mac, source, target, solicit.unicast);
                self.ethernet(message.dst, ETHERTYPE_IPV6, &message.packet);
            }
            _ => {}
        }
    }

    fn resolve(&mut self, dst: IpAddr) -> Hop {
        if self.link.caps.medium == Medium::Ip {
            return Hop::Known(MacAddr::default());
        }
        match dst {
            _ if self.link.routes.is_broadcast(dst) => return Hop::Known(MacAddr::BROADCAST),
            IpAddr::V4(v4) if v4.is_multicast() => {
                let [_, b, c, d] = v4.octets();
                return Hop::Known(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]));
            }
            IpAddr::V6(v6) if v6.is_multicast() => return Hop::Known(ndp::multicast_mac(v6)),
            _ => {}
        }
        match self.link.routes.next_hop(dst) {
            None => Hop::None,
            Some(hop) => {
                self.link.neighbors.lookup(self.now, hop).map_or(Hop::Asked(hop), Hop::Known)
            }
        }
    }

    /// What the device is to do with a packet.
    fn meta(&self, packet: &Outgoing) -> TxMeta {
        let link_len = self.link.caps.header_len() as u16;
        TxMeta {
            checksum: packet
                .checksum
                .filter(|_| self.link.caps.tx_checksum)
                .map(|checksum| PartialChecksum { start: checksum.start + link_len, ..checksum }),
            segmentation: packet.segment.map(|segment| Segmentation {
                kind: if packet.dst.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
                size: segment.size,
                header_len: segment.header_len + link_len,
            }),
        }
    }

    /// Keeps a packet until its next hop has answered.
    fn wait_for_neighbor(&mut self, hop: IpAddr, packet: Box<[u8]>, meta: TxMeta) {
        // The table counts what it refuses.
        if let Ok(Some(solicit)) = self.link.neighbors.queue(self.now, hop, packet, meta) {
            self.solicit(solicit);
        }
    }

    /// A packet above the MTU that the device does not cut: IP fragments.
    fn fragmented<R>(
        &mut self,
        hop: Hop,
        packet: &Outgoing,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let mut whole = vec![0; packet.len];
        let result = write(&mut whole);
        if let Some(checksum) = packet.checksum {
            checksum::complete(&mut whole, checksum);
        }
        let Ok(parsed) = Packet::parse(&whole) else {
            return result;
        };
        let id = self.link.fragment_ids.next(parsed.src, parsed.dst);
        let Ok(mut fragments) = fragment::fragment(&parsed, self.link.caps.mtu, id) else {
            self.link.drop(DropReason::TxUnsupported);
            return result;
        };
        while let Some(piece) = fragments.next() {
            let write = |slot: &mut [u8]| piece.write(slot);
            match hop {
                Hop::Known(mac) => {
                    let ether_type = ether_type_of(packet.dst);
                    self.frame(mac, ether_type, piece.len(), TxMeta::default(), write);
                }
                Hop::Asked(hop) => {
                    let mut bytes = vec![0; piece.len()].into_boxed_slice();
                    write(&mut bytes);
                    self.wait_for_neighbor(hop, bytes, TxMeta::default());
                }
                Hop::None => self.link.drop(DropReason::NoRoute),
            }
        }
        result
    }

    /// Sends a small complete frame; a full queue loses it, counted.
    fn ethernet(&mut self, dst: MacAddr, ether_type: u16, payload: &[u8]) {
        self.frame(dst, ether_type, payload.len(), TxMeta::default(), |slot| {
            slot.copy_from_slice(payload);
        });
    }

    /// Sends `len` bytes behind a link header. `None`: the device did not take it, which is counted.
    fn frame<R>(
        &mut self,
        dst: MacAddr,
        ether_type: u16,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        let src = self.link.caps.mac;
        let header_len = self.link.caps.header_len();
        let sent = self.tx.send(header_len + len, meta, |slot| {
            if header_len == ETHERNET_HEADER_LEN {
                slot[0..6].copy_from_slice(&dst.0);
                slot[6..12].copy_from_slice(&src.0);
                slot[12..14].copy_from_slice(&ether_type.to_be_bytes());
            }
            write(&mut slot[header_len..])
        });
        match sent {
            Ok(result) => {
                self.link.stats.tx_frames += 1;
                Some(result)
            }
            Err(error) => {
                self.link.drop(match error {
                    SendError::Full => DropReason::TxFull,
                    SendError::Unsupported => DropReason::TxUnsupported,
                });
                None
            }
        }
    }
}

impl<T: TxQueue> Output for Out<'_, T> {
    fn has_room(&self) -> bool {
        self.tx.room() > 0
    }

    fn packet<R>(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let hop = self.resolve(packet.dst);
        if packet.len > self.link.caps.mtu && packet.segment.is_none() {
            return Some(self.fragmented(hop, &packet, write));
        }
        let meta = self.meta(&packet);
        let in_software = packet.checksum.filter(|_| meta.checksum.is_none());
        let write_all = |bytes: &mut [u8]| {
            let result = write(bytes);
            if let Some(checksum) = in_software {
                checksum::complete(bytes, checksum);
            }
            result
        };
        match hop {
            Hop::Known(mac) => {
                let ether_type = ether_type_of(packet.dst);
                self.frame(mac, ether_type, packet.len, meta, write_all)
            }
            Hop::Asked(hop) => {
                let mut bytes = vec![0; packet.len].into_boxed_slice();
                let result = write_all(&mut bytes);
                self.wait_for_neighbor(hop, bytes, meta);
                Some(result)
            }
            Hop::None => {
                self.link.drop(DropReason::NoRoute);
                None
            }
        }
    }
}

fn ether_type_of(address: IpAddr) -> u16 {
    if address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
}
