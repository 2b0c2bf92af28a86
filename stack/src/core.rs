//! The state of one shard: what `turn` does with each frame and each timer.

mod attached;
mod icmp;
mod steer;

use std::io;
use std::task::Waker;
use std::time::Duration;

use underpass_devices::{
    Caps, Device, Frame, Instant, MacAddr, Medium, RxChecksum, RxQueue, TxQueue,
};
use underpass_protocols::Stations;

pub use self::attached::AttachError;
use self::icmp::send_echo;
use crate::attachments::Attachments;
use crate::checksum;
use crate::config::Limits;
use crate::dhcp;
use crate::fragment::FragmentIds;
use crate::handover::{Content, Siblings};
use crate::icmp::{Echo, EchoKind, RateLimiter, Unreachable};
use crate::isn::IsnGenerator;
use crate::link::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Link, Out};
use crate::network::{MAX_INTERFACES, Network};
use crate::output::Output;
use crate::packet::{Packet, TcpSegment, UdpDatagram, protocol};
use crate::ping::{EchoRequest, Pings};
use crate::ports::PortAllocator;
use crate::random::Random;
use crate::raw::RawSockets;
use crate::reassembly::{Reassembler, ReassemblyConfig};
use crate::routes::Routes;
use crate::sleep::Sleeps;
use crate::stats::{DropReason, Stats};
use crate::tcp::{HashKey, SmoltcpEngine, Tcp};
use crate::udp::Udp;

/// Frames taken in one turn, so that a flood cannot keep timers and writers waiting.
const BURST: usize = 64;
/// Between two looks at the device's counters, which may cost a system call.
const COUNTERS_INTERVAL: Duration = Duration::from_millis(100);

/// Everything of one shard except its device.
pub(crate) struct Core {
    pub(crate) now: Instant,
    pub(crate) net: Network,
    pub(crate) tcp: Tcp<SmoltcpEngine>,
    pub(crate) udp: Udp,
    pub(crate) pings: Pings,
    pub(crate) sleeps: Sleeps,
    pub(crate) raw: RawSockets,
    pub(crate) attachments: Attachments,
    reassembler: Reassembler,
    errors: RateLimiter,
    counters_due: Instant,
    /// The other shards of the stack, if there are any.
    pub(crate) siblings: Option<Siblings>,
    /// Wakers of tasks that can go on, to be called once the core is unlocked.
    pub(crate) wakes: Vec<Waker>,
    /// Why the device ended, once it has.
    pub(crate) stopped: Option<String>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Something was received or sent, or is waiting for room, or a sleep is over, whose task may
    /// have something to send: call again without sleeping.
    pub busy: bool,
    /// When to call again if nothing arrives first.
    pub next: Option<Instant>,
}

/// What the link layer knows of an IP packet.
#[derive(Clone, Copy, Default)]
pub(crate) struct Arrival {
    pub(crate) interface: usize,
    checksum: RxChecksum,
    /// Source and destination, if there is an Ethernet header.
    link: Option<Stations>,
    /// It came to another shard, which has handed it over.
    pub(crate) handed_over: bool,
}

impl Arrival {
    fn src(&self) -> MacAddr {
        self.link.map_or(MacAddr::default(), |link| link.source)
    }

    /// Sent to a group of stations.
    fn is_to_group(&self) -> bool {
        self.link.is_some_and(|link| link.destination.is_multicast())
    }
}

impl Core {
    pub(crate) fn new(
        caps: Vec<Caps>,
        routes: Routes,
        limits: &Limits,
        random: &mut Random,
    ) -> Self {
        let engine = SmoltcpEngine::new(&caps, limits.send_buffer, limits.recv_buffer);
        let key = HashKey(random.bytes());
        Self {
            now: Instant::ZERO,
            tcp: Tcp::new(
                engine,
                limits.clone(),
                key,
                IsnGenerator::new(random.bytes()),
                PortAllocator::new(PortAllocator::DEFAULT_RANGE, random.bytes()),
            ),
            udp: Udp::new(limits.clone(), random.u16()),
            pings: Pings::default(),
            sleeps: Sleeps::new(limits.sleeps),
            raw: RawSockets::new(limits.clone()),
            attachments: Attachments::new(limits.protocols),
            reassembler: Reassembler::new(
                ReassemblyConfig {
                    max_datagrams: limits.reassembly_datagrams,
                    max_bytes: limits.reassembly_bytes,
                    ..ReassemblyConfig::default()
                },
                random.bytes(),
            ),
            errors: RateLimiter::new(limits.errors_per_second),
            counters_due: Instant::ZERO,
            siblings: None,
            net: Network::new(caps, routes, limits, random),
            wakes: Vec::new(),
            stopped: None,
        }
    }

    /// Makes this the core of one of several shards, whose fragment numbers share a secret.
    pub(crate) fn join(&mut self, siblings: Siblings, secret: [u8; 16]) {
        let (index, count) = (siblings.index, siblings.count());
        self.net.fragment_ids = FragmentIds::of_shard(secret, index, count);
        self.tcp.share_ports(siblings.steering, index);
        self.udp.share_ports(siblings.ports.clone(), index);
        self.siblings = Some(siblings);
    }

    /// One round: the frames the devices have filled in, timers, frames out. The doorbells are left
    /// to the caller. `devices` has one element per interface.
    pub(crate) fn turn<D: Device>(&mut self, now: Instant, devices: &mut [D]) -> Turn {
        self.now = now;
        self.net.refresh();
        let mut rx = heapless::Vec::<D::Rx<'_>, MAX_INTERFACES>::new();
        let mut tx = heapless::Vec::<D::Tx<'_>, MAX_INTERFACES>::new();
        for device in devices.iter_mut() {
            let (receive, transmit) = device.split();
            // The builder has made sure that there is room.
            let _ = (rx.push(receive).is_ok(), tx.push(transmit).is_ok());
        }
        let mut received = 0;
        for (interface, queue) in rx.iter_mut().enumerate() {
            let end = received + BURST;
            while received < end
                && let Some(frame) = queue.next()
            {
                self.on_frame(interface, &frame, &mut tx);
                received += 1;
            }
            queue.release();
        }
        let handed_over = self.receive_handed_over(&mut tx);

        self.tcp.advance(now);
        let woken = self.sleeps.turn(now, &mut self.wakes);
        let first = self.is_first();
        let mut out = Out { now, net: &mut self.net, tx: &mut tx };
        out.poll_cutting();
        let tcp = &mut self.tcp;
        out.poll_neighbors(|packet| {
            if let Ok(segment) = TcpSegment::parse(*packet) {
                tcp.on_unreachable(&segment.tuple.reversed());
            }
        });
        if first {
            out.poll_dhcp();
            out.poll_slaac();
            out.poll_groups();
            out.net.follow_selections();
        }
        while let Some(dst) = self.pings.next_destination()
            && out.has_room(out.interface_to(dst).unwrap_or(0))
            && let Some(request) = self.pings.next_request()
        {
            let EchoRequest { src, dst, ident, seq, payload } = &request;
            let echo = Echo { ident: *ident, seq: *seq, payload };
            send_echo(*src, *dst, EchoKind::Request, &echo, &mut out);
        }
        self.udp.emit(&mut out, &mut self.wakes);
        self.raw.emit(&mut out, &mut self.wakes);
        self.attachments.emit(&mut out, &mut self.wakes);
        self.tcp.emit(now, &mut out, &mut self.wakes);
        self.net.wake_watchers(&mut self.wakes);
        if std::mem::take(&mut self.net.mtu_changed) {
            for (interface, link) in self.net.links.iter().enumerate() {
                self.tcp.set_mtu(interface, link.mtu.get());
            }
        }
        let drops = &mut self.net.stats.drops;
        self.reassembler.poll(now, |reason| drops.count(reason));
        drop((rx, tx));
        if let Some(siblings) = &mut self.siblings {
            siblings.ring();
        }

        self.net.stats.rx_frames += received as u64;
        if now >= self.counters_due {
            for (link, device) in self.net.links.iter_mut().zip(devices.iter()) {
                link.counters = device.counters();
            }
            self.counters_due = now + COUNTERS_INTERVAL;
        }
        let busy = received + handed_over > 0 || woken || self.is_dirty();
        Turn { busy, next: self.next_timer() }
    }

    /// Fails once the device is gone.
    pub(crate) fn check_running(&self) -> io::Result<()> {
        match &self.stopped {
            None => Ok(()),
            Some(why) => Err(io::Error::new(
                io::ErrorKind::NetworkDown,
                format!("the stack has stopped: {why}"),
            )),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.net.report();
        self.tcp.report(&mut stats);
        let fragments = self.reassembler.counters();
        stats.reassembled = fragments.reassembled;
        stats.drops[DropReason::FragmentDuplicate] = fragments.duplicates;
        stats.handed_over = self.siblings.as_ref().map_or(0, |siblings| siblings.handed_over);
        stats
    }

    /// Something waits to be sent, or a sleep to be armed.
    pub(crate) fn is_dirty(&self) -> bool {
        self.tcp.is_dirty()
            || self.udp.is_dirty()
            || self.pings.is_dirty()
            || self.raw.is_dirty()
            || self.attachments.is_dirty()
            || self.sleeps.is_dirty()
            || self.net.links.iter().any(|link| link.is_due(self.now))
            || (self.is_first() && self.net.is_selection_due())
    }

    /// Gives back what was lent: addresses of DHCP servers. The messages leave with the next turn.
    pub(crate) fn release(&mut self) {
        self.net.release_leases(self.now);
    }

    /// Nothing is on its way out any more, not even a connection that is closing.
    pub(crate) fn is_finished(&self) -> bool {
        self.tcp.is_empty() && self.net.is_quiet(self.now)
    }

    /// Ends everything, because the device is gone or the stack is.
    pub(crate) fn stop(&mut self, why: String) {
        self.stopped = Some(why);
        self.net.watchers.wake(&mut self.wakes);
        self.tcp.stop(&mut self.wakes);
        self.udp.stop(&mut self.wakes);
        self.pings.stop(&mut self.wakes);
        self.sleeps.stop(&mut self.wakes);
        self.raw.stop(&mut self.wakes);
        self.attachments.stop(&mut self.wakes);
    }

    fn next_timer(&self) -> Option<Instant> {
        let links = self.net.links.iter().map(Link::next_timer);
        let protocols = self.attachments.next_timer();
        [self.tcp.next_timer(), self.reassembler.next_timer(), self.sleeps.next_timer(), protocols]
            .into_iter()
            .chain(links)
            .flatten()
            .min()
    }

    fn on_frame(&mut self, interface: usize, frame: &Frame<'_>, tx: &mut [impl TxQueue]) {
        let arrival = Arrival { interface, checksum: frame.meta.checksum, ..Arrival::default() };
        let caps = &self.net.links[interface].caps;
        if caps.medium == Medium::Ip {
            return self.on_ip(frame.bytes, arrival, tx);
        }
        let Some((header, payload)) = frame.bytes.split_first_chunk::<14>() else {
            return self.net.drop(DropReason::ShortFrame);
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
        let source = MacAddr([s0, s1, s2, s3, s4, s5]);
        if destination != caps.mac && !destination.is_multicast() {
            return self.net.drop(DropReason::OtherStation);
        }
        let arrival = Arrival { link: Some(Stations { source, destination }), ..arrival };
        match u16::from_be_bytes([t0, t1]) {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => self.on_ip(payload, arrival, tx),
            ETHERTYPE_ARP => self.on_arp(payload, arrival, tx),
            _ => self.on_other_frame(frame.bytes, arrival, tx),
        }
    }

    /// What follows an Ethernet header of type ARP. Every shard learns from it; the one it came to
    /// answers.
    fn on_arp(&mut self, payload: &[u8], arrival: Arrival, tx: &mut [impl TxQueue]) {
        self.spread(Content::Arp, payload, arrival);
        let mut out = Out { now: self.now, net: &mut self.net, tx };
        out.on_arp(arrival.interface, payload, !arrival.handed_over);
    }

    fn on_ip(&mut self, bytes: &[u8], mut arrival: Arrival, tx: &mut [impl TxQueue]) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(reason) => return self.net.drop(reason),
        };
        if packet.protocol == protocol::ICMPV6
            && packet.fragment.is_none()
            && packet.payload().first().is_some_and(|kind| crate::ndp::is_ndp(*kind))
        {
            self.spread(Content::Ip, packet.bytes, arrival);
            let mut out = Out { now: self.now, net: &mut self.net, tx };
            let answers = !arrival.handed_over;
            return out.on_ndp(arrival.interface, packet.bytes, arrival.src(), answers);
        }
        if packet.protocol == protocol::UDP
            && packet.fragment.is_none()
            && let Ok(datagram) = UdpDatagram::parse(packet)
            && datagram.dst_port == dhcp::CLIENT_PORT
        {
            if self.is_for_first(&packet, arrival) {
                return;
            }
            if self.net.links[arrival.interface].dhcp.is_some() {
                let mut out = Out { now: self.now, net: &mut self.net, tx };
                let result = check_datagram(&datagram, arrival.checksum)
                    .and_then(|()| out.on_dhcp(arrival.interface, &datagram));
                return result.unwrap_or_else(|reason| self.net.drop(reason));
            }
            // It may be for a socket of another shard.
            arrival.handed_over = false;
        }
        if !self.net.routes.is_peer(packet.src) {
            return self.net.drop(DropReason::BadSource);
        }
        let unicast = self.net.routes.is_own(packet.dst);
        if packet.dst.is_multicast() && self.is_first() {
            if !self.net.links[arrival.interface].groups.is_member(packet.dst) {
                return self.net.drop(DropReason::NotJoined);
            }
            // It may be for a socket of another shard.
            arrival.handed_over = false;
        } else if packet.dst.is_multicast() && self.is_for_first(&packet, arrival) {
            return;
        }
        if !unicast && !packet.dst.is_multicast() && !self.net.routes.is_broadcast(packet.dst) {
            return self.net.drop(DropReason::OtherHost);
        }
        if packet.fragment.is_none() {
            return self.on_packet(&packet, unicast, arrival, tx);
        }
        if self.is_for_first(&packet, arrival) {
            return;
        }
        let whole = match self.reassembler.insert(self.now, &packet) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            Err(reason) => return self.net.drop(reason),
        };
        // The whole is a new packet, to be handed to its owner.
        let arrival = Arrival { checksum: RxChecksum::Unverified, handed_over: false, ..arrival };
        match Packet::parse(&whole) {
            Ok(packet) => self.on_packet(&packet, unicast, arrival, tx),
            Err(reason) => self.net.drop(reason),
        }
    }

    /// A whole packet for this stack.
    fn on_packet(
        &mut self,
        packet: &Packet<'_>,
        unicast: bool,
        arrival: Arrival,
        tx: &mut [impl TxQueue],
    ) {
        if self.is_handed_over(packet, arrival) {
            return;
        }
        let copied = !self.raw.is_empty()
            && self.raw.on_packet(packet, &mut self.net.stats.drops, &mut self.wakes);
        let mut out = Out { now: self.now, net: &mut self.net, tx };
        let result = match packet.protocol {
            protocol::TCP if unicast && !arrival.is_to_group() => {
                checked_segment(packet, arrival.checksum).and_then(|segment| {
                    self.tcp.on_segment(self.now, &segment, &mut out, &mut self.wakes)
                })
            }
            protocol::UDP => self.on_udp(packet, arrival, tx),
            protocol::ICMP | protocol::ICMPV6 => self.on_icmp(packet, unicast, arrival, tx),
            protocol::IGMP if packet.src.is_ipv4() => out.on_igmp(arrival.interface, packet),
            _ => self.on_other_protocol(packet, copied, arrival, tx),
        };
        if let Err(reason) = result {
            self.net.drop(reason);
        }
    }

    fn on_udp(
        &mut self,
        packet: &Packet<'_>,
        arrival: Arrival,
        tx: &mut [impl TxQueue],
    ) -> Result<(), DropReason> {
        let datagram = UdpDatagram::parse(*packet)?;
        check_datagram(&datagram, arrival.checksum)?;
        if let Some(result) = self.on_attached_port(&datagram, arrival, tx) {
            return result;
        }
        let result = self.udp.on_datagram(&datagram, &mut self.wakes);
        if result == Err(DropReason::UdpClosedPort) {
            self.refuse(packet, arrival, Unreachable::Port, tx);
        }
        result
    }
}

/// The segment of a packet, if its checksum is right as far as the device has not looked already.
#[inline]
fn checked_segment<'a>(
    packet: &Packet<'a>,
    verdict: RxChecksum,
) -> Result<TcpSegment<'a>, DropReason> {
    let segment = TcpSegment::parse(*packet)?;
    check_transport(packet, packet.payload(), verdict)?;
    Ok(segment)
}

fn check_datagram(datagram: &UdpDatagram<'_>, verdict: RxChecksum) -> Result<(), DropReason> {
    if datagram.unsummed {
        return Ok(());
    }
    let len = datagram.data.len() + 8;
    check_transport(&datagram.packet, &datagram.packet.payload()[..len], verdict)
}

fn check_transport(
    packet: &Packet<'_>,
    segment: &[u8],
    verdict: RxChecksum,
) -> Result<(), DropReason> {
    let right = match verdict {
        RxChecksum::Valid | RxChecksum::Partial(_) => true,
        RxChecksum::Bad => false,
        RxChecksum::Unverified => {
            checksum::verify_transport(packet.src, packet.dst, packet.protocol, segment)
        }
    };
    if right { Ok(()) } else { Err(DropReason::TransportChecksum) }
}
