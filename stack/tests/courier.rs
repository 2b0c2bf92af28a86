//! The courier on two stacks: over UDP, over IP and over Ethernet alone.

mod common;

use std::time::Duration;

use common::World;
use underpass::devices::{Device, LinkConfig, MacAddr, Selector};
use underpass::protocols::Peer;
use underpass::protocols::courier::{Attached, Config, Event, Failure};
use underpass::{Limits, ProtocolHandle, Stack};

const SELECTORS: [Selector; 3] =
    [Selector::udp_port(None, 9000), Selector::ip_protocol(None, 253), Selector::EtherType(0x88b5)];

/// The right station, as the selector names it.
fn right(selector: Selector, mac: MacAddr) -> Peer {
    let ip: std::net::IpAddr = common::RIGHT.parse().unwrap();
    match selector {
        Selector::EtherType(_) => Peer::Station { interface: 0, address: mac },
        selector if selector == SELECTORS[0] => Peer::Port((ip, 9000).into()),
        _ => Peer::Host(ip),
    }
}

struct Couriers {
    left: ProtocolHandle<Attached>,
    right: ProtocolHandle<Attached>,
    to: Peer,
}

impl Couriers {
    fn new(world: &World, selector: Selector) -> Self {
        let attach = |stack: &Stack, secret: u8| {
            stack.attach(selector, Attached::new(Config::default(), [secret; 16])).unwrap()
        };
        Self {
            left: attach(&world.left, 1),
            right: attach(&world.right, 2),
            to: right(selector, world.shards[1].devices()[0].caps().mac),
        }
    }

    /// Answers every request with its own body.
    fn serve(&self) {
        self.right.with(|courier| {
            while let Some(event) = courier.poll_event() {
                if let Event::Request { call, body, .. } = event {
                    courier.respond(call, body).unwrap();
                }
            }
        });
    }

    /// Asks, and waits for the end of it.
    fn call(&self, world: &mut World, body: &[u8]) -> Event<Peer> {
        self.left.with(|courier| courier.send_request(self.to, body.to_vec()).unwrap());
        let mut event = None;
        world.run_until("an answer", Duration::from_secs(60), || {
            self.serve();
            event = self.left.with(|courier| courier.poll_event());
            event.is_some()
        });
        event.unwrap()
    }
}

fn body_of(event: Event<Peer>) -> Vec<u8> {
    match event {
        Event::Response { body, .. } => body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_answered_in_every_kind_of_frame() {
    for selector in SELECTORS {
        let mut world = World::new(LinkConfig::default(), &Limits::default());
        let couriers = Couriers::new(&world, selector);
        for len in [0, 1, 64, 1400, 20_000] {
            let body: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
            let answer = couriers.call(&mut world, &body);
            assert_eq!(body_of(answer), body, "{selector:?}, {len}");
        }
    }
}

/// Nobody knows the time while both stacks sleep: a call must not seem to be as old as their sleep.
#[test]
fn a_call_after_an_hour_of_silence_is_young() {
    for selector in SELECTORS {
        let mut world = World::new(LinkConfig::default(), &Limits::default());
        let couriers = Couriers::new(&world, selector);
        for _ in 0..3 {
            world.run_for(Duration::from_secs(3600));
            assert_eq!(body_of(couriers.call(&mut world, b"good morning")), b"good morning");
            assert_eq!(couriers.left.with(|courier| courier.counters().timeouts), 0);
        }
    }
}

#[test]
fn a_lossy_link_loses_no_call() {
    let link = LinkConfig { loss: 0.05, duplicate: 0.02, corrupt: 0.02, ..LinkConfig::default() };
    let mut world = World::new(link, &Limits::default());
    let couriers = Couriers::new(&world, SELECTORS[0]);
    for n in 0..300_u32 {
        let body = n.to_be_bytes();
        assert_eq!(body_of(couriers.call(&mut world, &body)), body);
    }
}

#[test]
fn a_silent_peer_is_told() {
    let mut world = World::new(LinkConfig::default(), &Limits::default());
    let couriers = Couriers::new(&world, SELECTORS[0]);
    body_of(couriers.call(&mut world, b"there?"));
    world.links[0].set_loss(1.0);
    let event = couriers.call(&mut world, b"still there?");
    assert!(matches!(event, Event::Failed { why: Failure::Silent, .. }), "{event:?}");
}
