//! A router between two stacks: it drops what is too long for its other side and says so, and anybody
//! else says what he likes.

mod wire;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use underpass::devices::{Instant, MacAddr, MemoryConfig, MemoryDevice, RxMeta};
use underpass::protocols::header::Header;
use underpass::protocols::probe::{Outcome, Probe, ProbeConfig, ProbeHeader, Request};
use underpass::{
    DropReason, IpVersion, Limits, RawSocket, Shard, Stack, TcpListener, TcpStream, UdpSocket,
};

use wire::{ICMP, ICMPV6, IPV4, Received, TCP, Wire};

const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// Bits of a TCP header.
const SYN: u8 = 2;
const RST: u8 = 4;

struct Station {
    stack: Stack,
    shard: Shard<MemoryDevice>,
    wire: Wire,
}

/// Both stations, and a path between them for IP packets of up to `mtu` bytes.
struct Net {
    now: Instant,
    stations: [Station; 2],
    mtu: usize,
    /// Packets that were too long.
    too_big: usize,
    /// The last TCP packet from the left station, from its IP header on.
    last: Vec<u8>,
}

fn ip(n: usize, v6: bool) -> IpAddr {
    let text = if v6 { format!("fd00::{}", n + 1) } else { format!("10.0.0.{}", n + 1) };
    text.parse().unwrap()
}

impl Net {
    fn new(mtu: usize, offloads: bool) -> Self {
        let stations = [0, 1].map(|n| {
            let macs = [MACS[n], MacAddr::default()];
            let config = MemoryConfig { macs, offloads, ..MemoryConfig::default() };
            let (device, wire) = MemoryDevice::pair(config);
            let (stack, shard) = Stack::builder()
                .address(format!("{}/24", ip(n, false)).parse().unwrap())
                .address(format!("{}/64", ip(n, true)).parse().unwrap())
                .limits(Limits::default())
                .seed(n as u64)
                .build_shard(device)
                .unwrap();
            Station { stack, shard, wire: Wire(wire) }
        });
        Self { now: Instant::ZERO, stations, mtu, too_big: 0, last: Vec::new() }
    }

    fn left(&self) -> &Stack {
        &self.stations[0].stack
    }

    fn right(&self) -> &Stack {
        &self.stations[1].stack
    }

    /// A millisecond of traffic.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        for n in [0, 1] {
            self.stations[n].shard.turn(self.now).unwrap();
            for received in self.stations[n].wire.recv() {
                self.route(n, &received);
            }
        }
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.step();
        }
    }

    fn route(&mut self, from: usize, received: &Received) {
        let (frame, meta) = received;
        let packet = &frame[14..];
        let is_tcp = packet.get(if packet[0] >> 4 == 4 { 9 } else { 6 }) == Some(&TCP);
        if from == 0 && is_tcp {
            self.last = packet.to_vec();
        }
        if wire_len(packet, meta) <= self.mtu {
            return self.stations[1 - from].wire.forward(received);
        }
        self.too_big += 1;
        let v6 = packet[0] >> 4 == 6;
        if !v6 {
            assert_eq!(packet[6] & 0x40, 0x40, "what may be cut on the way is not too big");
        }
        let error = too_big(packet, self.mtu as u32);
        self.tell(from, v6, &error);
    }

    /// An ICMP message to a station, from somewhere.
    fn tell(&mut self, to: usize, v6: bool, message: &[u8]) {
        let protocol = if v6 { ICMPV6 } else { ICMP };
        let macs = (MACS[to], ROUTER);
        let frame = wire::ip_frame(macs, (ip(8, v6), ip(to, v6)), protocol, message);
        self.stations[to].wire.send(&frame);
    }

    fn connect(&mut self, v6: bool) -> (TcpStream, TcpStream) {
        let address = SocketAddr::new(ip(1, v6), 80);
        let listener = TcpListener::bind(self.right(), address).unwrap();
        listener.set_nonblocking(true);
        let near = TcpStream::start(self.left(), address).unwrap();
        near.set_nonblocking(true);
        for _ in 0..100 {
            self.step();
            if let Ok((far, _)) = listener.accept() {
                far.set_nonblocking(true);
                self.run(5);
                return (near, far);
            }
        }
        panic!("nobody connects");
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.left().stats().drops[reason]
    }
}

/// Length of the longest packet that a frame becomes.
fn wire_len(packet: &[u8], meta: &RxMeta) -> usize {
    let headers = if packet[0] >> 4 == 4 { 40 } else { 60 };
    meta.segmentation.map_or(packet.len(), |size| headers + usize::from(size.get()))
}

/// "Fragmentation needed" (RFC 1191 §4) or "packet too big" (RFC 4443 §3.2) about a packet.
fn too_big(packet: &[u8], mtu: u32) -> Vec<u8> {
    let quote = &packet[..packet.len().min(100)];
    let [a, b, c, d] = mtu.to_be_bytes();
    let header =
        if packet[0] >> 4 == 4 { [3, 4, 0, 0, 0, 0, c, d] } else { [2, 0, 0, 0, a, b, c, d] };
    [&header[..], quote].concat()
}

#[test]
fn segments_shrink_to_the_path_and_nothing_waits_for_a_timer() {
    for (offloads, v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut net = Net::new(1300, offloads);
        let (near, far) = net.connect(v6);
        let mss = if v6 { 1240 } else { 1260 };
        assert_eq!(near.info().mss, mss + 200);
        let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut sent, mut received) = (0, Vec::new());
        let start = net.now;
        while received.len() < data.len() {
            sent += (&near).write(&data[sent..]).unwrap_or(0);
            let mut buffer = [0; 10_000];
            while let Ok(len @ 1..) = (&far).read(&mut buffer) {
                received.extend_from_slice(&buffer[..len]);
            }
            net.step();
            let passed = net.now - start;
            assert!(passed < Duration::from_millis(900), "offloads {offloads}, IPv6 {v6}");
        }
        assert!(received == data);
        let info = near.info();
        assert_eq!(info.mss, mss);
        assert!(info.retransmissions > 0 && (1..20).contains(&net.too_big), "{info:?}");
        assert_eq!(net.left().stats().path_mtus, 1);

        // The next connection knows.
        let before = net.too_big;
        drop((near, far));
        net.run(50);
        let (near, far) = net.connect(v6);
        (&near).write_all(&data[..5000]).unwrap();
        net.run(50);
        assert_eq!((near.info().mss, far.info().unread, net.too_big), (mss, 5000, before));
    }
}

#[test]
fn a_report_about_nothing_in_flight_changes_nothing() {
    for v6 in [false, true] {
        let mut net = Net::new(1500, false);
        let (near, _far) = net.connect(v6);
        let packet = net.last.clone();
        let header_len = if v6 { 40 } else { 20 };
        let mut long = packet[..header_len + 20].to_vec();
        long.resize(1500, 0);
        let len_at = if v6 { 4 } else { 2 };
        let len = if v6 { 1460_u16 } else { 1500 };
        long[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
        let mss = near.info().mss;

        // Another port: there is no such flow.
        let mut other = long.clone();
        other[header_len] ^= 0x40;
        net.tell(0, v6, &too_big(&other, 1280));
        net.step();
        assert_eq!(net.drops(DropReason::IcmpNoFlow), 1);
        // The flow, but everything it has sent was acknowledged.
        net.tell(0, v6, &too_big(&long, 1280));
        net.step();
        assert_eq!(net.drops(DropReason::IcmpNotInFlight), 1);
        // In flight, but a size that is not believed.
        (&near).write_all(b"x").unwrap();
        net.stations[0].shard.turn(net.now).unwrap();
        let small = if v6 { 1279 } else { 2000 };
        net.tell(0, v6, &too_big(&long, small));
        net.stations[0].shard.turn(net.now).unwrap();
        assert_eq!(net.drops(DropReason::IcmpIgnored), 1);
        assert_eq!((near.info().mss, net.left().stats().path_mtus), (mss, 0));
        // The same again, right: the test is not blind.
        net.tell(0, v6, &too_big(&long, 1300));
        net.stations[0].shard.turn(net.now).unwrap();
        assert_eq!(near.info().mss, mss - 200);
    }
}

#[test]
fn datagrams_are_cut_to_the_path() {
    let mut net = Net::new(1300, false);
    let near = UdpSocket::bind(net.left(), "[::]:7".parse().unwrap()).unwrap();
    let far = UdpSocket::bind(net.right(), "[::]:8".parse().unwrap()).unwrap();
    far.set_nonblocking(true);
    let to = SocketAddr::new(ip(1, true), 8);
    let mut buffer = [0; 4000];
    near.send_to(&[5; 3000], to).unwrap();
    net.run(10);
    assert!(far.recv_from(&mut buffer).is_err(), "fragments of 1500 bytes got through");
    assert_eq!(near.path_mtu(to.ip()), 1300);
    near.send_to(&[6; 3000], to).unwrap();
    net.run(10);
    assert_eq!(far.recv_from(&mut buffer).unwrap().0, 3000);
    assert_eq!(buffer[..3000], [6; 3000]);

    near.set_dont_fragment(true);
    let error = near.send_to(&[7; 1253], to).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("1252"), "{error}");
    near.send_to(&[7; 1252], to).unwrap();
    net.run(10);
    assert_eq!(far.recv_from(&mut buffer).unwrap().0, 1252);

    // Ten minutes later it may be longer again.
    net.now += Duration::from_secs(600);
    net.step();
    assert_eq!(near.path_mtu(to.ip()), 1500);
}

#[test]
fn a_connected_socket_is_told_that_nobody_is_there() {
    let mut net = Net::new(1500, false);
    let socket = UdpSocket::bind(net.left(), "10.0.0.1:0".parse().unwrap()).unwrap();
    socket.set_nonblocking(true);
    assert_eq!(kind(socket.send(b"x")), std::io::ErrorKind::NotConnected);
    let closed = SocketAddr::new(ip(1, false), 9);
    // Not connected: counted, not told.
    socket.send_to(b"x", closed).unwrap();
    net.run(10);
    assert_eq!(kind(socket.recv_from(&mut [0; 9])), std::io::ErrorKind::WouldBlock);
    assert_eq!(net.drops(DropReason::IcmpIgnored), 1);
    socket.connect(closed).unwrap();
    assert_eq!(socket.peer_addr().unwrap(), closed);
    socket.send(b"x").unwrap();
    net.run(10);
    assert_eq!(kind(socket.recv(&mut [0; 9])), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(kind(socket.recv(&mut [0; 9])), std::io::ErrorKind::WouldBlock, "told once");

    // An error about a datagram that was never sent.
    let local = socket.local_addr();
    let udp = [local.port().to_be_bytes(), [0, 77], [0, 8], [0, 0]].concat();
    let quoted = wire::ip(local.ip(), closed.ip(), wire::UDP, &udp);
    let refused = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
    net.tell(0, false, &refused);
    net.step();
    assert_eq!(net.drops(DropReason::IcmpNoFlow), 1);
    assert!(socket.take_error().unwrap().is_none());
}

#[test]
fn a_reset_counts_only_where_it_is_expected() {
    let mut net = Net::new(1500, false);
    let (near, _far) = net.connect(false);
    let packet = net.last.clone();
    let [local, remote] = [&packet[20..22], &packet[22..24]];
    let rcv_nxt = u32::from_be_bytes(packet[28..32].try_into().unwrap());
    let segment = |seq: u32, flags: u8| {
        let seq = seq.to_be_bytes();
        let rest = [0, 0, 0, 0, 5 << 4, flags, 1, 0, 0, 0, 0, 0];
        let tcp = [remote, local, &seq, &rest].concat();
        wire::ip_frame((MACS[0], MACS[1]), (ip(1, false), ip(0, false)), TCP, &tcp)
    };
    let acks = |net: &mut Net| {
        net.stations[0].shard.turn(net.now).unwrap();
        net.stations[0].wire.recv().iter().filter(|(frame, _)| frame[14 + 9] == TCP).count()
    };
    // Out of the window: nothing. In the window: a challenge, once in a while.
    net.stations[0].wire.send(&segment(rcv_nxt.wrapping_sub(1), RST));
    assert_eq!((acks(&mut net), net.drops(DropReason::TcpReset)), (0, 1));
    net.stations[0].wire.send(&segment(rcv_nxt.wrapping_add(1), RST));
    assert_eq!((acks(&mut net), net.drops(DropReason::TcpReset)), (1, 2));
    net.stations[0].wire.send(&segment(rcv_nxt.wrapping_add(2), RST));
    assert_eq!((acks(&mut net), net.drops(DropReason::RateLimited)), (0, 1));
    net.now += Duration::from_millis(600);
    net.stations[0].wire.send(&segment(rcv_nxt.wrapping_add(5), SYN));
    assert_eq!((acks(&mut net), net.drops(DropReason::TcpSyn)), (1, 1));
    near.write_with(|space| {
        space[0] = 1;
        (1, ())
    })
    .unwrap();
    // The next byte expected: that is the peer.
    net.stations[0].wire.send(&segment(rcv_nxt, RST));
    net.step();
    assert_eq!(kind((&near).read(&mut [0; 1])), std::io::ErrorKind::ConnectionReset);
    assert_eq!(near.take_error().unwrap().unwrap().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(near.take_error().unwrap().is_none());
}

#[test]
fn raw_sockets_speak_any_protocol_and_get_copies_of_the_others() {
    let mut net = Net::new(1500, false);
    for (v6, version) in [(false, IpVersion::V4), (true, IpVersion::V6)] {
        let near = RawSocket::new(net.left(), version, 253).unwrap();
        near.send_to(&[1; 10], ip(1, v6)).unwrap();
        net.run(10);
        assert_eq!(net.right().stats().drops[DropReason::UnknownProtocol], 1 + u64::from(v6));
        let far = RawSocket::new(net.right(), version, 253).unwrap();
        far.set_nonblocking(true);
        let mut buffer = [0; 4000];
        for len in [1, 3000] {
            near.send_to(&vec![2; len], ip(1, v6)).unwrap();
            net.run(10);
            assert_eq!(far.recv_from(&mut buffer).unwrap(), (len, ip(0, v6)));
            assert!(buffer[..len].iter().all(|byte| *byte == 2));
        }
        assert_eq!(net.right().stats().drops[DropReason::UnknownProtocol], 1 + u64::from(v6));
        let wrong = near.send_to(b"x", ip(1, !v6));
        assert_eq!(kind(wrong), std::io::ErrorKind::InvalidInput);

        // TCP is heard, and still works.
        let tap = RawSocket::new(net.right(), version, TCP).unwrap();
        tap.set_nonblocking(true);
        let (near, far) = net.connect(v6);
        (&near).write_all(b"both").unwrap();
        net.run(20);
        assert_eq!(far.info().unread, 4);
        let (len, from) = tap.recv_from(&mut buffer).unwrap();
        assert_eq!((from, buffer[13]), (ip(0, v6), 2), "{len} bytes of a SYN");
        // Nobody reads the rest: the queue is bounded.
        for _ in 0..400 {
            (&near).write_all(b"more").unwrap();
            net.run(2);
        }
        assert!(net.right().stats().drops[DropReason::RawQueueFull] > 0);
        assert_eq!(far.info().unread, 4 + 400 * 4);
    }
    assert_eq!(
        kind(RawSocket::new(net.left(), IpVersion::V6, 44).map(drop)),
        std::io::ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(RawSocket::new(net.left(), IpVersion::V4, 0).map(drop)),
        std::io::ErrorKind::InvalidInput
    );
}

#[test]
fn custom_protocols_learn_the_path_mtu() {
    let mut net = Net::new(1400, false);
    let attach = |stack: &Stack| {
        stack.attach(ProbeHeader::SELECTOR, Probe::new(ProbeConfig::default())).unwrap()
    };
    let (near, _far) = (attach(net.left()), attach(net.right()));
    let mut ask = || {
        let request = Request { payload: 1430, ..Request::to(ip(1, true)) };
        near.with(|near| near.request(request)).unwrap();
        net.run(1100);
        matches!(near.with(Probe::result).unwrap().outcome, Outcome::Reply { .. })
    };
    // The request is too long, then the reply; then both are fragmented.
    assert_eq!([ask(), ask(), ask()], [false, false, true]);
    assert_eq!(net.too_big, 2);
}

#[test]
fn headers_say_what_the_options_do() {
    for v6 in [false, true] {
        let mut net = Net::new(1500, false);
        let (near, _far) = net.connect(v6);
        near.set_ttl(9);
        near.set_tos(0xb8);
        assert_eq!((near.ttl(), near.tos()), (9, 0xb8));
        (&near).write_all(b"expedited").unwrap();
        net.run(3);
        let header = |packet: &[u8]| match packet[0] >> 4 {
            4 => (packet[8], packet[1]),
            _ => (packet[7], packet[0] << 4 | packet[1] >> 4),
        };
        assert_eq!(header(&net.last), (9, 0xb8));

        let socket = UdpSocket::bind(net.left(), SocketAddr::new(ip(0, v6), 0)).unwrap();
        socket.set_ttl(3);
        socket.set_tos(4);
        socket.send_to(b"x", SocketAddr::new(ip(1, v6), 9)).unwrap();
        net.stations[0].shard.turn(net.now).unwrap();
        let frames = net.stations[0].wire.recv();
        let (frame, _) =
            frames.iter().find(|(frame, _)| frame[12] == (IPV4 >> 8) as u8 || v6).unwrap();
        assert_eq!(header(&frame[14..]), (3, 4));
    }
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> std::io::ErrorKind {
    result.unwrap_err().kind()
}
