//! Addresses from router advertisements, and duplicate address detection, in virtual time.

mod sharing;
mod wire;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sharing::Sharing;
use underpass::devices::{Instant, MacAddr, MemoryConfig, MemoryDevice, Selector};
use underpass::{Address, AddressState, DropReason, Shard, Stack, UdpSocket};
use wire::{ICMPV6, IPV6, Wire};

const SECOND: Duration = Duration::from_secs(1);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const SOLICIT_ROUTERS: u8 = 133;
const SOLICIT: u8 = 135;

struct World {
    now: Instant,
    stack: Stack,
    shard: Shard<Sharing<MemoryDevice>>,
    wire: Wire,
    /// What it sent of ICMPv6: when, type, source, and the target of a solicitation.
    sent: Vec<(Instant, u8, Ipv6Addr, Option<Ipv6Addr>)>,
    link_local: Ipv6Addr,
    global: Ipv6Addr,
}

impl World {
    fn new() -> Self {
        let config = MemoryConfig::default();
        let [a, b, c, d, e, f] = config.macs[0].0.map(u16::from);
        let id = [(a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f];
        let (device, wire) = MemoryDevice::pair(config);
        let (stack, shard) =
            Stack::builder().slaac(true).seed(1).build_shard(Sharing::new(device)).unwrap();
        let mut world = Self {
            now: Instant::ZERO,
            stack,
            shard,
            wire: Wire(wire),
            sent: Vec::new(),
            link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, id[0], id[1], id[2], id[3]),
            global: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, id[0], id[1], id[2], id[3]),
        };
        // Nothing is heard before it has said what it wants.
        world.run(Duration::ZERO);
        world
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let turn = self.shard.turn(self.now).unwrap();
            for (frame, _) in self.wire.recv() {
                if wire::ether_type(&frame) == IPV6 && frame[20] == ICMPV6 {
                    let ip = |at: usize| {
                        Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap())
                    };
                    let target = (frame[54] == SOLICIT).then(|| ip(62));
                    self.sent.push((self.now, frame[54], ip(22), target));
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

    fn advertise(&mut self, lifetime: u16, options: &[u8]) {
        let [high, low] = lifetime.to_be_bytes();
        let head = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        self.hear(ROUTER.into(), ALL_NODES.into(), &[&head, options].concat());
    }

    fn hear(&mut self, src: IpAddr, dst: IpAddr, message: &[u8]) {
        let mac = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
        self.wire.send(&wire::ip_frame((mac, ROUTER_MAC), (src, dst), ICMPV6, message));
    }

    fn state(&self, ip: Ipv6Addr) -> Option<AddressState> {
        let addresses: Vec<Address> = self.stack.addresses();
        addresses.iter().find(|a| a.net.addr() == IpAddr::V6(ip)).map(|a| a.state)
    }

    fn gateways(&self) -> Vec<IpAddr> {
        self.stack.routes().iter().filter_map(|route| route.gateway).collect()
    }
}

/// 2001:db8::/64, on the link and for addresses.
fn prefix(valid: u32, preferred: u32) -> Vec<u8> {
    let mut option = vec![3, 4, 64, 0xc0];
    option.extend_from_slice(&valid.to_be_bytes());
    option.extend_from_slice(&preferred.to_be_bytes());
    option
        .extend_from_slice(&[0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    option
}

#[test]
fn a_router_gives_an_address_a_route_and_dns_servers() {
    let mut world = World::new();
    world.run(Duration::from_millis(500));
    assert_eq!(world.state(world.link_local), Some(AddressState::Tentative));
    world.run(SECOND);
    assert_eq!(world.state(world.link_local), Some(AddressState::Preferred));
    let nobody = Ipv6Addr::UNSPECIFIED;
    assert!(world.sent.iter().any(|(_, kind, src, target)| {
        (*kind, *src, *target) == (SOLICIT, nobody, Some(world.link_local))
    }));
    assert!(world.sent.iter().any(|(_, kind, ..)| *kind == SOLICIT_ROUTERS));

    let mut options = prefix(86_400, 14_400);
    options.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 9, 5, 1, 0, 0, 0, 0, 5, 120]);
    options.extend_from_slice(&[25, 3, 0, 0, 0, 0, 14, 16]);
    options.extend_from_slice(&"2001:db8::53".parse::<Ipv6Addr>().unwrap().octets());
    world.advertise(1800, &options);
    world.run(Duration::from_millis(500));
    assert_eq!(world.state(world.global), Some(AddressState::Tentative));
    let early: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
    let socket = UdpSocket::bind(&world.stack, "[::]:7".parse().unwrap()).unwrap();
    assert!(socket.send_to(b"x", early).is_err(), "no address may be used yet");
    world.run(SECOND);
    assert_eq!(world.state(world.global), Some(AddressState::Preferred));
    socket.send_to(b"x", early).unwrap();
    assert_eq!(world.gateways(), [IpAddr::V6(ROUTER)]);
    let own = [world.link_local, world.global].map(|ip| Selector::address(ip.into()));
    let routers = sharing::to_everybody(ICMPV6);
    // Tentative addresses as well, and nothing anew when they are any more.
    let said = world.shard.devices()[0].said();
    let expected = [vec![routers], vec![own[0], routers], vec![own[0], own[1], routers]];
    assert_eq!(said, expected);
    assert_eq!(world.stack.dns_servers(), ["2001:db8::53".parse::<IpAddr>().unwrap()]);

    // Nobody asks any more; everything ends with its time.
    world.sent.clear();
    world.run(1801 * SECOND);
    assert!(world.sent.iter().all(|(_, kind, ..)| *kind != SOLICIT_ROUTERS));
    assert!(world.gateways().is_empty());
    world.run(14_400 * SECOND);
    assert_eq!(world.state(world.global), Some(AddressState::Deprecated));
    assert!(world.stack.dns_servers().is_empty());
    world.run(86_400 * SECOND);
    assert_eq!(world.state(world.global), None);
    assert!(world.stack.routes().iter().all(|route| route.destination.to_string() == "fe80::/64"));
}

#[test]
fn an_address_that_somebody_has_is_not_used() {
    // Once by its owner's answer, once by somebody who asks at the same time.
    for both_ask in [false, true] {
        let mut world = World::new();
        world.run(Duration::from_millis(500));
        let own = world.link_local;
        if both_ask {
            let question = wire::ndp(135, 0, own.into(), ROUTER_MAC)[..24].to_vec();
            let [.., a, b, c] = own.octets();
            let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
            world.hear(Ipv6Addr::UNSPECIFIED.into(), group.into(), &question);
        } else {
            let answer = wire::ndp(136, 0x20, own.into(), ROUTER_MAC);
            world.hear(own.into(), ALL_NODES.into(), &answer);
        }
        world.run(3 * SECOND);
        assert_eq!(world.state(own), None, "both ask: {both_ask}");
        assert_eq!(world.stack.stats().address_conflicts, 1);
    }
}

#[test]
fn routers_are_asked_less_and_less_often() {
    let mut world = World::new();
    world.run(600 * SECOND);
    let times: Vec<f64> = world
        .sent
        .iter()
        .filter(|(_, kind, ..)| *kind == SOLICIT_ROUTERS)
        .map(|(at, ..)| at.as_micros() as f64 / 1e6)
        .collect();
    let waits: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, want) in waits.iter().zip([4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]) {
        assert!((wait - want).abs() < 0.2, "{waits:?}");
    }
    assert!(waits.len() >= 7);
}

#[test]
fn forged_advertisements_cannot_take_addresses_away_nor_fill_tables() {
    let mut world = World::new();
    world.advertise(1800, &prefix(86_400, 14_400));
    world.run(2 * SECOND);
    assert_eq!(world.state(world.global), Some(AddressState::Preferred));
    // Two hours are left at least (RFC 4862 §5.5.3 e).
    world.advertise(1800, &prefix(1, 1));
    world.run(7000 * SECOND);
    assert!(world.state(world.global).is_some());
    world.run(300 * SECOND);
    assert_eq!(world.state(world.global), None);

    let mut options = Vec::new();
    for n in 0..100_u8 {
        let mut option = prefix(86_400, 14_400);
        option[23] = n;
        options.extend(option);
        if options.len() >= 1000 {
            world.advertise(1800, &options);
            options.clear();
            world.run(SECOND);
        }
    }
    world.run(2 * SECOND);
    assert!(world.stack.addresses().len() <= 17, "{}", world.stack.addresses().len());
    assert!(world.stack.routes().len() <= 40);

    let malformed = world.stack.stats().drops[DropReason::MalformedNdp];
    let head = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let far: Ipv6Addr = "2001:db8::bad".parse().unwrap();
    world.hear(far.into(), ALL_NODES.into(), &head);
    world.run(SECOND);
    assert_eq!(world.stack.stats().drops[DropReason::MalformedNdp], malformed + 1);
}
