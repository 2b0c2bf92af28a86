//! Who may have what, and what the application's handle does.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use underpass::devices::{
    Instant, IpSelector, LinkConfig, MacAddr, MemoryConfig, MemoryDevice, Selector, VlanId,
};
use underpass::protocols::{Destination, Peer, SendError};
use underpass::{AttachError, DropReason, IpVersion, Limits, RawSocket, Stack, UdpSocket};

use super::chatter::Chatter;
use super::common::World;
use super::sharing::{Sharing, addresses};
use super::{EXPERIMENT, PATIENCE, host, ip, port, station, world};

fn refusal(stack: &Stack, selector: Selector) -> AttachError {
    stack.attach(selector, Chatter::default()).unwrap_err()
}

#[test]
fn what_the_stack_speaks_itself_is_refused() {
    let world = world();
    let stack = &world.left;
    let vlan = VlanId::new(7).unwrap();
    for selector in [
        Selector::EtherType(0x0800),
        Selector::EtherType(0x0806),
        Selector::EtherType(0x86dd),
        Selector::EtherType(0x8100),
        Selector::Tagged(vlan, 0x8100),
        Selector::ip_protocol(None, 0),
        Selector::ip_protocol(None, 1),
        Selector::ip_protocol(None, 6),
        Selector::ip_protocol(None, 17),
        Selector::ip_protocol(None, 58),
        Selector::tcp_port(None, 80),
        Selector::udp_port(None, 68),
        Selector::address(ip("10.0.0.1")),
        Selector::Ip(IpSelector::default()),
    ] {
        let error = refusal(stack, selector);
        assert_eq!(error, AttachError::Reserved(selector));
        assert!(error.to_string().ends_with("is what the stack itself speaks"), "{error}");
    }
    for selector in [
        Selector::EtherType(0x05dc),
        Selector::udp_port(None, 0),
        Selector::Ip(IpSelector { to: None, protocol: Some(132), port: Some(7) }),
    ] {
        assert_eq!(refusal(stack, selector), AttachError::Unsupported(selector));
    }
    let strange = ip("10.0.0.77");
    let selector = Selector::udp_port(Some(strange), 7);
    assert_eq!(refusal(stack, selector), AttachError::NotOurs(strange));
}

#[test]
fn a_selector_has_one_owner_at_a_time() {
    let world = world();
    let stack = &world.left;
    let (own, own_v6) = (Some(ip("10.0.0.1")), Some(ip("fd00::1")));
    let pairs = [
        (Selector::EtherType(EXPERIMENT), Selector::EtherType(EXPERIMENT)),
        (Selector::ip_protocol(None, 253), Selector::ip_protocol(own, 253)),
        (Selector::udp_port(own, 7), Selector::udp_port(None, 7)),
    ];
    for (first, second) in pairs {
        let handle = stack.attach(first, Chatter::default()).unwrap();
        assert_eq!(refusal(stack, second), AttachError::Taken(second));
        let clone = handle.clone();
        drop(handle);
        assert_eq!(refusal(stack, second), AttachError::Taken(second));
        drop(clone);
        stack.attach(second, Chatter::default()).unwrap();
    }
    let one = stack.attach(Selector::udp_port(own, 7), Chatter::default()).unwrap();
    let other = stack.attach(Selector::udp_port(own_v6, 7), Chatter::default()).unwrap();
    let bound = |stack: &Stack| UdpSocket::bind(stack, "[::]:7".parse().unwrap());
    assert_eq!(bound(stack).err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
    drop(other);
    assert_eq!(bound(stack).err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
    drop(one);
    let socket = bound(stack).unwrap();
    let selector = Selector::udp_port(own, 7);
    assert_eq!(refusal(stack, selector), AttachError::Taken(selector));
    drop(socket);
    stack.attach(selector, Chatter::default()).unwrap();
}

#[test]
fn there_is_a_limit() {
    let mut limits = Limits::default();
    limits.protocols = 2;
    let world = World::new(LinkConfig::default(), &limits);
    let attach = |n| world.left.attach(Selector::udp_port(None, n), Chatter::default());
    let handles = [attach(1).unwrap(), attach(2).unwrap()];
    assert_eq!(attach(3).unwrap_err(), AttachError::Full(2));
    drop(handles);
    attach(3).unwrap();
}

#[test]
fn devices_are_asked_for_what_is_attached() {
    let (device, _wire) = MemoryDevice::pair(MemoryConfig::default());
    let (stack, mut shard) = Stack::builder()
        .address("10.0.0.1/24".parse().unwrap())
        .address("10.9.0.1/24".parse().unwrap())
        .build_shard(Sharing::new(device))
        .unwrap();
    let mut wanted = |stack: &Stack| {
        let _ = stack.stats();
        while shard.turn(Instant::ZERO).unwrap().busy {}
        shard.devices()[0].wanted().to_vec()
    };
    let own = addresses(&["10.0.0.1", "10.9.0.1"]);
    assert_eq!(wanted(&stack), own);

    let tagged = Selector::Tagged(VlanId::new(7).unwrap(), EXPERIMENT);
    let of_one = Selector::udp_port(Some(ip("10.9.0.1")), 7);
    let handles =
        [Selector::EtherType(EXPERIMENT), tagged, Selector::ip_protocol(None, 253), of_one]
            .map(|selector| stack.attach(selector, Chatter::default()).unwrap());
    let of_each = ["10.0.0.1", "10.9.0.1"].map(|own| Selector::ip_protocol(Some(ip(own)), 253));
    let more = [&[Selector::EtherType(EXPERIMENT), tagged][..], &of_each, &[of_one]].concat();
    assert_eq!(wanted(&stack), [own.clone(), more].concat());
    drop(handles);
    assert_eq!(wanted(&stack), own);
}

#[test]
fn a_datagram_there_and_back_from_the_address_it_was_sent_to() {
    let mut world = world();
    world.right.add_address(0, "10.0.0.9/24".parse().unwrap()).unwrap();
    let selector = Selector::udp_port(None, 7);
    let echo = world.right.attach(selector, Chatter::echo()).unwrap();
    let asker = world.left.attach(selector, Chatter::default()).unwrap();
    let socket = UdpSocket::bind(&world.left, "10.0.0.1:9".parse().unwrap()).unwrap();
    socket.set_nonblocking(true);

    for to in ["10.0.0.9", "10.0.0.2", "fd00::2"] {
        asker.with(|asker| asker.say(port(to, 7), b"hello"));
        world.run_until("an answer", PATIENCE, || asker.with(|asker| !asker.received.is_empty()));
        let received = asker.with(|asker| asker.received.pop_front()).unwrap();
        assert_eq!((received.from, &received.payload[..]), (port(to, 7), &b"hello"[..]));
        assert_eq!(received.hop_limit, Some(64));
    }
    assert_eq!(asker.with(|asker| asker.max_len), 1500 - 40 - 8);

    // A socket at the other end is just another sender.
    socket.send_to(b"from a socket", "10.0.0.9:7".parse().unwrap()).unwrap();
    let mut buffer = [0; 64];
    let mut answer = None;
    world.run_until("an answer", PATIENCE, || {
        answer = socket.recv_from(&mut buffer).ok();
        answer.is_some()
    });
    assert_eq!(answer, Some((13, "10.0.0.9:7".parse().unwrap())));

    let (sent, received) = (asker.counters().sent, echo.counters().received);
    assert_eq!((sent, received), (3, 4));
    drop(echo);
    asker.with(|asker| asker.say(port("10.0.0.2", 7), b"gone"));
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.right.stats().drops[DropReason::UdpClosedPort], 1);
}

#[test]
fn long_packets_are_cut_and_raw_sockets_listen() {
    let mut world = world();
    let selector = Selector::ip_protocol(None, 253);
    let echo = world.right.attach(selector, Chatter::echo()).unwrap();
    let asker = world.left.attach(selector, Chatter::default()).unwrap();
    let raw = RawSocket::new(&world.right, IpVersion::V4, 253).unwrap();
    raw.set_nonblocking(true);
    let long: Vec<u8> = (0..9000_u32).map(|n| (n ^ n >> 8) as u8).collect();
    for to in ["10.0.0.2", "fd00::2"] {
        let to = Destination { hop_limit: Some(9), ..host(to).into() };
        asker.with(|asker| asker.say(to, &long));
        world.run_until("an answer", PATIENCE, || asker.with(|asker| !asker.received.is_empty()));
        assert_eq!(asker.with(|asker| asker.received.pop_front().unwrap().payload), long);
        let received = echo.with(|echo| echo.received.pop_front()).unwrap();
        assert_eq!((received.hop_limit, received.payload.len()), (Some(9), 9000));
    }
    let mut buffer = vec![0; 10_000];
    assert_eq!(raw.recv_from(&mut buffer).unwrap(), (9000, ip("10.0.0.1")));

    // Without the protocol, the raw socket alone keeps the packet from being refused.
    drop(echo);
    asker.with(|asker| asker.say(host("10.0.0.2"), b"x"));
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.right.stats().drops[DropReason::UnknownProtocol], 0);
    drop(raw);
    asker.with(|asker| asker.say(host("10.0.0.2"), b"x"));
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.right.stats().drops[DropReason::UnknownProtocol], 1);
}

#[test]
fn what_cannot_be_sent_is_an_answer() {
    use SendError::{TooLong, Unreachable, WrongPeer};
    let mut world = world();
    let packets = world.left.attach(Selector::ip_protocol(None, 253), Chatter::default()).unwrap();
    packets.with(|chatter| {
        chatter.say(port("10.0.0.2", 7), b"x");
        chatter.say(station(MacAddr::BROADCAST), b"x");
        chatter.say(host("192.0.2.1"), b"x");
        chatter.say(host("10.0.0.1"), b"x");
        chatter.say(host("10.0.0.2"), &vec![0; 65_516]);
    });
    let frames = world.left.attach(Selector::EtherType(EXPERIMENT), Chatter::default()).unwrap();
    frames.with(|chatter| {
        let address = MacAddr::BROADCAST;
        chatter.say(Peer::Station { interface: 1, address }, b"x");
        chatter.say(station(address), &[0; 1501]);
        chatter.say(station(address), &[0; 1500]);
        chatter.say(host("10.0.0.2"), b"x");
    });
    world.run_for(Duration::from_millis(10));
    let errors = [WrongPeer, WrongPeer, Unreachable, Unreachable, TooLong];
    assert_eq!(packets.with(|chatter| chatter.errors.clone()), errors);
    assert_eq!(packets.counters().unsent, 5);
    assert_eq!(frames.with(|chatter| chatter.errors.clone()), [Unreachable, TooLong, WrongPeer]);
    assert_eq!(frames.counters().sent, 1);
}

#[test]
fn refused_frames_are_counted() {
    let mut world = world();
    let selector = Selector::EtherType(EXPERIMENT);
    let small = Chatter { room: Some(2), ..Chatter::default() };
    let small = world.right.attach(selector, small).unwrap();
    let asker = world.left.attach(selector, Chatter::default()).unwrap();
    asker.with(|asker| {
        for _ in 0..5 {
            asker.say(station(MacAddr::BROADCAST), &[7; 50]);
        }
    });
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.right.stats().drops[DropReason::ProtocolRefused], 3);
    let counters = small.counters();
    assert_eq!((counters.received, counters.refused), (5, 3));
}

#[test]
fn timers_are_kept_to_and_waiters_are_woken() {
    let mut world = world();
    world.run_for(Duration::from_millis(10));
    let alarm =
        Chatter { alarms: [20, 20, 50].map(Instant::from_millis).into(), ..Chatter::default() };
    let alarm = world.left.attach(Selector::udp_port(None, 7), alarm).unwrap();
    alarm.set_nonblocking(true);
    let left = |chatter: &mut Chatter| (chatter.alarms.len() < 3).then_some(chatter.alarms.len());
    let error = alarm.wait(left).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    alarm.set_nonblocking(false);
    alarm.set_timeout(Some(Duration::from_millis(1)));
    assert_eq!(alarm.wait(left).unwrap_err().kind(), io::ErrorKind::TimedOut);

    world.run_for(Duration::from_millis(100));
    assert_eq!(alarm.wait(left).unwrap(), 0);
    let mut asked = alarm.with(|chatter| chatter.asked.clone());
    asked.dedup();
    let asked: Vec<u64> = asked.iter().map(|at| at.as_micros() / 1000).collect();
    assert_eq!(asked, [10, 20, 50]);
}

#[test]
fn when_the_device_is_gone_waiting_fails() {
    let (device, peer) = MemoryDevice::pair(MemoryConfig::default());
    let stack = Stack::builder().address("10.0.0.1/24".parse().unwrap()).build(device).unwrap();
    let handle = stack.attach(Selector::udp_port(None, 7), Chatter::default()).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.wait(|_| None::<()>));
        drop(peer);
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkDown, "{error}");
    });
    let poll = handle.poll_wait(&mut Context::from_waker(Waker::noop()), |_| Some(7));
    assert!(matches!(poll, Poll::Ready(Ok(7))));
    let error = refusal(&stack, Selector::udp_port(None, 8));
    assert!(matches!(error, AttachError::Stopped(_)), "{error}");
}

/// Two real threads.
#[test]
fn the_blocking_and_the_async_application() {
    let (left, right) = MemoryDevice::pair(MemoryConfig::default());
    let build = |device: MemoryDevice, address: &str| {
        Stack::builder().address(address.parse().unwrap()).build(device).unwrap()
    };
    let (left, right) = (build(left, "10.0.0.1/24"), build(right, "10.0.0.2/24"));
    let selector = Selector::udp_port(None, 7);
    let _echo = right.attach(selector, Chatter::echo()).unwrap();
    let asker = left.attach(selector, Chatter::default()).unwrap();
    for n in 0..100_u8 {
        asker.with(|asker| asker.say(port("10.0.0.2", 7), &[n]));
        let answer = if n % 2 == 0 {
            asker.wait(|asker| asker.received.pop_front()).unwrap()
        } else {
            let answer = asker.wait_async(|asker| asker.received.pop_front());
            block_on(answer).unwrap()
        };
        assert_eq!(answer.payload, [n]);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}
