//! Multicast groups: who hears what, and what routers are told, in virtual time.

mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use underpass::devices::{Instant, MacAddr, MemoryConfig, MemoryDevice};
use underpass::{DropReason, Shard, Stack, UdpSocket};
use wire::{ICMPV6, IPV4, IPV6, UDP, Wire};

const SECOND: Duration = Duration::from_secs(1);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 7);
const IGMP: u8 = 2;
/// What records say (RFC 3376 §4.2.12).
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;

/// A report: its message type, its record type if it has one, its group.
type Report = (u8, u8, IpAddr);

struct World {
    now: Instant,
    stack: Stack,
    shard: Shard<MemoryDevice>,
    wire: Wire,
    reports: Vec<(Instant, Report)>,
    /// IP packets that are no reports: destination MAC and hop limit.
    others: Vec<(MacAddr, u8)>,
}

impl World {
    /// With the first reports, of its own solicited-node groups, gone by.
    fn new() -> Self {
        let (device, wire) = MemoryDevice::pair(MemoryConfig::default());
        let (stack, shard) = Stack::builder()
            .address("10.0.0.1/24".parse().unwrap())
            .address("fd00::1/64".parse().unwrap())
            .seed(1)
            .build_shard(device)
            .unwrap();
        let (now, wire) = (Instant::ZERO, Wire(wire));
        Self { now, stack, shard, wire, reports: vec![], others: vec![] }
    }

    fn quiet() -> Self {
        let mut world = Self::new();
        world.run(10 * SECOND);
        world.reports.clear();
        world
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let turn = self.shard.turn(self.now).unwrap();
            for (frame, _) in self.wire.recv() {
                let mac = MacAddr(frame[..6].try_into().unwrap());
                match (wire::ether_type(&frame), report(&frame)) {
                    (_, Some(report)) => self.reports.push((self.now, report)),
                    (IPV4, None) => self.others.push((mac, frame[22])),
                    (IPV6, None) => self.others.push((mac, frame[21])),
                    _ => {}
                }
            }
            if turn.busy {
                continue;
            }
            match turn.next.filter(|at| *at < end) {
                Some(at) => self.now = at.max(self.now + Duration::from_nanos(1)),
                None => break,
            }
        }
        self.now = end;
    }

    fn told(&self) -> Vec<Report> {
        self.reports.iter().map(|(_, report)| *report).collect()
    }

    /// Sends a datagram to port 7 of a group.
    fn datagram(&mut self, group: IpAddr) {
        let src = if group.is_ipv4() { IpAddr::V4(ROUTER_V4) } else { IpAddr::V6(ROUTER_V6) };
        let udp = [0, 9, 0, 7, 0, 10, 0, 0, b'h', b'i'];
        let mac = MacAddr([0x33, 0x33, 0, 0, 0, 7]);
        self.wire.send(&wire::ip_frame((mac, ROUTER_MAC), (src, group), UDP, &udp));
    }

    fn igmp_query(&mut self, max: u8, len: usize) {
        let mut message = vec![0; len];
        (message[0], message[1]) = (0x11, max);
        let sum: u32 = u32::from(message[0]) << 8 | u32::from(max);
        message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        let mac = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        let ends = (ROUTER_V4.into(), Ipv4Addr::new(224, 0, 0, 1).into());
        self.wire.send(&wire::ip_frame((mac, ROUTER_MAC), ends, IGMP, &message));
    }

    fn mld_query(&mut self, max: u16, len: usize) {
        let mut message = vec![0; len];
        message[0] = 130;
        message[4..6].copy_from_slice(&max.to_be_bytes());
        let mac = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let mut frame =
            wire::ip_frame((mac, ROUTER_MAC), (ROUTER_V6.into(), all.into()), ICMPV6, &message);
        frame[14 + 7] = 1;
        self.wire.send(&frame);
    }
}

fn report(frame: &[u8]) -> Option<Report> {
    let v4 = |at: usize| IpAddr::V4(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into());
    let v6 = |at: usize| IpAddr::V6(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into());
    match wire::ether_type(frame) {
        IPV4 if frame[23] == IGMP => Some(match frame[38] {
            0x22 => (0x22, frame[46], v4(50)),
            kind => (kind, 0, v4(42)),
        }),
        IPV6 if frame[20] == 0 => Some(match frame[62] {
            143 => (143, frame[70], v6(74)),
            kind => (kind, 0, v6(70)),
        }),
        _ => None,
    }
}

#[test]
fn only_members_hear_a_group() {
    for group in [IpAddr::V4(GROUP_V4), IpAddr::V6(GROUP_V6)] {
        let mut world = World::quiet();
        let socket = UdpSocket::bind(&world.stack, "[::]:7".parse().unwrap()).unwrap();
        socket.set_nonblocking(true);
        let mut buffer = [0; 8];
        world.datagram(group);
        world.run(SECOND);
        assert!(socket.recv_from(&mut buffer).is_err());
        assert_eq!(world.stack.stats().drops[DropReason::NotJoined], 1);

        socket.join_multicast(group, None).unwrap();
        assert!(socket.join_multicast(group, Some(0)).is_err(), "twice");
        world.datagram(group);
        world.run(SECOND);
        assert_eq!(socket.recv_from(&mut buffer).unwrap().0, 2);

        // A second member keeps it.
        let other = UdpSocket::bind(&world.stack, "[::]:8".parse().unwrap()).unwrap();
        other.join_multicast(group, Some(0)).unwrap();
        socket.leave_multicast(group, None).unwrap();
        assert!(socket.leave_multicast(group, None).is_err(), "twice");
        world.datagram(group);
        world.run(SECOND);
        assert!(socket.recv_from(&mut buffer).is_ok());
        drop(other);
        world.datagram(group);
        world.run(SECOND);
        assert!(socket.recv_from(&mut buffer).is_err());
    }
}

#[test]
fn routers_are_told_of_joining_and_leaving_twice() {
    let mut world = World::quiet();
    for (group, kind) in [(IpAddr::V4(GROUP_V4), 0x22), (IpAddr::V6(GROUP_V6), 143)] {
        let socket = UdpSocket::bind(&world.stack, "[::]:7".parse().unwrap()).unwrap();
        socket.join_multicast(group, None).unwrap();
        world.run(3 * SECOND);
        assert_eq!(world.told(), [(kind, TO_EXCLUDE, group); 2]);
        world.reports.clear();
        drop(socket);
        world.run(3 * SECOND);
        assert_eq!(world.told(), [(kind, TO_INCLUDE, group); 2]);
        world.reports.clear();
    }
}

#[test]
fn a_query_is_answered_after_a_while_by_members() {
    let mut world = World::quiet();
    let socket = UdpSocket::bind(&world.stack, "[::]:7".parse().unwrap()).unwrap();
    socket.join_multicast(GROUP_V4.into(), None).unwrap();
    socket.join_multicast(GROUP_V6.into(), None).unwrap();
    world.run(3 * SECOND);
    world.reports.clear();
    let asked = world.now;
    world.igmp_query(100, 12);
    world.run(11 * SECOND);
    assert_eq!(world.told(), [(0x22, IS_EXCLUDE, GROUP_V4.into())]);
    let wait = world.reports[0].0 - asked;
    assert!(wait > Duration::from_millis(1) && wait < 10 * SECOND, "{wait:?}");
    world.reports.clear();
    world.mld_query(10_000, 28);
    world.run(11 * SECOND);
    // The group of its own addresses too, which is the same for both.
    assert_eq!(world.told().len(), 2);
    assert!(world.told().contains(&(143, IS_EXCLUDE, GROUP_V6.into())));
}

#[test]
fn older_routers_are_told_in_their_own_words() {
    let mut world = World::quiet();
    world.igmp_query(10, 8);
    world.mld_query(1000, 24);
    world.run(2 * SECOND);
    world.reports.clear();
    let socket = UdpSocket::bind(&world.stack, "[::]:7".parse().unwrap()).unwrap();
    for (group, join, leave) in
        [(IpAddr::V4(GROUP_V4), 0x16, 0x17), (IpAddr::V6(GROUP_V6), 131, 132)]
    {
        socket.join_multicast(group, None).unwrap();
        world.run(3 * SECOND);
        assert_eq!(world.told(), [(join, 0, group); 2]);
        world.reports.clear();
        socket.leave_multicast(group, None).unwrap();
        world.run(3 * SECOND);
        assert_eq!(world.told(), [(leave, 0, group)]);
        world.reports.clear();
    }
    // They are forgotten when they have been silent for long.
    world.run(300 * SECOND);
    socket.join_multicast(GROUP_V4.into(), None).unwrap();
    world.run(3 * SECOND);
    assert_eq!(world.told()[0], (0x22, TO_EXCLUDE, GROUP_V4.into()));
}

#[test]
fn switches_learn_where_our_addresses_are() {
    let mut world = World::new();
    world.run(3 * SECOND);
    let own: IpAddr = "ff02::1:ff00:1".parse().unwrap();
    assert_eq!(world.told().iter().filter(|r| **r == (143, TO_EXCLUDE, own)).count(), 2);
    world.reports.clear();
    world.stack.add_address(0, "fd00::abcd/64".parse().unwrap()).unwrap();
    world.run(3 * SECOND);
    let new: IpAddr = "ff02::1:ff00:abcd".parse().unwrap();
    assert_eq!(world.told(), [(143, TO_EXCLUDE, new); 2]);
    world.reports.clear();
    world.stack.remove_address("fd00::abcd".parse().unwrap()).unwrap();
    world.run(3 * SECOND);
    assert_eq!(world.told(), [(143, TO_INCLUDE, new); 2]);
}

#[test]
fn datagrams_to_a_group_stay_on_the_link() {
    let mut world = World::quiet();
    let socket = UdpSocket::bind(&world.stack, "[::]:7".parse().unwrap()).unwrap();
    world.others.clear();
    for group in [IpAddr::V4(GROUP_V4), IpAddr::V6(GROUP_V6)] {
        socket.send_to(b"all", SocketAddr::new(group, 9)).unwrap();
    }
    world.run(SECOND);
    let [v4, v6] = [[1, 0, 0x5e, 1, 2, 3], [0x33, 0x33, 0, 0, 0, 7]].map(MacAddr);
    assert_eq!(world.others, [(v4, 1), (v6, 1)]);
    assert!(socket.join_multicast("10.0.0.9".parse().unwrap(), None).is_err());
    assert!(socket.join_multicast(GROUP_V4.into(), Some(1)).is_err(), "no such interface");
    let full = (0..300_u16).find(|n| {
        let [high, low] = n.to_be_bytes();
        socket.join_multicast(Ipv4Addr::new(239, 9, high, low).into(), None).is_err()
    });
    assert_eq!(full, Some(255), "one of 256 is that of the addresses");
}
