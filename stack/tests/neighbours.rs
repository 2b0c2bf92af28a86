//! Many neighbours: each is waited for alone, and strangers cannot fill the table.

mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use underpass::devices::{Instant, MacAddr, MemoryConfig, MemoryDevice};
use underpass::{DropReason, Limits, Shard, Stack, Stats, TcpStream, UdpSocket};
use wire::{ARP, ICMPV6, IPV4, IPV6, Wire};

const OUR_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A stack, the wire, and the time.
struct World {
    now: Instant,
    stack: Stack,
    shard: Shard<MemoryDevice>,
    wire: Wire,
    our_mac: MacAddr,
}

/// What the stack sent.
#[derive(Debug)]
struct Sent {
    at: Instant,
    dst_mac: MacAddr,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// It asked for the link address of this one.
    Question(IpAddr),
    /// An IP packet to this one that is no neighbour discovery.
    Packet(IpAddr),
    Other,
}

impl World {
    fn new(limits: Limits) -> Self {
        let config = MemoryConfig::default();
        let (device, wire) = MemoryDevice::pair(config);
        let (stack, shard) = Stack::builder()
            .address("10.0.0.1/16".parse().unwrap())
            .address("fd00::1/64".parse().unwrap())
            .limits(limits)
            .seed(1)
            .build_shard(device)
            .unwrap();
        let our_mac = config.macs[0];
        Self { now: Instant::ZERO, stack, shard, wire: Wire(wire), our_mac }
    }

    /// One turn; what it sent besides multicast listener reports (IPv6 with a hop-by-hop header).
    fn turn(&mut self) -> (Vec<Sent>, Option<Instant>) {
        let turn = self.shard.turn(self.now).unwrap();
        let frames = self.wire.recv();
        let is_report = |frame: &[u8]| wire::ether_type(frame) == IPV6 && frame[20] == 0;
        let frames = frames.iter().filter(|(frame, _)| !is_report(frame));
        let sent = frames.map(|(frame, _)| sent(self.now, frame)).collect();
        (sent, if turn.busy { Some(self.now) } else { turn.next })
    }

    /// Runs until `end`. Questions are answered after the time that `delay` gives, if any.
    fn run_until(&mut self, end: Instant, delay: impl Fn(IpAddr) -> Option<Duration>) -> Vec<Sent> {
        let mut answers: Vec<(Instant, Vec<u8>)> = Vec::new();
        let mut all = Vec::new();
        while self.now < end {
            let due = answers.extract_if(.., |(at, _)| *at <= self.now).collect::<Vec<_>>();
            for (_, answer) in &due {
                self.wire.send(answer);
            }
            let (sent, next) = self.turn();
            for sent in &sent {
                if let What::Question(ip) = sent.what
                    && let Some(delay) = delay(ip)
                {
                    answers.push((self.now + delay, self.answer(ip, mac_of(ip))));
                }
            }
            all.extend(sent);
            let next = answers.iter().map(|(at, _)| *at).chain(next).min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(1)).min(end);
        }
        all
    }

    /// What `ip` says when it is asked.
    fn answer(&self, ip: IpAddr, mac: MacAddr) -> Vec<u8> {
        match ip {
            IpAddr::V4(v4) => {
                let ours = (self.our_mac, OUR_V4.octets());
                let reply = wire::arp(2, (mac, v4.octets()), ours);
                wire::ethernet(self.our_mac, mac, ARP, &reply)
            }
            IpAddr::V6(_) => {
                let message = wire::ndp(136, SOLICITED | OVERRIDE, ip, mac);
                let ends = (ip, OUR_V6.into());
                wire::ip_frame((self.our_mac, mac), ends, ICMPV6, &message)
            }
        }
    }

    /// A question of `ip` for our address.
    fn question(&self, ip: IpAddr) -> Vec<u8> {
        let mac = mac_of(ip);
        match ip {
            IpAddr::V4(v4) => {
                let ours = (MacAddr::default(), OUR_V4.octets());
                let request = wire::arp(1, (mac, v4.octets()), ours);
                wire::ethernet(MacAddr::BROADCAST, mac, ARP, &request)
            }
            IpAddr::V6(_) => {
                let message = wire::ndp(135, 0, OUR_V6.into(), mac);
                let ends = (ip, OUR_V6.into());
                wire::ip_frame((self.our_mac, mac), ends, ICMPV6, &message)
            }
        }
    }

    /// Sends `frame` to the stack from every one of `count` strangers; a hundred a millisecond.
    fn flood(&mut self, ip: impl Fn(u16) -> IpAddr, frame: impl Fn(&Self, IpAddr) -> Vec<u8>) {
        for n in 0..FLOOD {
            let bytes = frame(self, ip(n));
            self.wire.send(&bytes);
            if n % 50 == 49 {
                self.turn();
                self.now += Duration::from_micros(500);
            }
        }
        self.turn();
    }
}

const FLOOD: u16 = 20_000;

fn sent(at: Instant, frame: &[u8]) -> Sent {
    let dst_mac = MacAddr(*frame.first_chunk().unwrap());
    let ip = |from: usize, len: usize| -> IpAddr {
        let bytes = &frame[from..from + len];
        match bytes.first_chunk::<16>() {
            Some(v6) if len == 16 => IpAddr::from(*v6),
            _ => IpAddr::from(*bytes.first_chunk::<4>().unwrap()),
        }
    };
    let what = match wire::ether_type(frame) {
        ARP if frame[21] == 1 => What::Question(ip(14 + 24, 4)),
        IPV4 => What::Packet(ip(14 + 16, 4)),
        IPV6 if frame[20] == ICMPV6 && frame[54] == 135 => What::Question(ip(14 + 48, 16)),
        IPV6 if frame[20] != ICMPV6 => What::Packet(ip(14 + 24, 16)),
        _ => What::Other,
    };
    Sent { at, dst_mac, what }
}

/// The link address of the neighbour with this address.
fn mac_of(ip: IpAddr) -> MacAddr {
    let [a, b] = match ip {
        IpAddr::V4(v4) => [v4.octets()[2], v4.octets()[3]],
        IpAddr::V6(v6) => [v6.octets()[14], v6.octets()[15]],
    };
    MacAddr([2, 0xaa, 0, 0, a, b])
}

fn v4(n: u16) -> IpAddr {
    let [a, b] = n.to_be_bytes();
    Ipv4Addr::new(10, 0, a, b).into()
}

fn v6(n: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into()
}

fn connected(stream: &TcpStream) -> Option<io::Result<()>> {
    match stream.poll_connected(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn small() -> Limits {
    let mut limits = Limits::default();
    limits.neighbors = 64;
    limits.send_buffer = 4096;
    limits.recv_buffer = 4096;
    limits
}

/// Each of 64 neighbours answers after another time, and every ninth never.
#[test]
fn each_neighbour_is_waited_for_alone() {
    let delay = |ip: IpAddr| {
        let n = u32::from(mac_of(ip).0[5]);
        (n % 9 != 0).then_some(Duration::from_millis(40) * n)
    };
    for ip in [v4, v6] {
        let mut world = World::new(Limits::default());
        let neighbours: Vec<IpAddr> = (2..66).map(ip).collect();
        let streams: Vec<_> = neighbours
            .iter()
            .map(|ip| TcpStream::start(&world.stack, SocketAddr::new(*ip, 80)).unwrap())
            .collect();
        let sent = world.run_until(Instant::from_millis(4000), delay);

        let mut first_question = HashMap::new();
        let mut first_packet = HashMap::new();
        for Sent { at, dst_mac, what } in &sent {
            match what {
                What::Question(ip) => {
                    first_question.entry(*ip).or_insert(*at);
                }
                What::Packet(ip) => {
                    assert_eq!(*dst_mac, mac_of(*ip), "a packet to {ip}");
                    first_packet.entry(*ip).or_insert(*at);
                }
                What::Other => {}
            }
        }
        for (ip, stream) in neighbours.iter().zip(&streams) {
            assert_eq!(first_question[ip], Instant::ZERO, "{ip} was asked late");
            match delay(*ip) {
                Some(delay) => {
                    assert_eq!(first_packet[ip], Instant::ZERO + delay, "the SYN to {ip}");
                    assert!(connected(stream).is_none(), "{ip}");
                }
                None => {
                    assert!(!first_packet.contains_key(ip), "{ip} has not answered");
                    let error = connected(stream).expect("three seconds are over").unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{ip}");
                }
            }
        }
    }
}

/// A host that scans a network of silence: what waits is bounded, and every attempt ends.
#[test]
fn a_scan_of_absent_neighbours_stays_bounded() {
    for ip in [v4, v6] {
        let mut world = World::new(small());
        let streams: Vec<_> = (2..4002)
            .map(|n| TcpStream::start(&world.stack, SocketAddr::new(ip(n), 80)).unwrap())
            .collect();
        let mut most = 0;
        for second in 1..90 {
            world.run_until(Instant::from_millis(second * 1000), |_| None);
            most = most.max(world.stack.stats().neighbors);
        }
        assert!((1000..=1024).contains(&most), "{most} were asked for at once");
        let stats = world.stack.stats();
        assert_eq!(stats.neighbors, 0);
        assert!(stats.drops[DropReason::NeighborQueueFull] > 0, "{stats}");
        assert!(stats.drops[DropReason::NeighborUnreachable] > 0, "{stats}");
        for stream in &streams {
            let error = connected(stream).expect("90 seconds are over").unwrap_err();
            let kinds = [io::ErrorKind::HostUnreachable, io::ErrorKind::TimedOut];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        drop(streams);
        world.turn();
        assert_eq!(world.stack.stats().tcp_flows, 0);
    }
}

/// Strangers who ask for us are remembered, but not beyond the limit, and not at the cost of a
/// neighbour in use.
#[test]
fn a_flood_of_questions_stays_bounded_and_displaces_nobody_in_use() {
    for (ip, us) in [(v4 as fn(u16) -> IpAddr, IpAddr::from(OUR_V4)), (v6, OUR_V6.into())] {
        let mut world = World::new(small());
        let socket = UdpSocket::bind(&world.stack, SocketAddr::new(us, 7)).unwrap();
        let friend = SocketAddr::new(ip(65_000), 7);
        socket.send_to(b"hello", friend).unwrap();
        world.run_until(Instant::from_millis(10), |_| Some(Duration::ZERO));

        world.flood(|n| ip(n + 2), World::question);
        let stats: Stats = world.stack.stats();
        assert!(stats.neighbors <= 64, "{} neighbours", stats.neighbors);
        assert_eq!(stats.address_conflicts, 0);

        socket.send_to(b"still there?", friend).unwrap();
        let (sent, _) = world.turn();
        let to_friend = sent.iter().find(|sent| sent.what == What::Packet(friend.ip()));
        let to_friend = to_friend.expect("its link address is known");
        assert_eq!(to_friend.dst_mac, mac_of(friend.ip()));
    }
}

/// Answers to questions that nobody asked leave nothing behind.
#[test]
fn a_flood_of_answers_is_not_remembered() {
    for ip in [v4, v6] {
        let mut world = World::new(small());
        world.flood(|n| ip(n + 2), |world, ip| world.answer(ip, mac_of(ip)));
        let stats = world.stack.stats();
        assert_eq!(stats.neighbors, 0);
        assert_eq!(stats.drops[DropReason::UnsolicitedNeighbor], u64::from(FLOOD), "{stats}");
    }
}

/// Link addresses of groups never get into the table, whoever claims them.
#[test]
fn a_group_is_no_neighbour() {
    for ip in [v4, v6] {
        let mut world = World::new(small());
        let neighbour = SocketAddr::new(ip(2), 80);
        let stream = TcpStream::start(&world.stack, neighbour).unwrap();
        world.turn();
        for mac in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr::default()] {
            world.wire.send(&world.answer(neighbour.ip(), mac));
            let (sent, _) = world.turn();
            assert!(
                sent.iter().all(|sent| !matches!(sent.what, What::Packet(_))),
                "{mac}: {sent:?}"
            );
        }
        assert!(connected(&stream).is_none());
        assert!(world.stack.stats().drops.total() >= 3);
    }
}

/// Somebody else claims our address: it is counted, not believed, and not answered.
#[test]
fn claims_to_our_address_are_counted() {
    for us in [IpAddr::from(OUR_V4), OUR_V6.into()] {
        let mut world = World::new(small());
        for _ in 0..1000 {
            world.wire.send(&world.answer(us, mac_of(v4(666))));
            let (sent, _) = world.turn();
            assert!(sent.is_empty(), "{sent:?}");
        }
        let stats = world.stack.stats();
        assert_eq!((stats.address_conflicts, stats.neighbors), (1000, 0), "{stats}");
    }
}
