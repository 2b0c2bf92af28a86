//! How connections begin and end.

mod common;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{RIGHT, World};
use underpass::devices::LinkConfig;
use underpass::{DropReason, Limits, TcpListener, TcpStream};

fn world() -> World {
    World::new(LinkConfig::default(), &Limits::default())
}

fn read_now(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 1000];
    (&mut &*stream).read(&mut buffer).map(|len| buffer[..len].to_vec())
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

fn connected(stream: &TcpStream) -> Option<io::Result<()>> {
    match stream.poll_connected(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn start(world: &World, to: &str) -> TcpStream {
    TcpStream::start(&world.left, to.parse().unwrap()).unwrap()
}

fn outcome(world: &mut World, stream: &TcpStream) -> io::Result<()> {
    let mut result = None;
    world.run_until("connect", Duration::from_secs(200), || {
        result = connected(stream);
        result.is_some()
    });
    result.unwrap()
}

#[test]
fn half_close_lets_the_other_half_go_on() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    (&near).write_all(b"question").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_now(&far).unwrap(), b"question");
    assert_eq!(read_now(&far).unwrap(), b"");
    (&far).write_all(b"answer").unwrap();
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_now(&near).unwrap(), b"answer");
    assert_eq!(kind((&near).write(b"more")), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_dropped_connection_with_unread_data_is_reset() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    (&near).write_all(b"unread").unwrap();
    world.run_for(Duration::from_millis(100));
    drop(far);
    world.run_for(Duration::from_millis(100));
    assert_eq!(kind(read_now(&near)), io::ErrorKind::ConnectionReset);
}

#[test]
fn abort_resets_the_peer() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    far.abort();
    world.run_for(Duration::from_millis(100));
    assert_eq!(kind(read_now(&near)), io::ErrorKind::ConnectionReset);
    assert_eq!(world.left.stats().tcp_failures, 1);
}

#[test]
fn a_closed_port_refuses() {
    let mut world = world();
    let stream = start(&world, "10.0.0.2:81");
    assert_eq!(kind(outcome(&mut world, &stream)), io::ErrorKind::ConnectionRefused);
    assert_eq!(world.right.stats().drops[DropReason::TcpClosedPort], 1);
}

#[test]
fn an_absent_neighbour_is_an_unreachable_host() {
    let mut world = world();
    let stream = start(&world, "10.0.0.77:80");
    assert_eq!(kind(outcome(&mut world, &stream)), io::ErrorKind::HostUnreachable);
    assert!(world.now.as_micros() < 5_000_000, "took until {}", world.now);
}

#[test]
fn a_silent_peer_times_out() {
    let mut world = world();
    let neighbour = start(&world, "10.0.0.2:81");
    let _ = outcome(&mut world, &neighbour);
    world.links[0].set_loss(1.0);
    let stream = start(&world, "10.0.0.2:80");
    assert_eq!(kind(outcome(&mut world, &stream)), io::ErrorKind::TimedOut);
}

#[test]
fn a_peer_that_vanishes_fails_the_writer() {
    let mut world = world();
    let (near, _far, _listener) = world.connect(RIGHT).unwrap();
    world.links[0].set_loss(1.0);
    (&near).write_all(b"into the void").unwrap();
    let mut error = None;
    world.run_until("time-out", Duration::from_secs(300), || {
        error = read_now(&near).err().filter(|e| e.kind() != io::ErrorKind::WouldBlock);
        error.is_some()
    });
    assert_eq!(error.unwrap().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn addresses_and_ports_are_checked() {
    let world = world();
    let bind = |text: &str| TcpListener::bind(&world.right, text.parse().unwrap());
    let _listener = bind("10.0.0.2:80").unwrap();
    assert_eq!(kind(bind("10.0.0.2:80").map(drop)), io::ErrorKind::AddrInUse);
    assert_eq!(kind(bind("10.9.9.9:80").map(drop)), io::ErrorKind::AddrNotAvailable);
    let start = |text: &str| TcpStream::start(&world.left, text.parse().unwrap()).map(drop);
    assert_eq!(kind(start("192.0.2.1:80")), io::ErrorKind::NetworkUnreachable);
    assert_eq!(kind(start("10.0.0.1:80")), io::ErrorKind::AddrNotAvailable);
    assert_eq!(kind(start("10.0.0.255:80")), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn a_full_accept_queue_makes_peers_wait_and_is_counted() {
    let mut world = world();
    let address = "10.0.0.2:80".parse().unwrap();
    let listener = TcpListener::bind_with_backlog(&world.right, address, 2).unwrap();
    listener.set_nonblocking(true);
    let streams: Vec<_> = (0..5).map(|_| start(&world, "10.0.0.2:80")).collect();
    world.run_for(Duration::from_millis(500));
    assert!(world.right.stats().drops[DropReason::AcceptQueueFull] > 0);
    let mut accepted = Vec::new();
    world.run_until("all are served in the end", Duration::from_secs(60), || {
        accepted.extend(listener.accept().ok());
        accepted.len() == streams.len()
    });
}

#[test]
fn half_open_connections_are_bounded_in_number() {
    let mut limits = Limits::default();
    limits.half_open = 3;
    let mut world = World::new(LinkConfig::default(), &limits);
    let _listener = TcpListener::bind(&world.right, "10.0.0.2:80".parse().unwrap()).unwrap();
    // Learn the neighbours, then let SYNs through and SYN-ACKs not: the peers stay half open.
    let probe = start(&world, "10.0.0.2:81");
    let _ = outcome(&mut world, &probe);
    let _streams: Vec<_> = (0..10).map(|_| start(&world, "10.0.0.2:80")).collect();
    world.run_for(Duration::from_micros(1));
    let stats = world.right.stats();
    assert!(stats.tcp_half_open <= 3, "{stats}");
    world.run_for(Duration::from_secs(30));
    assert!(world.right.stats().drops[DropReason::HalfOpenFull] > 0);
    assert_eq!(world.right.stats().tcp_passive_opens, 10);
}

#[test]
fn flows_are_bounded_in_number() {
    let mut limits = Limits::default();
    limits.flows = 2;
    let world = World::new(LinkConfig::default(), &limits);
    let _streams = [start(&world, "10.0.0.2:80"), start(&world, "10.0.0.2:80")];
    let third = TcpStream::start(&world.left, "10.0.0.2:80".parse().unwrap());
    assert_eq!(kind(third.map(drop)), io::ErrorKind::OutOfMemory);
}

#[test]
fn time_wait_holds_no_flow_and_the_port_serves_again() {
    let mut world = world();
    for _ in 0..200 {
        let (near, far, listener) = world.connect(RIGHT).unwrap();
        drop(near);
        world.run_for(Duration::from_millis(50));
        drop((far, listener));
        world.run_for(Duration::from_millis(50));
    }
    let stats = world.left.stats();
    assert_eq!((stats.tcp_flows, stats.tcp_time_wait), (0, 200));
    world.run_for(Duration::from_secs(61));
    assert_eq!(world.left.stats().tcp_time_wait, 0);
}

#[test]
fn an_orphan_in_fin_wait_2_is_given_up() {
    let mut world = world();
    let (near, _far, _listener) = world.connect(RIGHT).unwrap();
    drop(near);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.left.stats().tcp_flows, 1);
    world.run_for(Duration::from_secs(40));
    assert_eq!(world.left.stats().tcp_flows, 0);
}

#[test]
fn a_zero_window_stops_the_sender_and_opens_again() {
    let mut limits = Limits::default();
    limits.recv_buffer = 4096;
    let mut world = World::new(LinkConfig::default(), &limits);
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    let data = vec![7; 100_000];
    let sent = (&near).write(&data).unwrap();
    assert_eq!(sent, data.len());
    world.run_for(Duration::from_secs(60));
    let mut received = 0;
    world.run_until("the rest arrives", Duration::from_secs(120), || {
        while let Ok(bytes) = read_now(&far) {
            received += bytes.len();
        }
        received == data.len()
    });
}

/// What has come before the end waits for its reader however long TIME-WAIT lasts.
#[test]
fn a_slow_reader_gets_everything_after_both_ends_have_closed() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    world.run_for(Duration::from_millis(100));
    (&far).write_all(&[7; 2500]).unwrap();
    drop(far);
    world.run_for(Duration::from_secs(1));
    for len in [1000, 1000, 500, 0] {
        assert_eq!(read_now(&near).unwrap(), vec![7; len]);
        world.run_for(Duration::from_secs(70));
    }
}
