//! One stack on two links, and addresses and routes that change while it runs.

mod common;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Waker};
use std::time::Duration;

use common::Flow;
use common::net::Net;
use underpass::devices::{LinkConfig, SimDevice, SimLink};
use underpass::{
    AddressError, AddressState, BuildError, DropReason, Interface, Route, Stack, TcpListener,
    TcpStream, UdpSocket,
};

const SECOND: Duration = Duration::from_secs(1);

/// `middle` is 10.0.0.1 on a link with segmentation and an MTU of 9000, and 10.1.0.1 on a plain one
/// of 1500; `left` is 10.0.0.2, `right` 10.1.0.2.
struct World {
    net: Net,
    left: Stack,
    middle: Stack,
    right: Stack,
}

fn host(address: &str, gateway: Option<&str>, device: SimDevice, net: &mut Net) -> Stack {
    let mut builder = Stack::builder().address(address.parse().unwrap()).seed(3);
    if let Some(gateway) = gateway {
        builder = builder.gateway(gateway.parse().unwrap());
    }
    let (stack, shard) = builder.build_shard(device).unwrap();
    net.shards.push(shard);
    stack
}

impl World {
    fn new() -> Self {
        let mut net = Net::default();
        let fast = LinkConfig { seed: 1, mtu: 9000, offloads: true, ..LinkConfig::default() };
        let slow = LinkConfig {
            seed: 2,
            delay: Duration::from_millis(2),
            loss: 0.005,
            ..LinkConfig::default()
        };
        let (left_device, middle_0, left_link) = SimLink::pair(fast);
        let (right_device, middle_1, right_link) = SimLink::pair(slow);
        let left = host("10.0.0.2/24", Some("10.0.0.1"), left_device, &mut net);
        let right = host("10.1.0.2/24", Some("10.1.0.1"), right_device, &mut net);
        let (middle, shard) = Stack::builder()
            .seed(4)
            .build_shard_all([
                Interface::new(middle_0).address("10.0.0.1/24".parse().unwrap()),
                Interface::new(middle_1).address("10.1.0.1/24".parse().unwrap()),
            ])
            .unwrap();
        net.shards.push(shard);
        net.links.extend([left_link, right_link]);
        Self { net, left, middle, right }
    }

    /// Sends `len` bytes from one stack to an address of another.
    fn transfer(&mut self, from: &Stack, to: &Stack, address: &str, len: usize) -> TcpStream {
        let address: SocketAddr = address.parse().unwrap();
        let listener = TcpListener::bind(to, address).unwrap();
        listener.set_nonblocking(true);
        let near = TcpStream::start(from, address).unwrap();
        near.set_nonblocking(true);
        let mut far = None;
        self.net.run_until("accept", 60 * SECOND, || {
            far = listener.accept().ok().map(|(far, _)| far);
            far.is_some()
        });
        let far = far.unwrap();
        far.set_nonblocking(true);
        let mut flow = Flow::new(&near, &far, len, 1);
        self.net.run_until("transfer", 600 * SECOND, || flow.pump());
        assert!(flow.finished, "{:?}", flow.error);
        far
    }
}

#[test]
fn each_interface_is_used_for_its_own_network_with_its_own_segment_size() {
    let mut world = World::new();
    let [left, middle, right] = [&world.left, &world.middle, &world.right].map(Clone::clone);
    world.transfer(&middle, &left, "10.0.0.2:80", 1_000_000);
    world.transfer(&middle, &right, "10.1.0.2:80", 300_000);
    world.transfer(&left, &middle, "10.0.0.1:80", 1_000_000);
    world.transfer(&right, &middle, "10.1.0.1:81", 300_000);
    assert_eq!(middle.stats().drops[DropReason::TxUnsupported], 0);
    assert_eq!(middle.stats().reassembled, 0);
}

#[test]
fn an_address_is_answered_on_every_interface() {
    let mut world = World::new();
    let [left, middle] = [&world.left, &world.middle].map(Clone::clone);
    // The address of the middle's other interface.
    let far = world.transfer(&left, &middle, "10.1.0.1:80", 100_000);
    assert_eq!(far.local_addr().ip().to_string(), "10.1.0.1");
}

#[test]
fn a_connection_made_for_superframes_survives_a_route_to_a_plain_link() {
    let mut world = World::new();
    let middle = world.middle.clone();
    // 10.2.0.2 is the left at first, then moves to the right.
    let moving: IpAddr = "10.2.0.2".parse().unwrap();
    let route = |interface, gateway: &str| {
        Route::new("10.2.0.0/24".parse().unwrap(), interface, Some(gateway.parse().unwrap()))
    };
    middle.add_route(route(0, "10.0.0.2")).unwrap();
    world.left.add_address(0, "10.2.0.2/32".parse().unwrap()).unwrap();
    let listener = TcpListener::bind(&world.left, SocketAddr::new(moving, 80)).unwrap();
    listener.set_nonblocking(true);
    let near = TcpStream::start(&middle, SocketAddr::new(moving, 80)).unwrap();
    near.set_nonblocking(true);
    let mut far = None;
    world.net.run_until("accept", SECOND, || {
        far = listener.accept().ok();
        far.is_some()
    });
    middle.remove_route(&route(0, "10.0.0.2")).unwrap();
    middle.add_route(route(1, "10.1.0.2")).unwrap();
    let data = vec![7; 60_000];
    io::Write::write_all(&mut &near, &data).unwrap();
    let before = middle.stats();
    world.net.run_for(SECOND);
    // The right has no such address, but what comes to it fits its link.
    let lost = world.right.stats().drops[DropReason::OtherHost];
    assert!(lost >= 1, "nothing came to the right: {} / {}", world.right.stats(), middle.stats());
    assert_eq!(middle.stats().drops, before.drops);
}

#[test]
fn addresses_come_and_go_while_sockets_are_open() {
    let mut world = World::new();
    let [left, middle] = [&world.left, &world.middle].map(Clone::clone);
    let anywhere = UdpSocket::bind(&middle, "0.0.0.0:7".parse().unwrap()).unwrap();
    anywhere.set_nonblocking(true);
    let new: SocketAddr = "10.0.0.77:7".parse().unwrap();
    assert!(UdpSocket::bind(&middle, new).is_err());
    middle.add_address(0, "10.0.0.77/24".parse().unwrap()).unwrap();
    assert!(UdpSocket::bind(&middle, new).is_ok());

    let peer = UdpSocket::bind(&left, "0.0.0.0:9".parse().unwrap()).unwrap();
    let mut buffer = [0; 16];
    let mut heard = |world: &mut World| {
        peer.send_to(b"hello", new).unwrap();
        world.net.run_for(4 * SECOND);
        anywhere.recv_from(&mut buffer).is_ok()
    };
    assert!(heard(&mut world));
    middle.remove_address(new.ip()).unwrap();
    assert!(!heard(&mut world));
    assert_eq!(middle.remove_address(new.ip()), Err(AddressError::NotThere));
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let world = World::new();
    let net = |text: &str| text.parse().unwrap();
    assert_eq!(world.middle.add_address(2, net("10.5.0.1/24")), Err(AddressError::NoInterface(2)));
    assert!(matches!(
        world.middle.add_address(0, net("10.5.0.255/24")),
        Err(AddressError::BadAddress(_))
    ));
    assert_eq!(
        world.middle.add_address(0, net("10.1.0.1/24")),
        Err(AddressError::Duplicate("10.1.0.1".parse().unwrap()))
    );
    let gateway = "10.1.0.2".parse().unwrap();
    let route = Route::new(net("10.9.0.0/16"), 0, Some(gateway));
    assert_eq!(world.middle.add_route(route), Err(AddressError::GatewayNotOnLink(gateway)));
    for n in 0..100 {
        let _ = world.left.add_address(0, net(&format!("10.0.1.{n}/32")));
    }
    assert_eq!(world.left.add_address(0, net("10.0.2.1/32")), Err(AddressError::Full));

    let (a, b, _link) = SimLink::pair(LinkConfig::default());
    let both = Interface::with_queues([a, b]).address(net("10.0.0.1/24"));
    assert!(matches!(
        Stack::builder().build_shard_all([both]).err(),
        Some(BuildError::Queues { interface: 0, queues: 2, .. })
    ));
    let none: [Interface<SimDevice>; 0] = [];
    let refused = Stack::builder().build_shard_all(none).err();
    assert!(matches!(refused, Some(BuildError::Interfaces(0))));
}

#[test]
fn a_stack_with_an_address_is_configured() {
    let world = World::new();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(world.middle.poll_configured(&mut cx).is_ready());
    world.middle.wait_configured(SECOND).unwrap();
    assert!(world.middle.addresses().iter().all(|a| a.state == AddressState::Preferred));
    assert_eq!(world.middle.addresses().iter().map(|a| a.interface).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(world.middle.routes().len(), 2);
}
