//! Several shards in virtual time, on devices that bring frames to any queue.

mod common;
mod scatter;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::Flow;
use proptest::prelude::*;
use scatter::{Choice, Hub, Scatter, scatter};
use underpass::devices::{FlowHash, Instant, LinkConfig, SimLink, Steering};
use underpass::{
    BuildError, DropReason, Interface, Limits, Ping, Shard, Stack, TcpListener, TcpStream,
    UdpSocket,
};

const PATIENCE: Duration = Duration::from_secs(300);

/// Two stacks with several shards each, their link, and the time.
struct World {
    now: Instant,
    left: Stack,
    right: Stack,
    link: SimLink,
    shards: Vec<Shard<Scatter>>,
    hubs: [Arc<Mutex<Hub>>; 2],
}

impl World {
    fn new(link: LinkConfig, limits: &Limits, queues: [usize; 2], choices: [Choice; 2]) -> Self {
        let seed = link.seed;
        let (a, b, link) = SimLink::pair(link);
        let build = |device, side: usize| {
            let (devices, hub) = scatter(device, queues[side], choices[side]);
            let n = side + 1;
            let interface = Interface::with_queues(devices)
                .address(format!("10.0.0.{n}/24").parse().unwrap())
                .address(format!("fd00::{n}/64").parse().unwrap());
            let (stack, shards) = Stack::builder()
                .limits(limits.clone())
                .seed(seed.wrapping_mul(2).wrapping_add(n as u64))
                .build_shards([interface])
                .unwrap();
            (stack, shards, hub)
        };
        let (left, mut shards, left_hub) = build(a, 0);
        let (right, right_shards, right_hub) = build(b, 1);
        shards.extend(right_shards);
        Self { now: Instant::ZERO, left, right, link, shards, hubs: [left_hub, right_hub] }
    }

    /// Turns every shard once; if none had anything to do, goes on to the next event.
    fn step(&mut self, end: Instant) -> bool {
        let mut events = Vec::new();
        let mut busy = false;
        for shard in &mut self.shards {
            let turn = shard.turn(self.now).unwrap();
            busy |= turn.busy;
            events.push(turn.next);
        }
        if busy || self.hubs.iter().any(|hub| hub.lock().unwrap().has_frames()) {
            return true;
        }
        events.push(self.link.next_arrival());
        match events.into_iter().flatten().min().filter(|at| *at < end) {
            Some(at) => {
                self.now = at.max(self.now + Duration::from_nanos(1));
                true
            }
            None => false,
        }
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let end = self.now + PATIENCE;
        while !done() {
            assert!(self.step(end), "{what}: not done");
        }
    }

    /// `count` connections from left to right, all ends nonblocking.
    fn connect(&mut self, address: SocketAddr, count: usize) -> Vec<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(&self.right, address).unwrap();
        listener.set_nonblocking(true);
        let near: Vec<_> =
            (0..count).map(|_| TcpStream::start(&self.left, address).unwrap()).collect();
        let mut far = Vec::new();
        self.run_until("accept", || {
            far.extend(std::iter::from_fn(|| listener.accept().ok()));
            far.len() == count
        });
        let pairs = near.into_iter().map(|near| {
            let of_it = |(_, peer): &(TcpStream, SocketAddr)| *peer == near.local_addr();
            let (far, _) = far.swap_remove(far.iter().position(of_it).unwrap());
            near.set_nonblocking(true);
            far.set_nonblocking(true);
            (near, far)
        });
        pairs.collect()
    }
}

fn ready<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn owner(stream: &TcpStream, shards: usize) -> usize {
    Steering::new(FlowHash::Software, shards).queue_of(stream.local_addr(), stream.peer_addr())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever queue a frame comes to: every byte arrives once and in order, and a flow stays on
    /// the shard that owns it.
    #[test]
    fn streams_arrive_whole_and_flows_never_move(
        seed: u64,
        left in 1..5_usize,
        right in 1..5_usize,
        v6: bool,
        bad_link: bool,
    ) {
        const FLOWS: usize = 12;
        let noise = if bad_link { 0.01 } else { 0.0 };
        let link = LinkConfig {
            seed,
            delay: Duration::from_millis(5),
            loss: noise,
            duplicate: noise,
            reorder: noise,
            ..LinkConfig::default()
        };
        let choices = [seed, !seed].map(Choice::Random);
        let mut world = World::new(link, &Limits::default(), [left, right], choices);
        let address = if v6 { "[fd00::2]:80" } else { "10.0.0.2:80" }.parse().unwrap();
        let streams = world.connect(address, FLOWS);
        let mut accepted = vec![0; right];
        for (near, far) in &streams {
            prop_assert_eq!(near.shard(), owner(near, left));
            prop_assert_eq!(far.shard(), owner(far, right));
            accepted[far.shard()] += 1;
        }
        // Both directions of each at once.
        let mut flows: Vec<Flow<'_>> = streams
            .iter()
            .zip(0..)
            .flat_map(|((a, b), n)| [Flow::new(a, b, 40_000, n), Flow::new(b, a, 30_000, !n)])
            .collect();
        world.run_until("transfer", || {
            let pumped = flows.iter_mut().map(|flow| flow.finished || flow.pump());
            pumped.filter(|done| !done).count() == 0
        });
        for flow in flows {
            prop_assert!(flow.error.is_none(), "{:?}", flow.error);
        }
        for (stack, shards) in [(&world.left, left), (&world.right, right)] {
            let stats = stack.stats();
            prop_assert_eq!(stats.tcp_failures, 0, "{}", stats);
            prop_assert_eq!(stats.drops[DropReason::TcpNoFlow], 0, "{}", stats);
            prop_assert_eq!(stats.handed_over > 0, shards > 1, "{}", stats);
        }
        let passive: Vec<_> =
            world.right.shard_stats().iter().map(|stats| stats.tcp_passive_opens).collect();
        prop_assert_eq!(passive, accepted);
    }

    /// Datagrams, whole or in fragments, come to the one socket of their port, and pings come back.
    #[test]
    fn datagrams_and_pings_find_their_socket(
        seed: u64,
        left in 1..5_usize,
        right in 1..5_usize,
        len in prop_oneof![1..1400_usize, 3000..9000_usize],
    ) {
        let choices = [seed, !seed].map(Choice::Random);
        let link = LinkConfig { seed, ..LinkConfig::default() };
        let mut world = World::new(link, &Limits::default(), [left, right], choices);
        let bind = |stack: &Stack, local: &str| {
            let socket = UdpSocket::bind(stack, local.parse().unwrap()).unwrap();
            socket.set_nonblocking(true);
            socket
        };
        let servers: Vec<_> =
            (53..58).map(|port| bind(&world.right, &format!("0.0.0.0:{port}"))).collect();
        let clients: Vec<_> = (0..5).map(|_| bind(&world.left, "10.0.0.1:0")).collect();
        for (client, server) in clients.iter().zip(&servers) {
            let to = SocketAddr::new("10.0.0.2".parse().unwrap(), server.local_addr().port());
            let data = vec![server.local_addr().port() as u8; len];
            prop_assert_eq!(client.send_to(&data, to).unwrap(), len);
        }
        let mut buffer = vec![0; 10_000];
        for (client, server) in clients.iter().zip(&servers) {
            let mut received = None;
            world.run_until("a datagram", || {
                received = server.recv_from(&mut buffer).ok();
                received.is_some()
            });
            let (received, peer) = received.unwrap();
            prop_assert_eq!((received, peer), (len, client.local_addr()));
            prop_assert!(buffer[..len].iter().all(|b| *b == server.local_addr().port() as u8));
        }
        let ping = Ping::new(&world.left).unwrap();
        ping.send("10.0.0.2".parse().unwrap(), 7, b"ping").unwrap();
        let mut reply = None;
        world.run_until("an echo reply", || {
            reply = ready(|cx| ping.poll_recv(cx));
            reply.is_some()
        });
        prop_assert_eq!(reply.unwrap().unwrap().seq, 7);
    }
}

fn perfect(seed: u64) -> LinkConfig {
    LinkConfig { seed, ..LinkConfig::default() }
}

#[test]
fn a_full_ring_between_shards_is_counted() {
    const SENT: usize = 40;
    let mut limits = Limits::default();
    limits.handed_over = 8;
    // Everything arrives on the first queue, and the socket lives on the second.
    let choices = [Choice::Fixed(0); 2];
    let mut world = World::new(perfect(1), &limits, [1, 2], choices);
    let second = world.right.on_shard(1).unwrap();
    let server = UdpSocket::bind(&second, "10.0.0.2:9".parse().unwrap()).unwrap();
    server.set_nonblocking(true);
    assert_eq!(server.shard(), 1);
    let client = UdpSocket::bind(&world.left, "10.0.0.1:0".parse().unwrap()).unwrap();
    let mut received = 0;
    let mut exchange = |world: &mut World, count: usize, enough: usize| {
        for _ in 0..count {
            client.send_to(b"datagram", server.local_addr()).unwrap();
        }
        let enough = received + enough;
        world.run_until("datagrams", || {
            while server.recv_from(&mut [0; 8]).is_ok() {
                received += 1;
            }
            received == enough
        });
    };
    // The first one waits for ARP; the others come in one burst.
    exchange(&mut world, 1, 1);
    assert_eq!(world.right.stats().drops[DropReason::HandOverFull], 0);
    exchange(&mut world, SENT, 8);
    let stats = world.right.stats();
    assert_eq!(stats.drops[DropReason::HandOverFull], SENT as u64 - 8, "{stats}");
    // The ring goes round.
    for _ in 0..20 {
        exchange(&mut world, 5, 5);
    }
}

#[test]
fn sockets_are_opened_where_the_handle_says() {
    let mut world = World::new(perfect(2), &Limits::default(), [3, 3], [Choice::Random(3); 2]);
    let address = "10.0.0.2:80".parse().unwrap();
    let listener = TcpListener::bind(&world.right, address).unwrap();
    listener.set_nonblocking(true);
    assert_eq!((world.left.shards(), world.left.on_shard(3).is_none()), (3, true));
    let streams: Vec<_> = (0..9)
        .map(|n| TcpStream::start(&world.left.on_shard(n % 3).unwrap(), address).unwrap())
        .collect();
    for (n, stream) in streams.iter().enumerate() {
        assert_eq!(stream.shard(), n % 3);
    }
    let right = world.right.clone();
    world.run_until("connections", || right.stats().tcp_passive_opens == 9);
    // The same hash on both sides, so the same number of connections on each shard.
    for shard in 0..3 {
        let here = listener.on_shard(shard).unwrap();
        for _ in 0..3 {
            assert_eq!(here.accept().unwrap().0.shard(), shard);
        }
        assert!(here.accept().is_err());
    }
    assert!(listener.on_shard(3).is_none());
}

#[test]
fn a_port_is_taken_on_all_shards_or_on_none() {
    let world = World::new(perfect(4), &Limits::default(), [1, 4], [Choice::Fixed(0); 2]);
    let stack = &world.right;
    let address = "10.0.0.2:80".parse().unwrap();
    let listener = TcpListener::bind(stack, address).unwrap();
    for shard in 0..4 {
        let error = TcpListener::bind(&stack.on_shard(shard).unwrap(), address).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    }
    drop(listener);
    TcpListener::bind(stack, address).unwrap();

    let any = "0.0.0.0:53".parse().unwrap();
    let first = UdpSocket::bind(&stack.on_shard(2).unwrap(), any).unwrap();
    for shard in 0..4 {
        let handle = stack.on_shard(shard).unwrap();
        let error = UdpSocket::bind(&handle, any).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        // Another address at the port shares its home.
        let other = UdpSocket::bind(&handle, "10.0.0.2:53".parse().unwrap()).unwrap();
        assert_eq!(other.shard(), 2);
    }
    drop(first);
    assert_eq!(UdpSocket::bind(&stack.on_shard(0).unwrap(), any).unwrap().shard(), 0);
}

#[test]
fn addresses_that_change_change_on_every_shard() {
    let mut world = World::new(perfect(5), &Limits::default(), [2, 3], [Choice::Random(5); 2]);
    world.right.add_address(0, "10.0.0.77/24".parse().unwrap()).unwrap();
    let pairs = world.connect("10.0.0.77:80".parse().unwrap(), 12);
    let used: std::collections::HashSet<_> = pairs.iter().map(|(_, far)| far.shard()).collect();
    assert_eq!(used.len(), 3, "{used:?}");
    world.right.remove_address("10.0.0.77".parse().unwrap()).unwrap();
    for shard in 0..3 {
        let local = "10.0.0.77:0".parse().unwrap();
        assert!(UdpSocket::bind(&world.right.on_shard(shard).unwrap(), local).is_err());
    }
}

#[test]
fn interfaces_bring_as_many_queues_as_there_are_shards() {
    let queues = |count| {
        let (device, _peer, _) = SimLink::pair(LinkConfig::default());
        Interface::with_queues(scatter(device, count, Choice::Fixed(0)).0)
    };
    let build = |counts: &[usize]| {
        let interfaces: Vec<_> = counts.iter().map(|count| queues(*count)).collect();
        Stack::builder().address("10.0.0.1/24".parse().unwrap()).build_shards(interfaces)
    };
    for (counts, at) in [(&[2, 3][..], 1), (&[0], 0), (&[65], 0)] {
        match build(counts).err().unwrap() {
            BuildError::Queues { interface, queues, .. } => {
                assert_eq!((interface, queues), (at, counts[at]));
            }
            other => panic!("{other}"),
        }
    }
    let (stack, shards) = build(&[3, 3]).unwrap();
    assert_eq!((stack.shards(), shards.len()), (3, 3));
    assert_eq!(shards.iter().map(Shard::index).collect::<Vec<_>>(), [0, 1, 2]);
}
