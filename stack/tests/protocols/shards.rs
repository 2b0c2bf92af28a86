//! Several shards: whatever queue a frame comes to, it reaches the protocol.

use proptest::prelude::*;
use underpass::devices::{Instant, LinkConfig, MacAddr, Selector, SimLink, VlanId};
use underpass::{AttachError, DropReason, Interface, Shard, Stack, UdpSocket};

use super::chatter::Chatter;
use super::scatter::{Choice, Scatter, scatter};
use super::{EXPERIMENT, host, port, station};

struct World {
    stacks: [Stack; 2],
    shards: Vec<Shard<Scatter>>,
}

impl World {
    fn new(seed: u64, queues: usize) -> Self {
        let (a, b, _) = SimLink::pair(LinkConfig { seed, ..LinkConfig::default() });
        let mut shards = Vec::new();
        let mut build = |device, n: u64| {
            let (devices, _) = scatter(device, queues, Choice::Random(seed ^ n));
            let address = format!("10.0.0.{n}/24").parse().unwrap();
            let interface = Interface::with_queues(devices).address(address);
            let (stack, of_it) = Stack::builder().seed(n).build_shards([interface]).unwrap();
            shards.extend(of_it);
            stack
        };
        Self { stacks: [build(a, 1), build(b, 2)], shards }
    }

    fn run(&mut self) {
        for _ in 0..100 {
            for shard in &mut self.shards {
                shard.turn(Instant::ZERO).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_frame_reaches_the_protocol(seed: u64, queues in 2..5_usize) {
        const FRAMES: u8 = 40;
        let mut world = World::new(seed, queues);
        let vlan = VlanId::new(7).unwrap();
        let everybody = station(MacAddr::BROADCAST);
        for (selector, to) in [
            (Selector::EtherType(EXPERIMENT), everybody),
            (Selector::Tagged(vlan, EXPERIMENT), everybody),
            (Selector::ip_protocol(None, 253), host("10.0.0.2")),
            (Selector::udp_port(None, 40_000), port("10.0.0.2", 40_000)),
        ] {
            let [left, right] = &world.stacks;
            let sender = left.attach(selector, Chatter::default()).unwrap();
            let receiver = right.attach(selector, Chatter::echo()).unwrap();
            sender.with(|sender| (0..FRAMES).for_each(|n| sender.say(to, &[n])));
            world.run();
            for handle in [&receiver, &sender] {
                let received = handle.with(|chatter| std::mem::take(&mut chatter.received));
                let mut all: Vec<u8> = received.iter().map(|received| received.payload[0]).collect();
                all.sort_unstable();
                prop_assert!(all == (0..FRAMES).collect::<Vec<_>>(), "{:?}: {:?}", selector, all);
            }
            drop((sender, receiver));
            // Nobody is there: dropped where it arrives.
            let sender = world.stacks[0].attach(selector, Chatter::default()).unwrap();
            sender.with(|sender| sender.say(to, &[0]));
            world.run();
        }
        let stats = world.stacks[1].stats();
        prop_assert!(stats.handed_over > 0);
        let drops = &stats.drops;
        prop_assert_eq!(drops[DropReason::UnknownEtherType], 2);
        prop_assert_eq!(drops[DropReason::UnknownProtocol] + drops[DropReason::UdpClosedPort], 2);
        prop_assert_eq!(drops.total(), 4, "{:?}", drops);
    }
}

#[test]
fn a_port_belongs_to_one_shard() {
    let world = World::new(1, 3);
    let stack = &world.stacks[0];
    for shard in 0..3 {
        let stack = stack.on_shard(shard).unwrap();
        let address = "10.0.0.1:7".parse().unwrap();
        let selector = Selector::udp_port(None, 7);
        let socket = UdpSocket::bind(&stack, address).unwrap();
        let refused = stack.attach(selector, Chatter::default()).unwrap_err();
        assert_eq!(refused, AttachError::Taken(selector));
        drop(socket);
        let handle = stack.attach(selector, Chatter::default()).unwrap();
        assert!(UdpSocket::bind(&stack, address).is_err());
        drop(handle);
        UdpSocket::bind(&stack, address).unwrap();
    }
}
