//! The link layer: Ethernet headers, next hops, and packets that wait for a neighbour.

mod cutting;
mod pieces;

use std::net::IpAddr;

use underpass_devices::{
    Caps, Counters, Instant, MacAddr, Medium, PartialChecksum, SegmentKind, Segmentation,
    SendError, TxMeta, TxQueue,
};

use self::cutting::Cutting;
use crate::arp::{self, ArpEvent};
use crate::checksum;
use crate::dhcp;
use crate::groups::Groups;
use crate::ndp::{self, NdpEvent};
use crate::neighbor::{NeighborConfig, NeighborEvent, NeighborTable, Pending, Solicit, Source};
use crate::network::{MIN_MTU, Network};
use crate::output::{Outgoing, Output, Segment};
use crate::packet::Packet;
use crate::path_mtu;
use crate::random::Random;
use crate::routes::Way;
use crate::slaac;
use crate::stats::{DropReason, Stats};

const ETHERNET_HEADER_LEN: usize = 14;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// One interface.
pub(crate) struct Link {
    pub(crate) caps: Caps,
    pub(crate) neighbors: NeighborTable,
    /// Largest IP packet, and what the network says of it beyond the device.
    pub(crate) mtu: LinkMtu,
    pub(crate) dhcp: Option<dhcp::Client>,
    pub(crate) slaac: Option<slaac::Host>,
    pub(crate) groups: Groups,
    /// What the device has counted, as of the last look.
    pub(crate) counters: Counters,
    pub(crate) cutting: Cutting,
}

/// The MTU of an interface: the smallest that anybody names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkMtu {
    device: usize,
    /// RFC 2132 §5.1.
    pub(crate) dhcp: Option<usize>,
    /// RFC 4861 §4.6.4.
    pub(crate) router: Option<usize>,
}

impl LinkMtu {
    pub(crate) fn get(&self) -> usize {
        // Less than what every IPv6 link carries is a mistake or an attack.
        let named = [self.dhcp, self.router].into_iter().flatten().filter(|mtu| *mtu >= MIN_MTU);
        named.fold(self.device, usize::min)
    }
}

/// Where a packet goes next.
#[derive(Clone, Copy)]
enum Hop {
    Known(MacAddr),
    /// The MAC address of this neighbour is not known yet.
    Asked(IpAddr),
}

/// The network together with the transmit queue of each interface, for the length of one turn.
pub(crate) struct Out<'a, T> {
    pub(crate) now: Instant,
    pub(crate) net: &'a mut Network,
    pub(crate) tx: &'a mut [T],
}

impl Link {
    pub(crate) fn new(caps: Caps, neighbors: usize, random: &mut Random) -> Self {
        let config = NeighborConfig { max_entries: neighbors, ..NeighborConfig::default() };
        Self {
            neighbors: NeighborTable::new(config, random.bytes(), Instant::ZERO),
            mtu: LinkMtu { device: caps.mtu, dhcp: None, router: None },
            dhcp: None,
            slaac: None,
            groups: Groups::new(random.fork()),
            caps,
            counters: Counters::default(),
            cutting: Cutting::default(),
        }
    }

    /// Adds the numbers of the neighbour table and the device to `stats`.
    pub(crate) fn report(&self, stats: &mut Stats) {
        let counters = self.neighbors.counters();
        stats.neighbors += self.neighbors.len();
        stats.drops[DropReason::NeighborQueueFull] +=
            counters.displaced + counters.refused_incomplete + counters.refused_bytes;
        stats.drops[DropReason::UnsolicitedNeighbor] += counters.ignored;
        stats.drops[DropReason::NeighborTableFull] += counters.full;
        stats.device += self.counters;
    }

    /// Something is to be sent without waiting for anybody.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.cutting.is_busy()
            || self.dhcp.as_ref().is_some_and(dhcp::Client::has_queued)
            || self.groups.next_timer().is_some_and(|at| at <= now)
    }

    /// The device takes a packet in one frame, and so does the path to its destination, which lets
    /// `path_mtu` bytes through.
    fn takes(&self, packet: &Outgoing, path_mtu: usize) -> bool {
        let longest = match packet.segment {
            None => Some(self.mtu.get().min(path_mtu)),
            Some(cut) if !self.fits(cut) => None,
            Some(_) if packet.dst.is_ipv4() => self.caps.tx_segment_tcp4,
            Some(_) => self.caps.tx_segment_tcp6,
        };
        longest.is_some_and(|longest| packet.len <= longest)
    }

    /// The segments of a superframe are within the MTU. They were made for the interface that their
    /// connection began on; the route may have changed since.
    fn fits(&self, cut: Segment) -> bool {
        usize::from(cut.size.get()) + usize::from(cut.header_len) <= self.mtu.get()
    }

    /// When the neighbour table or what configures the interface has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let dhcp = self.dhcp.as_ref().and_then(dhcp::Client::next_timer);
        let slaac = self.slaac.as_ref().and_then(slaac::Host::next_timer);
        [self.neighbors.next_timer(), dhcp, slaac, self.groups.next_timer()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl<T: TxQueue> Out<'_, T> {
    /// What follows an Ethernet header of type ARP. Where `answers` is false, another shard has had
    /// it too, and answers and counts.
    pub(crate) fn on_arp(&mut self, interface: usize, payload: &[u8], answers: bool) {
        let routes = &self.net.routes;
        let link = &mut self.net.links[interface];
        let mac = link.caps.mac;
        if let Some(client) = &mut link.dhcp
            && let Some(address) = dhcp::claims(client, payload, mac)
        {
            client.on_conflict(self.now, address);
        }
        match arp::receive(payload, mac, |ip| routes.is_own(ip.into())) {
            ArpEvent::Learn(ip, mac, source) => self.learn(interface, ip, mac, source),
            ArpEvent::Answer { reply, learn } => {
                if answers {
                    self.ethernet(interface, reply.dst, ETHERTYPE_ARP, &reply.payload);
                }
                if let Some((ip, mac, source)) = learn {
                    self.learn(interface, ip, mac, source);
                }
            }
            ArpEvent::Conflict(address, _) => {
                self.net.stats.address_conflicts += u64::from(answers);
                if let Some(client) = &mut self.net.links[interface].dhcp {
                    client.on_conflict(self.now, address);
                }
            }
            _ if !answers => {}
            ArpEvent::Own => self.net.drop(DropReason::BadSource),
            ArpEvent::Malformed => self.net.drop(DropReason::MalformedArp),
        }
    }

    /// A neighbour discovery message: a whole IPv6 packet without extension headers. `answers` as for
    /// ARP.
    pub(crate) fn on_ndp(
        &mut self,
        interface: usize,
        packet: &[u8],
        link_src: MacAddr,
        answers: bool,
    ) {
        if self.on_slaac(interface, packet, link_src) {
            return;
        }
        let routes = &self.net.routes;
        let link = &mut self.net.links[interface];
        match ndp::receive(packet, link_src, link.caps.mac, |ip| routes.is_own(ip.into())) {
            NdpEvent::Learn(ip, mac, source) => self.learn(interface, ip, mac, source),
            NdpEvent::Confirm(ip) => link.neighbors.confirm(self.now, ip),
            NdpEvent::Answer { reply, learn } => {
                if answers {
                    self.ethernet(interface, reply.dst, ETHERTYPE_IPV6, &reply.packet);
                }
                if let Some((ip, mac, source)) = learn {
                    self.learn(interface, ip, mac, source);
                }
            }
            _ if !answers => {}
            NdpEvent::Conflict(_) => self.net.stats.address_conflicts += 1,
            NdpEvent::Ignored => self.net.drop(DropReason::IcmpIgnored),
            NdpEvent::Malformed => self.net.drop(DropReason::MalformedNdp),
        }
    }

    /// Works off what the neighbour tables have due. `lost` gets every packet whose next hop does
    /// not answer.
    pub(crate) fn poll_neighbors(&mut self, mut lost: impl FnMut(&Packet<'_>)) {
        let mut solicits = Vec::new();
        let Network { links, stats, .. } = &mut *self.net;
        for (interface, link) in links.iter_mut().enumerate() {
            link.neighbors.poll(self.now, |event| match event {
                NeighborEvent::Solicit(solicit) => solicits.push((interface, solicit)),
                NeighborEvent::Failed { dropped, .. } => {
                    for pending in dropped {
                        stats.drops.count(DropReason::NeighborUnreachable);
                        if let Ok(packet) = Packet::parse(&pending.packet) {
                            lost(&packet);
                        }
                    }
                }
            });
        }
        for (interface, solicit) in solicits {
            self.solicit(interface, solicit);
        }
    }

    /// Takes in a neighbour's address, and sends what waited for it.
    pub(crate) fn learn(&mut self, interface: usize, ip: IpAddr, mac: MacAddr, source: Source) {
        let neighbors = &mut self.net.links[interface].neighbors;
        for Pending { packet, meta } in neighbors.learn(self.now, ip, mac, source) {
            let ether_type = ether_type_of(ip);
            self.frame(interface, mac, ether_type, packet.len(), meta, |slot| {
                slot.copy_from_slice(&packet);
            });
        }
    }

    fn solicit(&mut self, interface: usize, solicit: Solicit) {
        let mac = self.net.links[interface].caps.mac;
        let Some(source) = self.net.routes.source_on(interface, solicit.ip, solicit.ip) else {
            return;
        };
        match (source, solicit.ip) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let request = arp::request(mac, source, target, solicit.unicast);
                self.ethernet(interface, request.dst, ETHERTYPE_ARP, &request.payload);
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let message = ndp::solicit(mac, source, target, solicit.unicast);
                self.ethernet(interface, message.dst, ETHERTYPE_IPV6, &message.packet);
            }
            _ => {}
        }
    }

    /// Where a packet to `dst` leaves, and to which station.
    fn resolve(&mut self, dst: IpAddr) -> Option<(usize, Hop)> {
        if let Some(mac) = group_mac(dst) {
            return Some((self.net.group_interface(dst)?, Hop::Known(mac)));
        }
        let Way { interface, hop } = self.net.way(dst)?;
        let broadcast = hop == dst && self.net.routes.is_broadcast(dst);
        let link = &mut self.net.links[interface];
        let hop = match link.caps.medium {
            Medium::Ip => Hop::Known(MacAddr::default()),
            Medium::Ethernet if broadcast => Hop::Known(MacAddr::BROADCAST),
            Medium::Ethernet => {
                link.neighbors.lookup(self.now, hop).map_or(Hop::Asked(hop), Hop::Known)
            }
        };
        Some((interface, hop))
    }

    /// What the device is to do with a packet.
    fn meta(&self, interface: usize, packet: &Outgoing) -> TxMeta {
        let caps = &self.net.links[interface].caps;
        let link_len = caps.header_len() as u16;
        TxMeta {
            checksum: packet
                .checksum
                .filter(|_| caps.tx_checksum)
                .map(|checksum| PartialChecksum { start: checksum.start + link_len, ..checksum }),
            segmentation: packet.segment.map(|cut| segmentation(packet.dst, cut, link_len)),
        }
    }

    /// Keeps a packet until its next hop has answered.
    fn wait_for_neighbor(
        &mut self,
        interface: usize,
        hop: IpAddr,
        packet: Box<[u8]>,
        meta: TxMeta,
    ) {
        // The table counts what it refuses.
        let neighbors = &mut self.net.links[interface].neighbors;
        if let Ok(Some(solicit)) = neighbors.queue(self.now, hop, packet, meta) {
            self.solicit(interface, solicit);
        }
    }

    /// Sends a small complete frame; a full queue loses it, counted.
    pub(crate) fn ethernet(
        &mut self,
        interface: usize,
        dst: MacAddr,
        ether_type: u16,
        payload: &[u8],
    ) {
        self.frame(interface, dst, ether_type, payload.len(), TxMeta::default(), |slot| {
            slot.copy_from_slice(payload);
        });
    }

    /// Sends `len` bytes behind a link header. `None`: the device did not take it, which is counted.
    pub(crate) fn frame<R>(
        &mut self,
        interface: usize,
        dst: MacAddr,
        ether_type: u16,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        let caps = &self.net.links[interface].caps;
        let src = caps.mac;
        let header_len = caps.header_len();
        let sent = self.tx[interface].send(header_len + len, meta, |slot| {
            if header_len == ETHERNET_HEADER_LEN {
                slot[0..6].copy_from_slice(&dst.0);
                slot[6..12].copy_from_slice(&src.0);
                slot[12..14].copy_from_slice(&ether_type.to_be_bytes());
            }
            write(&mut slot[header_len..])
        });
        match sent {
            Ok(result) => {
                self.net.stats.tx_frames += 1;
                Some(result)
            }
            Err(error) => {
                self.net.drop(match error {
                    SendError::Full => DropReason::TxFull,
                    SendError::Unsupported => DropReason::TxUnsupported,
                });
                None
            }
        }
    }
}

impl<T: TxQueue> Output for Out<'_, T> {
    fn has_room(&self, interface: usize) -> bool {
        let waiting = self.net.links.get(interface).is_some_and(|link| link.cutting.is_busy());
        !waiting && self.tx.get(interface).is_some_and(|tx| tx.room() > 0)
    }

    fn path_mtu(&self, dst: IpAddr) -> usize {
        self.net.path_mtus.get(self.now, dst)
    }

    fn interface_to(&self, dst: IpAddr) -> Option<usize> {
        self.net.interface_to(dst)
    }

    fn packet<R>(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let Some((interface, hop)) = self.resolve(packet.dst) else {
            self.net.drop(DropReason::NoRoute);
            return None;
        };
        // Packets that fit every path are not looked up.
        let fits = packet.dont_fragment || packet.len <= path_mtu::MIN_V4;
        let path_mtu = if fits { usize::MAX } else { self.path_mtu(packet.dst) };
        let link = &self.net.links[interface];
        if !link.takes(&packet, path_mtu) {
            if let (Some(cut), Hop::Known(mac)) = (packet.segment, hop)
                && link.fits(cut)
            {
                return self.cut(interface, mac, &packet, cut, write);
            }
            return Some(self.in_pieces(interface, hop, &packet, write));
        }
        let meta = self.meta(interface, &packet);
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
                self.frame(interface, mac, ether_type, packet.len, meta, write_all)
            }
            Hop::Asked(hop) => {
                let mut bytes = vec![0; packet.len].into_boxed_slice();
                let result = write_all(&mut bytes);
                self.wait_for_neighbor(interface, hop, bytes, meta);
                Some(result)
            }
        }
    }
}

/// The station address of everybody, or of a multicast group (RFC 1112 §6.4, RFC 2464 §7).
pub(crate) fn group_mac(dst: IpAddr) -> Option<MacAddr> {
    match dst {
        IpAddr::V4(v4) if v4.is_broadcast() => Some(MacAddr::BROADCAST),
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(v6) if v6.is_multicast() => Some(ndp::multicast_mac(v6)),
        _ => None,
    }
}

fn segmentation(dst: IpAddr, segment: Segment, link_len: u16) -> Segmentation {
    Segmentation {
        kind: if dst.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
        size: segment.size,
        header_len: segment.header_len + link_len,
    }
}

fn ether_type_of(address: IpAddr) -> u16 {
    if address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
}
