//! Socket options, as std and socket2 users expect them.

mod common;

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use common::{RIGHT, World};
use underpass::devices::LinkConfig;
use underpass::{
    ConnectOptions, KeepAlive, Limits, ListenOptions, TcpListener, TcpState, TcpStream, UdpSocket,
};

fn world() -> World {
    World::new(
        LinkConfig { delay: Duration::from_millis(5), ..LinkConfig::default() },
        &Limits::default(),
    )
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn right(port: u16) -> SocketAddr {
    SocketAddr::new(RIGHT.parse().unwrap(), port)
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn accept(world: &mut World, listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true);
    let mut accepted = None;
    world.run_until("accept", Duration::from_secs(10), || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, _) = accepted.unwrap();
    stream.set_nonblocking(true);
    stream
}

#[test]
fn options_are_inherited_from_the_listener_and_read_back() {
    let mut world = world();
    let mut options = ListenOptions::default();
    options.tcp.nodelay = true;
    options.tcp.hop_limit = 7;
    options.tcp.recv_buffer = Some(10_000);
    options.tcp.send_buffer = Some(20_000);
    options.tcp.keep_alive = Some(KeepAlive::default());
    let listener = TcpListener::bind_with(&world.right, right(80), options.clone()).unwrap();
    let mut connect = ConnectOptions::default();
    connect.tcp.send_buffer = Some(3000);
    let near = TcpStream::start_with(&world.left, right(80), &connect).unwrap();
    near.set_nonblocking(true);
    let far = accept(&mut world, &listener);
    assert_eq!(far.options(), options.tcp);
    let info = far.info();
    assert_eq!((info.recv_buffer, info.send_buffer), (10_000, 20_000));
    assert_eq!(
        (near.nodelay(), near.ttl(), near.keep_alive(), near.linger()),
        (false, 64, None, None)
    );
    // As much is taken as the buffer holds.
    assert_eq!((&near).write(&vec![0; 50_000]).unwrap(), 3000);
    assert_eq!(kind((&near).write(b"x")), ErrorKind::WouldBlock);

    let mut wrong = ConnectOptions::default();
    wrong.tcp.recv_buffer = Some(0);
    let refused = TcpStream::start_with(&world.left, right(80), &wrong);
    assert_eq!(kind(refused.map(drop)), ErrorKind::InvalidInput);
    // Connections with buffers of their own do not leave them to others.
    drop((near, far, listener));
    world.run_for(Duration::from_secs(1));
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    assert_eq!(near.info().send_buffer, Limits::default().send_buffer);
    assert_eq!(far.info().recv_buffer, Limits::default().recv_buffer);
}

#[test]
fn small_writes_wait_for_an_answer_unless_nagle_is_off() {
    for nodelay in [false, true] {
        let mut world = world();
        let (near, far, _listener) = world.connect(RIGHT).unwrap();
        near.set_nodelay(nodelay);
        assert_eq!(near.nodelay(), nodelay);
        for _ in 0..3 {
            (&near).write_all(b"x").unwrap();
            world.run_for(millis(1));
        }
        world.run_for(millis(5));
        assert_eq!(far.info().unread, if nodelay { 3 } else { 1 });
    }
}

#[test]
fn a_silent_peer_is_probed_and_given_up() {
    let keep_alive =
        KeepAlive { idle: Duration::from_secs(10), interval: Duration::from_secs(2), count: 3 };
    let mut world = world();
    let (near, _far, _listener) = world.connect(RIGHT).unwrap();
    near.set_keep_alive(Some(keep_alive));
    assert_eq!(near.keep_alive(), Some(keep_alive));
    // The reports of its multicast groups are not to be counted.
    world.run_for(Duration::from_secs(3));
    let before = world.right.stats().rx_frames;
    world.run_for(Duration::from_secs(65));
    // Six probes, all answered, that count as no retransmission.
    let probes = world.right.stats().rx_frames - before;
    assert!((6..10).contains(&probes), "{probes} frames");
    assert_eq!((near.info().state, near.info().retransmissions), (TcpState::Established, 0));

    world.links[0].set_loss(1.0);
    // The last answer was at most ten seconds ago: 10 + 3 * 2 seconds of silence.
    world.run_for(Duration::from_millis(5900));
    assert_eq!(near.info().state, TcpState::Established);
    world.run_for(Duration::from_secs(11));
    assert_eq!(kind((&near).read(&mut [0; 1])), ErrorKind::TimedOut);
}

#[test]
fn the_user_timeout_ends_what_is_not_acknowledged() {
    let mut world = world();
    let (near, _far, _listener) = world.connect(RIGHT).unwrap();
    near.set_user_timeout(Some(Duration::from_secs(7)));
    world.links[0].set_loss(1.0);
    world.run_for(Duration::from_secs(20));
    assert_eq!(near.info().state, TcpState::Established, "nothing was sent");
    (&near).write_all(b"x").unwrap();
    world.run_for(Duration::from_millis(6900));
    assert_eq!(near.info().state, TcpState::Established);
    world.run_for(Duration::from_secs(1));
    assert_eq!(kind((&near).read(&mut [0; 1])), ErrorKind::TimedOut);
}

#[test]
fn linger_zero_resets() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    near.set_linger(Some(Duration::ZERO));
    drop(near);
    world.run_for(millis(50));
    assert_eq!(kind((&far).read(&mut [0; 1])), ErrorKind::ConnectionReset);
    assert_eq!(world.left.stats().tcp_time_wait, 0);
}

#[test]
fn peeking_takes_nothing() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    assert_eq!(kind(far.peek(&mut [0; 4])), ErrorKind::WouldBlock);
    (&near).write_all(b"twice").unwrap();
    world.run_for(millis(50));
    let mut buffer = [0; 9];
    assert_eq!(far.peek(&mut buffer[..2]).unwrap(), 2);
    assert_eq!(far.peek(&mut buffer).unwrap(), 5);
    assert_eq!((&far).read(&mut buffer).unwrap(), 5);
    assert_eq!(&buffer[..5], b"twice");
    drop(near);
    world.run_for(millis(50));
    assert_eq!(far.peek(&mut buffer).unwrap(), 0, "the end");
}

#[test]
fn several_buffers_in_one_call() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    let parts = [IoSlice::new(b"one, "), IoSlice::new(b""), IoSlice::new(b"two")];
    assert_eq!((&near).write_vectored(&parts).unwrap(), 8);
    world.run_for(millis(50));
    let (mut a, mut b, mut c) = ([0; 3], [0; 4], [0; 9]);
    let mut buffers = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b), IoSliceMut::new(&mut c)];
    assert_eq!((&far).read_vectored(&mut buffers).unwrap(), 8);
    assert_eq!((&a, &b, c[0]), (b"one", b", tw", b'o'));
    let mut none = [IoSliceMut::new(&mut c)];
    assert_eq!(kind((&far).read_vectored(&mut none)), ErrorKind::WouldBlock);
}

#[test]
fn info_tells_what_happened() {
    let mut world = world();
    let (near, far, _listener) = world.connect(RIGHT).unwrap();
    world.run_for(millis(50));
    let info = near.info();
    assert_eq!(info.state, TcpState::Established);
    // The SYN waited for ARP; the SYN-ACK did not.
    let rtt = far.info().rtt.expect("the handshake was timed");
    assert!((millis(10)..millis(12)).contains(&rtt), "{rtt:?}");
    assert_eq!((info.mss, info.in_flight, info.retransmissions), (1460, 0, 0));
    assert_eq!(info.send_window, 65_535, "a SYN cannot say more");

    let whole = Limits::default().recv_buffer;
    (&near).write_all(&[0; 1000]).unwrap();
    world.run_for(millis(2));
    assert_eq!((near.info().in_flight, near.info().unsent), (1000, 0));
    world.run_for(millis(50));
    assert_eq!((near.info().in_flight, far.info().unread), (0, 1000));
    assert_eq!(far.info().recv_window, whole - 1000);
    let window = near.info().send_window;
    assert!((whole - 1100..=whole).contains(&window), "{window}");

    world.links[0].set_loss(1.0);
    (&near).write_all(b"lost").unwrap();
    world.run_for(Duration::from_millis(1500));
    assert_eq!((near.info().retransmissions, near.info().in_flight), (1, 4));
    world.links[0].set_loss(0.0);
    world.run_for(Duration::from_secs(4));
    assert_eq!(near.info().in_flight, 0);
    near.shutdown(std::net::Shutdown::Write).unwrap();
    world.run_for(millis(50));
    assert_eq!((near.info().state, far.info().state), (TcpState::FinWait2, TcpState::CloseWait));
}

#[test]
fn a_port_in_time_wait_serves_again() {
    let mut world = world();
    let mut options = ConnectOptions::default();
    options.local = Some("0.0.0.0:5555".parse().unwrap());
    let listener = TcpListener::bind(&world.right, right(80)).unwrap();
    let near = TcpStream::start_with(&world.left, right(80), &options).unwrap();
    let far = accept(&mut world, &listener);
    assert_eq!(near.local_addr(), "10.0.0.1:5555".parse().unwrap());
    let taken = TcpStream::start_with(&world.left, right(80), &options);
    assert_eq!(kind(taken.map(drop)), ErrorKind::AddrInUse);
    // The right end closes first and keeps TIME-WAIT; then the listener goes and comes.
    drop(far);
    world.run_for(millis(50));
    drop((near, listener));
    world.run_for(millis(50));
    assert_eq!((world.left.stats().tcp_time_wait, world.right.stats().tcp_time_wait), (0, 1));
    let listener = TcpListener::bind(&world.right, right(80)).unwrap();
    let near = TcpStream::start_with(&world.left, right(80), &options).unwrap();
    let far = accept(&mut world, &listener);
    assert_eq!(world.right.stats().tcp_time_wait, 0);
    // Now the left end closes first, and connects from its own TIME-WAIT.
    drop(near);
    world.run_for(millis(50));
    drop(far);
    world.run_for(millis(50));
    assert_eq!(world.left.stats().tcp_time_wait, 1);
    let near = TcpStream::start_with(&world.left, right(80), &options).unwrap();
    let far = accept(&mut world, &listener);
    assert_eq!(world.left.stats().tcp_time_wait, 0);
    (&near).write_all(b"again").unwrap();
    world.run_for(millis(50));
    assert_eq!(far.info().unread, 5);
}

#[test]
fn batches_of_datagrams_keep_their_order_and_bounds() {
    let mut limits = Limits::default();
    limits.udp_datagrams = 10;
    let mut world = World::new(LinkConfig::default(), &limits);
    let near = UdpSocket::bind(&world.left, "10.0.0.1:0".parse().unwrap()).unwrap();
    let far = UdpSocket::bind(&world.right, right(7)).unwrap();
    near.set_nonblocking(true);
    far.set_nonblocking(true);
    assert_eq!(kind(far.recv_many(5, |_, _| ())), ErrorKind::WouldBlock);
    let texts: Vec<Vec<u8>> = (0..30_u8).map(|n| vec![n; usize::from(n)]).collect();
    let batch: Vec<(&[u8], SocketAddr)> = texts.iter().map(|t| (&t[..], right(7))).collect();
    assert_eq!(near.send_many(&batch).unwrap(), 10, "as many as the queue has room for");
    assert_eq!(kind(near.send_many(&batch)), ErrorKind::WouldBlock);
    world.run_for(millis(1));
    let mut received = Vec::new();
    assert_eq!(far.recv_many(4, |data, _| received.push(data.to_vec())).unwrap(), 4);
    assert_eq!(far.recv_many(100, |data, _| received.push(data.to_vec())).unwrap(), 6);
    assert_eq!(received, texts[..10]);
    assert_eq!(near.send_many(&[]).unwrap(), 0);
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    let mut world = world();
    let [peer, stranger] = [7, 8].map(|port| UdpSocket::bind(&world.right, right(port)).unwrap());
    let socket = UdpSocket::bind(&world.left, "10.0.0.1:9".parse().unwrap()).unwrap();
    socket.set_nonblocking(true);
    let here = socket.local_addr();
    let mut buffer = [0; 9];
    assert_eq!(kind(socket.recv(&mut buffer)), ErrorKind::NotConnected);
    stranger.send_to(b"early", here).unwrap();
    world.run_for(millis(50));
    assert_eq!(socket.peek_from(&mut buffer).unwrap(), (5, right(8)));
    socket.connect(right(7)).unwrap();
    stranger.send_to(b"late", here).unwrap();
    peer.send_to(b"longer than that", here).unwrap();
    world.run_for(millis(50));
    // Cut to the buffer; the rest is lost.
    assert_eq!(socket.recv(&mut buffer).unwrap(), 9);
    assert_eq!(&buffer, b"longer th");
    assert_eq!(kind(socket.recv(&mut buffer)), ErrorKind::WouldBlock);
    socket.disconnect();
    stranger.send_to(b"again", here).unwrap();
    world.run_for(millis(50));
    assert_eq!(socket.recv_from(&mut buffer).unwrap(), (5, right(8)));
}

#[test]
fn broadcasts_need_permission() {
    let mut world = world();
    let near = UdpSocket::bind(&world.left, "0.0.0.0:9".parse().unwrap()).unwrap();
    let far = UdpSocket::bind(&world.right, "0.0.0.0:7".parse().unwrap()).unwrap();
    far.set_nonblocking(true);
    for everybody in ["10.0.0.255:7", "255.255.255.255:7"] {
        near.set_broadcast(false);
        let everybody = everybody.parse().unwrap();
        assert_eq!(kind(near.send_to(b"x", everybody)), ErrorKind::PermissionDenied);
        near.set_broadcast(true);
        assert!(near.broadcast());
        near.send_to(b"x", everybody).unwrap();
        world.run_for(millis(50));
        let from = "10.0.0.1:9".parse().unwrap();
        assert_eq!(far.recv_from(&mut [0; 9]).unwrap(), (1, from), "{everybody}");
    }
}

/// A blocking drop needs a stack that runs by itself.
#[test]
fn lingering_waits_for_the_peer_but_not_for_ever() {
    use underpass::Stack;
    use underpass::devices::MemoryDevice;

    let (a, b) = MemoryDevice::pair(underpass::devices::MemoryConfig::default());
    let build = |device, address: &str| {
        Stack::builder().address(address.parse().unwrap()).build(device).unwrap()
    };
    let (left, right_stack) = (build(a, "10.0.0.1/24"), build(b, "10.0.0.2/24"));
    let mut options = ListenOptions::default();
    options.tcp.recv_buffer = Some(4096);
    let listener = TcpListener::bind_with(&right_stack, right(80), options).unwrap();
    for reads in [true, false] {
        let mut near = TcpStream::connect(&left, right(80)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.set_linger(Some(Duration::from_millis(if reads { 30_000 } else { 300 })));
        near.write_all(&vec![1; 100_000]).unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            if reads {
                far.read_to_end(&mut all).unwrap();
            }
            (far, all.len())
        });
        let start = std::time::Instant::now();
        drop(near);
        let waited = start.elapsed();
        if reads {
            assert!(waited < Duration::from_secs(20), "{waited:?}");
            assert_eq!(left.stats().tcp_failures, 0);
        } else {
            assert!(waited >= Duration::from_millis(300), "{waited:?}");
        }
        let (_far, len) = reader.join().unwrap();
        assert_eq!(len, if reads { 100_000 } else { 0 });
    }
}
