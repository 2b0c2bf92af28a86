//! The DHCP client against a server by hand, in virtual time.

mod server;
#[path = "../sharing/mod.rs"]
mod sharing;
#[path = "../wire/mod.rs"]
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Context, Waker};
use std::time::Duration;

use server::{
    ACK, DECLINE, DISCOVER, Message, NAK, OFFER, OFFERED, RELEASE, REQUEST, SERVER, arp_answer,
    options,
};
use sharing::{Sharing, addresses};
use underpass::devices::{Device, Instant, MacAddr, MemoryConfig, MemoryDevice, Selector};
use underpass::{DropReason, Origin, Shard, Stack, TcpStream, UdpSocket};
use wire::{ARP, Wire};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    now: Instant,
    stack: Stack,
    shard: Shard<Sharing<MemoryDevice>>,
    wire: Wire,
    /// What the client sent, and when.
    messages: Vec<(Instant, Message)>,
    /// ARP packets it sent: operation, sender, target.
    arps: Vec<(u8, [u8; 4], [u8; 4])>,
}

impl World {
    fn new(seed: u64) -> Self {
        let config = MemoryConfig::default();
        let (device, wire) = MemoryDevice::pair(config);
        let (stack, shard) =
            Stack::builder().dhcp(true).seed(seed).build_shard(Sharing::new(device)).unwrap();
        let now = Instant::ZERO;
        Self { now, stack, shard, wire: Wire(wire), messages: vec![], arps: vec![] }
    }

    /// Runs for `time`; `serve` gives the frames that answer a message.
    fn run(&mut self, time: Duration, mut serve: impl FnMut(&Message) -> Vec<Vec<u8>>) {
        let end = self.now + time;
        loop {
            let turn = self.shard.turn(self.now).unwrap();
            let frames = self.wire.recv();
            for (frame, _) in &frames {
                if let Some(message) = Message::parse(frame) {
                    for answer in serve(&message) {
                        self.wire.send(&answer);
                    }
                    self.messages.push((self.now, message));
                } else if let Some(answer) = arp_answer(frame) {
                    self.wire.send(&answer);
                } else if wire::ether_type(frame) == ARP {
                    let ip = |at: usize| frame[at..at + 4].try_into().unwrap();
                    self.arps.push((frame[21], ip(28), ip(38)));
                }
            }
            if turn.busy || !frames.is_empty() {
                continue;
            }
            match turn.next.filter(|at| *at < end) {
                Some(at) => self.now = at.max(self.now + Duration::from_nanos(1)),
                None => break,
            }
        }
        self.now = end;
    }

    fn kinds(&self) -> Vec<u8> {
        self.messages.iter().map(|(_, message)| message.kind).collect()
    }

    /// Another station claims the offered address.
    fn claim(&mut self) {
        let thief = MacAddr([2, 0, 0, 0, 0, 9]);
        let arp = wire::arp(1, (thief, OFFERED.octets()), (MacAddr::default(), OFFERED.octets()));
        self.wire.send(&wire::ethernet(MacAddr::BROADCAST, thief, ARP, &arp));
    }

    /// Another station has the address that is being probed.
    fn answer_probe(&mut self) {
        let (owner, us) = (MacAddr([2, 0, 0, 0, 0, 9]), self.shard.devices()[0].caps().mac);
        let arp = wire::arp(2, (owner, OFFERED.octets()), (us, [0; 4]));
        self.wire.send(&wire::ethernet(us, owner, ARP, &arp));
    }

    /// What was selected one after the other.
    fn said(&self) -> Vec<Vec<Selector>> {
        self.shard.devices()[0].said()
    }

    fn is_configured(&self) -> bool {
        self.stack.poll_configured(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

fn everybody() -> IpAddr {
    Ipv4Addr::BROADCAST.into()
}

/// A server that gives what it is asked for.
fn kind_server(seconds: u32) -> impl FnMut(&Message) -> Vec<Vec<u8>> {
    move |message| match message.kind {
        DISCOVER => vec![message.answer(OFFER, &options(seconds), everybody())],
        REQUEST => vec![message.answer(ACK, &options(seconds), OFFERED.into())],
        _ => vec![],
    }
}

fn silent(_: &Message) -> Vec<Vec<u8>> {
    Vec::new()
}

#[test]
fn a_lease_is_checked_announced_and_used() {
    let mut world = World::new(1);
    assert!(!world.is_configured());
    world.run(Duration::from_millis(300), kind_server(3600));
    assert!(!world.is_configured(), "before the probes are over");
    world.run(SECOND, kind_server(3600));
    assert!(world.is_configured());
    assert_eq!(world.kinds(), [DISCOVER, REQUEST]);
    let request = &world.messages[1].1;
    assert_eq!((request.requested, request.server), (Some(OFFERED), Some(SERVER)));
    assert_eq!((request.src, request.dst), (Ipv4Addr::UNSPECIFIED.into(), everybody()));

    let (nobody, offered) = ([0; 4], OFFERED.octets());
    let probe = (1, nobody, offered);
    assert_eq!(world.arps, [probe, probe, probe, (1, offered, offered)]);
    let client = Selector::udp_port(None, 68);
    let mut checking = addresses(&["192.0.2.50", "0.0.0.0"]);
    checking.push(client);
    let bound = [Selector::address(OFFERED.into()), client];
    assert_eq!(world.said(), [vec![client], checking, bound.to_vec()]);

    let addresses = world.stack.addresses();
    assert_eq!(addresses.len(), 1);
    assert_eq!(addresses[0].net, "192.0.2.50/24".parse().unwrap());
    assert_eq!(addresses[0].origin, Origin::Dhcp);
    let routes: Vec<_> =
        world.stack.routes().iter().map(|r| (r.destination.to_string(), r.gateway)).collect();
    let want = [("192.0.2.0/24".into(), None), ("0.0.0.0/0".into(), Some(SERVER.into()))];
    assert_eq!(routes, want);
    let servers = ["192.0.2.1", "192.0.2.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
    assert_eq!(world.stack.dns_servers(), servers);
    assert_eq!(world.stack.search_domains(), ["home.test"]);
}

#[test]
fn the_named_mtu_is_that_of_new_connections() {
    let mut world = World::new(2);
    world.run(2 * SECOND, kind_server(3600));
    let _stream = TcpStream::start(&world.stack, SocketAddr::new(SERVER.into(), 80)).unwrap();
    let mut mss = None;
    for _ in 0..10 {
        world.shard.turn(world.now).unwrap();
        for (frame, _) in world.wire.recv() {
            if let Some(answer) = arp_answer(&frame) {
                world.wire.send(&answer);
            } else if frame[23] == wire::TCP {
                mss = Some(u16::from_be_bytes([frame[56], frame[57]]));
            }
        }
    }
    assert_eq!(mss, Some(1400 - 40));
}

#[test]
fn an_answer_to_the_offered_address_and_classless_routes_are_taken() {
    let mut world = World::new(3);
    let mut routes = options(3600);
    // 198.51.100.0/24 on the link, everything else by way of 192.0.2.7; routers do not count then.
    routes.extend_from_slice(&[121, 13, 24, 198, 51, 100, 0, 0, 0, 0, 0, 192, 0, 2, 7]);
    world.run(2 * SECOND, |message| match message.kind {
        DISCOVER => vec![message.answer(OFFER, &routes, OFFERED.into())],
        _ => vec![message.answer(ACK, &routes, OFFERED.into())],
    });
    let table: Vec<_> = world
        .stack
        .routes()
        .iter()
        .map(|r| (r.destination.to_string(), r.gateway.map(|ip| ip.to_string())))
        .collect();
    let gateway = Some("192.0.2.7".to_owned());
    assert!(table.contains(&("0.0.0.0/0".to_owned(), gateway)), "{table:?}");
    assert!(table.contains(&("198.51.100.0/24".to_owned(), None)), "{table:?}");
    assert_eq!(table.len(), 3);
}

#[test]
fn silence_is_answered_with_longer_and_longer_waits() {
    let mut world = World::new(4);
    world.run(300 * SECOND, silent);
    let times: Vec<f64> =
        world.messages.iter().map(|(at, _)| at.as_micros() as f64 / 1e6).collect();
    let waits: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, want) in waits.iter().zip([4.0, 8.0, 16.0, 32.0, 64.0, 64.0]) {
        assert!((wait - want).abs() <= 1.01, "{waits:?}");
    }
    assert!(waits.len() >= 6 && world.kinds().iter().all(|kind| *kind == DISCOVER));
    // It is never too late.
    world.run(70 * SECOND, kind_server(3600));
    assert!(world.is_configured());
}

#[test]
fn an_offer_that_is_not_kept_is_forgotten() {
    let mut world = World::new(5);
    world.run(120 * SECOND, |message| match message.kind {
        DISCOVER => vec![message.answer(OFFER, &options(3600), everybody())],
        _ => vec![],
    });
    let kinds = world.kinds();
    assert_eq!(kinds[..6], [DISCOVER, REQUEST, REQUEST, REQUEST, REQUEST, DISCOVER], "{kinds:?}");
}

#[test]
fn a_lease_is_renewed_then_rebound_then_lost() {
    let mut world = World::new(6);
    world.run(2 * SECOND, kind_server(3600));
    world.run(1900 * SECOND, kind_server(3600));
    assert_eq!(world.kinds(), [DISCOVER, REQUEST, REQUEST]);
    let (at, renewal) = &world.messages[2];
    assert!(at.as_micros().abs_diff(1_800_000_000) < 1_000_000, "T1 is half of the time: {at}");
    assert_eq!((renewal.src, renewal.dst), (OFFERED.into(), SERVER.into()));
    assert_eq!((renewal.client_ip, renewal.requested, renewal.server), (OFFERED, None, None));

    // The server is gone: first it is asked alone, then everybody is, then the address goes.
    let renewed = *at;
    world.messages.clear();
    world.run(3490 * SECOND, silent);
    assert!(world.is_configured());
    let to_server = world.messages.iter().filter(|(_, m)| m.dst == IpAddr::from(SERVER)).count();
    let to_all = world.messages.iter().filter(|(_, m)| m.dst == everybody()).count();
    assert!(to_server >= 3 && to_all >= 2, "{to_server} {to_all}");
    let rebound = world.messages.iter().find(|(_, m)| m.dst == everybody()).unwrap();
    let t2 = renewed + Duration::from_secs(3150);
    assert!(rebound.0 >= t2 && rebound.0 < t2 + SECOND);
    assert_eq!(rebound.1.client_ip, OFFERED);
    world.run(200 * SECOND, silent);
    assert!(!world.is_configured() && world.stack.addresses().is_empty());
    assert!(world.stack.routes().is_empty() && world.stack.dns_servers().is_empty());
    assert_eq!(world.messages.last().unwrap().1.kind, DISCOVER);
}

#[test]
fn a_refusal_starts_the_search_again() {
    let mut world = World::new(7);
    let mut refusals = 0;
    world.run(10 * SECOND, |message| match message.kind {
        REQUEST if refusals == 0 => {
            refusals += 1;
            vec![message.answer(NAK, &[], everybody())]
        }
        _ => kind_server(3600)(message),
    });
    assert_eq!(world.kinds(), [DISCOVER, REQUEST, DISCOVER, REQUEST]);
    assert!(world.is_configured());
    // And so does one in the middle of a lease.
    world.messages.clear();
    world.run(1900 * SECOND, |message| match message.kind {
        REQUEST if message.server.is_none() => vec![message.answer(NAK, &[], everybody())],
        _ => kind_server(3600)(message),
    });
    assert_eq!(world.kinds(), [REQUEST, DISCOVER, REQUEST]);
}

#[test]
fn an_address_that_somebody_has_is_declined() {
    // Once it asks for it itself, once it answers a probe.
    for claim in [World::claim, World::answer_probe] {
        let mut world = World::new(8);
        world.run(Duration::from_millis(200), kind_server(3600));
        claim(&mut world);
        world.run(5 * SECOND, kind_server(3600));
        assert_eq!(world.kinds(), [DISCOVER, REQUEST, DECLINE]);
        let decline = &world.messages[2].1;
        assert_eq!((decline.requested, decline.server), (Some(OFFERED), Some(SERVER)));
        assert!(!world.is_configured());
        world.run(10 * SECOND, kind_server(3600));
        assert!(world.is_configured(), "ten seconds later it tries again");
    }
}

#[test]
fn a_leased_address_is_defended_once() {
    let mut world = World::new(9);
    world.run(2 * SECOND, kind_server(3600));
    let announcements = world.arps.len();
    world.claim();
    world.run(SECOND, kind_server(3600));
    assert!(world.is_configured() && world.arps.len() == announcements + 1);
    world.claim();
    world.run(SECOND, kind_server(3600));
    assert!(!world.is_configured());
    assert_eq!(world.kinds().last(), Some(&DECLINE));
}

#[test]
fn a_lease_is_given_back() {
    let mut world = World::new(10);
    world.run(2 * SECOND, kind_server(3600));
    world.stack.release();
    world.run(SECOND, silent);
    let release = &world.messages.last().unwrap().1;
    assert_eq!((release.kind, release.client_ip), (RELEASE, OFFERED));
    assert_eq!(release.dst, IpAddr::from(SERVER));
    assert!(world.stack.addresses().is_empty());
    world.run(10_000 * SECOND, silent);
    assert_eq!(world.kinds(), [DISCOVER, REQUEST, RELEASE]);
    assert_eq!(world.said().last(), Some(&vec![]));

    // And without one nothing is listened for either.
    let mut world = World::new(10);
    world.run(SECOND, silent);
    world.stack.release();
    world.run(SECOND, silent);
    assert_eq!(world.said().last(), Some(&vec![]));
}

#[test]
fn what_is_not_for_this_client_changes_nothing() {
    let mut world = World::new(11);
    world.run(SECOND, |message| {
        let mut other = message.clone();
        other.xid[0] ^= 1;
        let mut damaged = message.answer(OFFER, &options(3600), everybody());
        damaged.truncate(60);
        let short = message.answer(ACK, &options(3600), everybody());
        vec![other.answer(OFFER, &options(3600), everybody()), damaged, short]
    });
    assert!(!world.is_configured());
    assert_eq!(world.kinds(), [DISCOVER]);
    let drops = world.stack.stats().drops;
    assert_eq!(drops[DropReason::DhcpIgnored], 2, "another transaction, an unasked ACK");
    assert_eq!(drops[DropReason::MalformedIp], 1);
    // An acknowledgement without a lease time is none.
    world.run(60 * SECOND, |message| match message.kind {
        DISCOVER => vec![message.answer(OFFER, &options(3600), everybody())],
        _ => vec![message.answer(ACK, &[1, 4, 255, 255, 255, 0], everybody())],
    });
    assert!(!world.is_configured());
    assert!(world.stack.stats().drops[DropReason::MalformedDhcp] > 0);
}

#[test]
fn sockets_wait_for_an_address_and_then_work() {
    let mut world = World::new(12);
    let socket = UdpSocket::bind(&world.stack, "0.0.0.0:7".parse().unwrap()).unwrap();
    let server = SocketAddr::new(SERVER.into(), 7);
    assert!(socket.send_to(b"early", server).is_err());
    world.run(2 * SECOND, kind_server(3600));
    socket.send_to(b"now", server).unwrap();
}
