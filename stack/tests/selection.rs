//! What stacks select of devices that share their interface with the kernel, in virtual time.
//! Configuration by the network is tested with the rest of it, in `dhcp` and `slaac`.

mod common;
mod sharing;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant as Clock};

use common::Flow;
use sharing::{Sharing, addresses, to_everybody};
use underpass::devices::{Device, Instant, MacAddr, MemoryConfig, MemoryDevice, Selector};
use underpass::{Interface, Route, Shard, Stack, TcpListener, TcpStream, UdpSocket};
use wire::{ARP, ICMPV6, Wire};

const IGMP: u8 = 2;
const LINK_LOCAL: &str = "fe80::ff:fe00:1";

fn turn<D: Device>(shard: &mut Shard<D>) {
    while shard.turn(Instant::ZERO).unwrap().busy {}
}

/// 10.0.0.1 and fd00::1.
fn stack() -> (Stack, Shard<Sharing<MemoryDevice>>, Wire) {
    let (device, wire) = MemoryDevice::pair(MemoryConfig::default());
    let (stack, shard) = Stack::builder()
        .address("10.0.0.1/24".parse().unwrap())
        .address("fd00::1/64".parse().unwrap())
        .seed(1)
        .build_shard(Sharing::new(device))
        .unwrap();
    (stack, shard, Wire(wire))
}

/// The addresses of [`stack`], and more.
fn own(more: &[&str]) -> Vec<Selector> {
    addresses(&[&["10.0.0.1", "fd00::1", LINK_LOCAL], more].concat())
}

#[test]
fn addresses_that_come_and_go() {
    let (stack, mut shard, _wire) = stack();
    turn(&mut shard);
    assert_eq!(shard.devices()[0].said(), [own(&[])]);
    stack.add_address(0, "10.9.0.1/24".parse().unwrap()).unwrap();
    turn(&mut shard);
    assert_eq!(shard.devices()[0].wanted(), own(&["10.9.0.1"]));
    stack.remove_address("10.9.0.1".parse().unwrap()).unwrap();
    turn(&mut shard);
    assert_eq!(shard.devices()[0].wanted(), own(&[]));
    assert_eq!(shard.devices()[0].said().len(), 3);

    // Nothing that changes nothing is said.
    let gateway = Some("10.0.0.9".parse().unwrap());
    stack.add_route(Route::new("10.1.0.0/16".parse().unwrap(), 0, gateway)).unwrap();
    stack.add_address(0, "10.9.0.1/24".parse().unwrap()).unwrap();
    stack.remove_address("10.9.0.1".parse().unwrap()).unwrap();
    turn(&mut shard);
    let mut now = Instant::ZERO;
    while let Some(next) = shard.turn(now).unwrap().next.filter(|at| at.as_micros() < 3_600_000_000)
    {
        now = next.max(now + Duration::from_nanos(1));
    }
    assert_eq!(shard.devices()[0].said().len(), 3);
}

#[test]
fn groups_that_sockets_have_joined() {
    let (stack, mut shard, _wire) = stack();
    let [one, two] = [7, 8]
        .map(|port| UdpSocket::bind(&stack, SocketAddr::new("::".parse().unwrap(), port)).unwrap());
    let [v4, v6]: [IpAddr; 2] = ["239.1.2.3", "ff05::7"].map(|group| group.parse().unwrap());
    one.join_multicast(v4, None).unwrap();
    turn(&mut shard);
    let mut wanted = own(&["239.1.2.3"]);
    wanted.push(to_everybody(IGMP));
    assert_eq!(shard.devices()[0].wanted(), wanted);

    two.join_multicast(v4, None).unwrap();
    one.join_multicast(v6, None).unwrap();
    turn(&mut shard);
    let mut wanted = own(&["239.1.2.3", "ff05::7"]);
    wanted.extend([to_everybody(IGMP), to_everybody(ICMPV6)]);
    assert_eq!(shard.devices()[0].wanted(), wanted);

    one.leave_multicast(v4, None).unwrap();
    turn(&mut shard);
    assert_eq!(shard.devices()[0].said().len(), 3, "the other one is still there");
    drop(two);
    one.leave_multicast(v6, None).unwrap();
    turn(&mut shard);
    assert_eq!(shard.devices()[0].wanted(), own(&[]));

    // A program that joins a group the stack is in anyway is heard as well.
    let solicited: IpAddr = "ff02::1:ff00:1".parse().unwrap();
    one.join_multicast(solicited, None).unwrap();
    turn(&mut shard);
    let mut wanted = own(&["ff02::1:ff00:1"]);
    wanted.push(to_everybody(ICMPV6));
    assert_eq!(shard.devices()[0].wanted(), wanted);
}

#[test]
fn every_interface_hears_all_addresses_and_its_own_groups() {
    let devices = [1, 2].map(|n| {
        let mac = MacAddr([2, 0, 0, 0, 0, n]);
        let config =
            MemoryConfig { macs: [mac, MacAddr([2, 0, 0, 0, 1, n])], ..Default::default() };
        MemoryDevice::pair(config)
    });
    let (mut interfaces, mut wires) = (Vec::new(), Vec::new());
    for (n, (device, wire)) in devices.into_iter().enumerate() {
        let address = format!("10.{n}.0.1/24").parse().unwrap();
        interfaces.push(Interface::new(Sharing::new(device)).address(address));
        wires.push(wire);
    }
    let (stack, mut shard) = Stack::builder().seed(1).build_shard_all(interfaces).unwrap();
    let socket = UdpSocket::bind(&stack, "0.0.0.0:7".parse().unwrap()).unwrap();
    turn(&mut shard);
    socket.join_multicast("239.1.2.3".parse().unwrap(), Some(1)).unwrap();
    turn(&mut shard);
    let both = ["10.0.0.1", "10.1.0.1"];
    assert_eq!(shard.devices()[0].said(), [addresses(&both)]);
    let mut wanted = addresses(&[both[0], both[1], "239.1.2.3"]);
    wanted.push(to_everybody(IGMP));
    assert_eq!(shard.devices()[1].said(), [addresses(&both), wanted]);
}

#[test]
fn the_first_shard_speaks_for_all() {
    let (queues, _far) = MemoryDevice::pair_queues(MemoryConfig::default(), 3);
    let interface = Interface::with_queues(queues.into_iter().map(Sharing::new))
        .address("10.0.0.1/24".parse().unwrap());
    let (stack, mut shards) = Stack::builder().seed(1).build_shards([interface]).unwrap();
    stack.add_address(0, "10.0.0.2/24".parse().unwrap()).unwrap();
    for shard in &mut shards {
        turn(shard);
    }
    let said: Vec<_> = shards.iter().map(|shard| shard.devices()[0].said()).collect();
    let first = vec![addresses(&["10.0.0.1"]), addresses(&["10.0.0.1", "10.0.0.2"])];
    assert_eq!(said, [first, vec![], vec![]]);
}

#[test]
fn what_a_device_cannot_select_ends_the_stack() {
    let (device, _wire) = MemoryDevice::pair(MemoryConfig::default());
    let (stack, mut shard) = Stack::builder()
        .address("10.0.0.1/24".parse().unwrap())
        .build_shard(Sharing::of_at_most(device, 1))
        .unwrap();
    turn(&mut shard);
    stack.add_address(0, "10.0.0.2/24".parse().unwrap()).unwrap();
    assert_eq!(shard.turn(Instant::ZERO).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    let error = TcpStream::start(&stack, "10.0.0.9:80".parse().unwrap()).err().unwrap();
    assert!(error.to_string().contains("too much is selected"), "{error}");
}

/// On a thread that sleeps: nothing else will ever wake it.
#[test]
fn a_change_by_another_thread_is_said_at_once() {
    let (device, _wire) = MemoryDevice::pair(MemoryConfig::default());
    let device = Sharing::new(device);
    let said = device.saying();
    let stack = Stack::builder().address("10.0.0.1/24".parse().unwrap()).build(device).unwrap();
    let wait_for = |count| {
        let start = Clock::now();
        while said.lock().unwrap().len() < count {
            assert!(start.elapsed() < Duration::from_secs(60), "{count}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_for(1);
    std::thread::sleep(Duration::from_millis(50));
    stack.add_address(0, "10.0.0.2/24".parse().unwrap()).unwrap();
    wait_for(2);
    stack.remove_address("10.0.0.2".parse().unwrap()).unwrap();
    wait_for(3);
    assert_eq!(said.lock().unwrap().last(), Some(&addresses(&["10.0.0.1"])));
}

#[test]
fn connections_need_no_more_than_what_is_selected() {
    let (near, far) = MemoryDevice::pair(MemoryConfig::default());
    let build = |device, n| {
        Stack::builder()
            .address(format!("10.0.0.{n}/24").parse().unwrap())
            .address(format!("fd00::{n}/64").parse().unwrap())
            .seed(n)
            .build_shard(Sharing::new(device))
            .unwrap()
    };
    let ((left, mut a), (right, mut b)) = (build(near, 1), build(far, 2));
    turn(&mut a);
    turn(&mut b);
    let mut now = Instant::ZERO;
    let mut both = |done: &mut dyn FnMut() -> bool| {
        while !done() {
            assert!(now < Instant::from_millis(600_000));
            let busy = a.turn(now).unwrap().busy | b.turn(now).unwrap().busy;
            now += if busy { Duration::ZERO } else { Duration::from_millis(1) };
        }
    };
    for to in ["10.0.0.2:80", "[fd00::2]:80"] {
        let to: SocketAddr = to.parse().unwrap();
        let listener = TcpListener::bind(&right, to).unwrap();
        listener.set_nonblocking(true);
        let near = TcpStream::start(&left, to).unwrap();
        near.set_nonblocking(true);
        let mut far = None;
        both(&mut || {
            far = listener.accept().ok();
            far.is_some()
        });
        let (far, _) = far.unwrap();
        far.set_nonblocking(true);
        let mut flow = Flow::new(&near, &far, 200_000, 1);
        both(&mut || flow.pump());
        assert!(flow.finished, "{:?}", flow.error);
    }
}

#[test]
fn what_is_for_the_kernel_is_left_to_it() {
    let (_stack, mut shard, mut wire) = stack();
    turn(&mut shard);
    // Reports of its groups.
    wire.recv();
    let (us, peer) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 9]));
    let arp = |target| wire::arp(1, (peer, [10, 0, 0, 9]), (MacAddr::default(), target));
    let udp = |to: &str| {
        let ends = ("10.0.0.9".parse().unwrap(), to.parse().unwrap());
        wire::ip_frame((us, peer), ends, wire::UDP, &[0, 9, 0, 7, 0, 8, 0, 0])
    };
    wire.send(&wire::ethernet(MacAddr::BROADCAST, peer, ARP, &arp([10, 0, 0, 7])));
    wire.send(&udp("10.0.0.7"));
    wire.send(&udp("255.255.255.255"));
    wire.send(&udp("10.0.0.255"));
    wire.send(&udp("224.0.0.1"));
    turn(&mut shard);
    assert_eq!((shard.devices()[0].left(), wire.recv().len()), (5, 0));
    wire.send(&wire::ethernet(MacAddr::BROADCAST, peer, ARP, &arp([10, 0, 0, 1])));
    wire.send(&udp("10.0.0.1"));
    turn(&mut shard);
    // The question is answered, and so is the datagram to a port that nobody has.
    assert_eq!(shard.devices()[0].left(), 5);
    assert!(wire.recv().len() >= 2);
}
