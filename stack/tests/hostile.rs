//! Whatever arrives, nothing panics, every frame is accounted for, and every connection ends.

mod wire;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use underpass::devices::{
    Instant, MacAddr, MemoryConfig, MemoryDevice, PartialChecksum, SegmentKind, Segmentation,
    TxMeta,
};
use underpass::{Limits, Shard, Stack, Stats, TcpListener, TcpStream, UdpSocket};
use wire::{ARP, ICMP, ICMPV6, IPV4, IPV6, Received, TCP, UDP, Wire};

const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Where the stack under attack listens, and where its peer does.
const PORTS: [u16; 2] = [80, 81];
const UDP_PORT: u16 = 7;

fn ours(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 1).into()
    }
}

fn peer(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 2).into()
    }
}

/// A stack, its wire, and what it uses.
struct Station {
    stack: Stack,
    shard: Shard<MemoryDevice>,
    wire: Wire,
}

impl Station {
    fn new(mac: MacAddr, address: impl Fn(bool) -> IpAddr, seed: u64) -> Self {
        // What goes into the device comes out at the wire, and the other way round. Offloads let
        // the wire vouch for checksums.
        let config = MemoryConfig {
            macs: [mac, MacAddr::default()],
            offloads: true,
            ..MemoryConfig::default()
        };
        let (device, wire) = MemoryDevice::pair(config);
        let (stack, shard) = Stack::builder()
            .address(format!("{}/24", address(false)).parse().unwrap())
            .address(format!("{}/64", address(true)).parse().unwrap())
            .limits(limits())
            .seed(seed)
            .build_shard(device)
            .unwrap();
        Self { stack, shard, wire: Wire(wire) }
    }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.flows = 32;
    limits.half_open = 8;
    limits.send_buffer = 8 * 1024;
    limits.recv_buffer = 8 * 1024;
    limits.udp_sockets = 4;
    limits.udp_bytes = 8 * 1024;
    limits.udp_datagrams = 8;
    limits.neighbors = 16;
    limits.reassembly_datagrams = 8;
    limits.reassembly_bytes = 64 * 1024;
    limits.errors_per_second = u32::MAX;
    limits
}

/// The stack under attack and an honest peer with four connections between them, one from either
/// side over each IP version.
struct World {
    now: Instant,
    target: Station,
    peer: Station,
    listener: TcpListener,
    peer_listener: TcpListener,
    udp: UdpSocket,
    peer_udp: UdpSocket,
    streams: Vec<TcpStream>,
    peer_streams: Vec<TcpStream>,
    /// Every frame the peer sent.
    recorded: Vec<Received>,
    /// What the target sent last in each of its connections.
    sequences: HashMap<Ends, Sequence>,
    /// The ends of the honest connections.
    honest: Vec<Ends>,
    /// Frames put onto the target's wire.
    sent: u64,
}

/// IP version, the target's port, the peer's port.
type Ends = (bool, u16, u16);

#[derive(Clone, Copy, Default)]
struct Sequence {
    /// The next byte the target sends.
    snd_nxt: u32,
    /// The next byte it expects.
    rcv_nxt: u32,
}

impl World {
    /// A network without any connection.
    fn quiet() -> Self {
        let target = Station::new(OUR_MAC, ours, 1);
        let other = Station::new(PEER_MAC, peer, 2);
        let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = TcpListener::bind_with_backlog(&target.stack, any(PORTS[0]), 4).unwrap();
        let peer_listener = TcpListener::bind(&other.stack, any(PORTS[1])).unwrap();
        listener.set_nonblocking(true);
        peer_listener.set_nonblocking(true);
        let udp = UdpSocket::bind(&target.stack, any(UDP_PORT)).unwrap();
        let peer_udp = UdpSocket::bind(&other.stack, any(UDP_PORT)).unwrap();
        udp.set_nonblocking(true);
        peer_udp.set_nonblocking(true);
        Self {
            now: Instant::ZERO,
            target,
            peer: other,
            listener,
            peer_listener,
            udp,
            peer_udp,
            streams: Vec::new(),
            peer_streams: Vec::new(),
            recorded: Vec::new(),
            sequences: HashMap::new(),
            honest: Vec::new(),
            sent: 0,
        }
    }

    /// The same after an exchange of everything that the stack speaks, connections still open.
    fn live() -> Self {
        let mut world = Self::quiet();
        for v6 in [false, true] {
            let to = SocketAddr::new(ours(v6), PORTS[0]);
            world.peer_streams.push(TcpStream::start(&world.peer.stack, to).unwrap());
            let to = SocketAddr::new(peer(v6), PORTS[1]);
            world.streams.push(TcpStream::start(&world.target.stack, to).unwrap());
            world.run_for(Duration::from_millis(20));
            world.accept();
            let to = SocketAddr::new(ours(v6), UDP_PORT);
            for len in [3, 4000] {
                world.peer_udp.send_to(&vec![1; len], to).unwrap();
            }
        }
        assert_eq!((world.streams.len(), world.peer_streams.len()), (4, 4));
        for stream in world.streams.iter().chain(&world.peer_streams) {
            stream.set_nonblocking(true);
            (&mut &*stream).write_all(&[2; 3000]).unwrap();
        }
        world.run_for(Duration::from_millis(20));
        for stream in world.streams.iter().chain(&world.peer_streams) {
            assert_eq!((&mut &*stream).read(&mut [0; 4096]).unwrap(), 3000);
        }
        world.honest = world.sequences.keys().copied().collect();
        world.honest.sort_unstable();
        assert_eq!(world.honest.len(), 4);
        assert_eq!(world.target.stack.stats().reassembled, 2);
        world
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true);
            self.streams.push(stream);
        }
        while let Ok((stream, _)) = self.peer_listener.accept() {
            self.peer_streams.push(stream);
        }
    }

    /// Puts a frame onto the target's wire and lets it be looked at.
    fn inject(&mut self, frame: &[u8], meta: TxMeta) {
        self.target.wire.send_with(frame, meta);
        self.sent += 1;
        self.turn();
    }

    /// Turns the target; notes what it sent and returns what is for the peer.
    fn turn(&mut self) -> (Vec<Received>, Option<Instant>) {
        let turn = self.target.shard.turn(self.now).unwrap();
        let mut frames = self.target.wire.recv();
        frames.retain(|(frame, _)| match sequence(frame) {
            Some((ends, sequence)) => {
                self.sequences.insert(ends, sequence);
                // The peer does not see what belongs to connections that an attacker began.
                self.honest.is_empty() || self.honest.contains(&ends)
            }
            None => true,
        });
        (frames, if turn.busy { Some(self.now) } else { turn.next })
    }

    /// Lets both stacks go on for `time`.
    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let (to_peer, next) = self.turn();
            for frame in &to_peer {
                self.peer.wire.forward(frame);
            }
            let turn = self.peer.shard.turn(self.now).unwrap();
            let to_target = self.peer.wire.recv();
            for frame in &to_target {
                self.target.wire.forward(frame);
                self.sent += 1;
            }
            let moved = !to_peer.is_empty() || !to_target.is_empty() || turn.busy;
            self.recorded.extend(to_target);
            let next = if moved { None } else { [next, turn.next].into_iter().flatten().min() };
            // A frame takes this long, so that endless exchanges end with `time`.
            let soon = self.now + Duration::from_micros(100);
            self.now = match next {
                Some(next) => next.max(soon).min(end),
                None if moved => soon,
                None => end,
            };
        }
    }

    fn stats(&self) -> Stats {
        self.target.stack.stats()
    }

    /// What must hold at any time.
    fn check(&self) {
        let (stats, limits) = (self.stats(), limits());
        assert_eq!(stats.rx_frames, self.sent, "{stats}");
        assert!(stats.tcp_flows <= limits.flows, "{stats}");
        assert!(stats.tcp_half_open <= limits.half_open, "{stats}");
        assert!(stats.neighbors <= limits.neighbors + 1024, "{stats}");
    }

    /// Lets go of every connection; all of them have to end.
    fn finish(mut self) {
        self.check();
        self.accept();
        self.streams.clear();
        self.peer_streams.clear();
        self.run_for(Duration::from_secs(1));
        self.accept();
        self.streams.clear();
        self.run_for(Duration::from_secs(400));
        self.accept();
        self.streams.clear();
        self.run_for(Duration::from_secs(400));
        let stats = self.stats();
        assert_eq!((stats.tcp_flows, stats.tcp_half_open), (0, 0), "{stats}");
    }

    /// How many frames the target has dropped, answered or otherwise taken note of.
    fn noticed(&self) -> u64 {
        let stats = self.stats();
        stats.drops.total() + stats.tx_frames + stats.address_conflicts
    }
}

/// Reads the ends and sequence numbers of a TCP segment that the target sent.
fn sequence(frame: &[u8]) -> Option<(Ends, Sequence)> {
    let (v6, protocol, at) = match wire::ether_type(frame) {
        IPV4 => (false, frame[23], 34),
        IPV6 => (true, frame[20], 54),
        _ => return None,
    };
    if protocol != TCP {
        return None;
    }
    let tcp = &frame[at..];
    let word = |at: usize| u32::from_be_bytes(*tcp[at..].first_chunk().unwrap());
    let half = |at: usize| u16::from_be_bytes(*tcp[at..].first_chunk().unwrap());
    let data = tcp.len() - usize::from(tcp[12] >> 4) * 4;
    let syn_fin = u32::from(tcp[13] & 1) + u32::from(tcp[13] >> 1 & 1);
    let snd_nxt = word(4).wrapping_add(data as u32).wrapping_add(syn_fin);
    Some(((v6, half(0), half(2)), Sequence { snd_nxt, rcv_nxt: word(8) }))
}

/// One thing an attacker who sees the connections may do, or the program, or time.
#[derive(Clone, Debug)]
enum Event {
    Segment(Segment),
    Repeat(Mutation),
    Wait(u64),
    Read,
    Write(usize),
    Accept,
    Shutdown(Index),
    Abort(Index),
}

#[derive(Clone, Debug)]
struct Segment {
    v6: bool,
    /// An honest connection, or one of the attacker's own.
    connection: Option<Index>,
    port: u16,
    seq: Number,
    ack: Number,
    flags: u8,
    window: u16,
    urgent: u16,
    options: Vec<u8>,
    data_len: usize,
    /// Header length in words, if it is to be wrong.
    header_words: Option<u8>,
}

/// A sequence number relative to what the target would like.
#[derive(Clone, Debug)]
enum Number {
    Near(i32),
    Any(u32),
}

impl Number {
    fn from(&self, expected: u32) -> u32 {
        match self {
            Self::Near(offset) => expected.wrapping_add_signed(*offset),
            Self::Any(number) => *number,
        }
    }
}

/// A recorded frame with changes.
#[derive(Clone, Debug)]
struct Mutation {
    frame: Index,
    changes: Vec<(Index, u8)>,
    len: Option<Index>,
    fix_checksums: bool,
    vouch: bool,
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        4 => Just(Number::Near(0)),
        4 => (-3..=3).prop_map(Number::Near),
        2 => (-70_000..=70_000).prop_map(Number::Near),
        1 => prop_oneof![Just(i32::MIN), Just(i32::MAX)].prop_map(Number::Near),
        1 => any::<u32>().prop_map(Number::Any),
    ]
}

fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![
        4 => Just(0x10), 2 => Just(0x02), 1 => Just(0x12), 1 => Just(0x11), 1 => Just(0x04),
        1 => Just(0x14), 1 => Just(0x01), 2 => any::<u8>(),
    ];
    let options = prop_oneof![
        3 => Just(Vec::new()),
        // Maximum segment size, window scale, timestamps, selective acknowledgement.
        1 => any::<[u8; 2]>().prop_map(|[a, b]| vec![2, 4, a, b]),
        1 => any::<u8>().prop_map(|shift| vec![3, 3, shift, 1]),
        1 => any::<[u8; 8]>().prop_map(|t| [&[8, 10], &t[..], &[1, 1]].concat()),
        1 => vec(any::<u8>(), 0..10).prop_map(|s| [&[4, 2, 5, s.len() as u8 * 4 + 2], &s[..]].concat()),
        1 => vec(any::<u8>(), 0..40),
    ];
    let data_len = prop_oneof![3 => Just(0), 2 => 1..20_usize, 1 => 1..9000_usize];
    let header_words = prop_oneof![8 => Just(None), 1 => (0..16_u8).prop_map(Some)];
    (
        (any::<bool>(), prop::option::weighted(0.8, any::<Index>()), 1000..1004_u16),
        (number(), number(), flags),
        (prop_oneof![any::<u16>(), Just(0)], any::<u16>(), options, data_len, header_words),
    )
        .prop_map(|((v6, connection, port), (seq, ack, flags), rest)| {
            let (window, urgent, options, data_len, header_words) = rest;
            Segment {
                v6,
                connection,
                port,
                seq,
                ack,
                flags,
                window,
                urgent,
                options,
                data_len,
                header_words,
            }
        })
}

fn mutation() -> impl Strategy<Value = Mutation> {
    (
        any::<Index>(),
        vec((any::<Index>(), any::<u8>()), 0..4),
        prop::option::weighted(0.3, any::<Index>()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(frame, changes, len, fix_checksums, vouch)| Mutation {
            frame,
            changes,
            len,
            fix_checksums,
            vouch,
        })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => segment().prop_map(Event::Segment),
        6 => mutation().prop_map(Event::Repeat),
        3 => (0..3000_u64).prop_map(Event::Wait),
        1 => (3000..200_000_u64).prop_map(Event::Wait),
        2 => Just(Event::Read),
        2 => (0..9000_usize).prop_map(Event::Write),
        1 => Just(Event::Accept),
        1 => any::<Index>().prop_map(Event::Shutdown),
        1 => any::<Index>().prop_map(Event::Abort),
    ]
}

impl World {
    fn happen(&mut self, event: &Event) {
        match event {
            Event::Segment(segment) => {
                let frame = self.segment(segment);
                self.inject(&frame, meta(&frame, false));
            }
            Event::Repeat(mutation) => {
                let (frame, meta) = self.mutated(mutation);
                self.inject(&frame, meta);
            }
            Event::Wait(millis) => self.run_for(Duration::from_millis(*millis)),
            Event::Read => {
                let mut buffer = [0; 9000];
                for stream in &self.streams {
                    let _whatever = (&mut &*stream).read(&mut buffer);
                }
                while self.udp.recv_from(&mut buffer).is_ok() {}
            }
            Event::Write(len) => {
                for stream in &self.streams {
                    let _whatever = (&mut &*stream).write(&vec![3; *len]);
                }
                for v6 in [false, true] {
                    let to = SocketAddr::new(peer(v6), UDP_PORT);
                    let _whatever = self.udp.send_to(&vec![4; *len], to);
                }
            }
            Event::Accept => self.accept(),
            Event::Shutdown(index) => {
                let stream = &self.streams[index.index(self.streams.len())];
                let _whatever = stream.shutdown(Shutdown::Write);
            }
            Event::Abort(index) => self.streams[index.index(self.streams.len())].abort(),
        }
    }

    fn segment(&self, segment: &Segment) -> Vec<u8> {
        let ends = match &segment.connection {
            Some(index) => self.honest[index.index(self.honest.len())],
            None => (segment.v6, PORTS[0], segment.port),
        };
        let (v6, our_port, peer_port) = ends;
        let known = self.sequences.get(&ends).copied().unwrap_or_default();
        let mut options = segment.options.clone();
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        let words = segment.header_words.unwrap_or(5 + options.len() as u8 / 4);
        let tcp = [
            &peer_port.to_be_bytes()[..],
            &our_port.to_be_bytes(),
            &segment.seq.from(known.rcv_nxt).to_be_bytes(),
            &segment.ack.from(known.snd_nxt).to_be_bytes(),
            &[words << 4, segment.flags],
            &segment.window.to_be_bytes(),
            &[0, 0],
            &segment.urgent.to_be_bytes(),
            &options,
            &vec![9; segment.data_len],
        ]
        .concat();
        wire::ip_frame((OUR_MAC, PEER_MAC), (peer(v6), ours(v6)), TCP, &tcp)
    }

    fn mutated(&self, mutation: &Mutation) -> (Vec<u8>, TxMeta) {
        let mut frame = mutation.frame.get(&self.recorded).0.clone();
        if let Some(len) = &mutation.len {
            frame.truncate(14 + len.index(frame.len() - 13));
        }
        for (at, change) in &mutation.changes {
            // The destination stays, so that it is looked at.
            if frame.len() > 6 {
                let at = 6 + at.index(frame.len() - 6);
                frame[at] ^= change;
            }
        }
        if mutation.fix_checksums {
            wire::fix_checksums(&mut frame);
        }
        let meta = meta(&frame, mutation.vouch);
        (frame, meta)
    }
}

/// What the link says of a frame: that it is a coalesced one if it is too long for a single one, and
/// that its checksum is right if asked to vouch for it.
fn meta(frame: &[u8], vouch: bool) -> TxMeta {
    let v6 = wire::ether_type(frame) == IPV6;
    let start = if v6 { 54 } else { 34 };
    let long = frame.len() > 1514;
    let vouch = long || vouch && frame.len() >= usize::from(start) + 18;
    let kind = if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
    TxMeta {
        checksum: vouch.then_some(PartialChecksum { start, offset: 16 }),
        segmentation: NonZeroU16::new(1400).filter(|_| long).map(|size| Segmentation {
            kind,
            size,
            header_len: start + 20,
        }),
    }
}

/// Whoever knows the ports can send a SYN, whatever its sequence number; it must not decide how a
/// running connection is cut.
#[test]
fn a_stray_syn_does_not_change_the_segment_size() {
    for mss in [0_u16, 1, 88] {
        let mut world = World::live();
        for connection in 0..world.honest.len() {
            let (v6, our_port, peer_port) = world.honest[connection];
            let [high, low] = mss.to_be_bytes();
            let ports = [peer_port.to_be_bytes(), our_port.to_be_bytes()].concat();
            let rest = [1, 2, 3, 4, 0, 0, 0, 0, 6 << 4, 2, 9, 9, 0, 0, 0, 0, 2, 4, high, low];
            let macs = (OUR_MAC, PEER_MAC);
            let syn =
                wire::ip_frame(macs, (peer(v6), ours(v6)), TCP, &[&ports[..], &rest].concat());
            world.inject(&syn, TxMeta::default());
        }
        for stream in &world.streams {
            assert_eq!((&mut &*stream).write(&[5; 8000]).unwrap(), 8000);
        }
        let (frames, _) = world.turn();
        let sizes: Vec<u16> =
            frames.iter().filter_map(|(_, meta)| meta.segmentation.map(u16::from)).collect();
        assert!(sizes.len() >= 4, "{} frames, {sizes:?}", frames.len());
        assert!(sizes.iter().all(|size| *size >= 1400), "cut into pieces of {sizes:?} bytes");
    }
}

/// A peer may ask for tiny segments in its own SYN; one frame must not become tens of thousands
/// (CVE-2019-11479).
#[test]
fn a_tiny_maximum_segment_size_is_not_followed() {
    for mss in [1_u16, 47] {
        let mut world = World::live();
        let honest = std::mem::take(&mut world.honest);
        let [high, low] = mss.to_be_bytes();
        let syn = [
            &[1_u8, 2, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 6 << 4, 2, 99, 99, 0, 0, 0, 0][..],
            &[2, 4, high, low],
        ]
        .concat();
        let ends = (peer(false), ours(false));
        let macs = (OUR_MAC, PEER_MAC);
        world.inject(&wire::ip_frame(macs, ends, TCP, &syn), TxMeta::default());
        let isn = world.sequences[&(false, 80, 0x102)].snd_nxt;
        let ack = [
            &[1_u8, 2, 0, 80, 0, 0, 0, 10][..],
            &isn.to_be_bytes(),
            &[5 << 4, 0x10, 99, 99, 0, 0, 0, 0],
        ]
        .concat();
        world.inject(&wire::ip_frame(macs, ends, TCP, &ack), TxMeta::default());
        let (stream, _) = world.listener.accept().unwrap();
        stream.set_nonblocking(true);
        assert_eq!((&mut &stream).write(&[5; 8000]).unwrap(), 8000);
        let (frames, _) = world.turn();
        assert!(!frames.is_empty());
        for (frame, meta) in &frames {
            let size = meta.segmentation.map_or(frame.len() - 54, |size| usize::from(size.get()));
            assert!(size >= 48, "cut into pieces of {size} bytes");
        }
        world.honest = honest;
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Bytes without any sense are dropped, and counted one by one.
    #[test]
    fn arbitrary_bytes_are_counted(
        frames in vec((prop_oneof![Just(IPV4), Just(IPV6), Just(ARP), any::<u16>()],
            any::<bool>(), vec(any::<u8>(), 0..200)), 1..20),
    ) {
        let mut world = World::quiet();
        for (ether_type, for_us, bytes) in frames {
            let dst = if for_us { OUR_MAC } else { MacAddr::default() };
            let before = world.stats().drops.total();
            world.inject(&wire::ethernet(dst, PEER_MAC, ether_type, &bytes), TxMeta::default());
            prop_assert_eq!(world.stats().drops.total() - before, 1);
        }
        world.check();
    }

    /// A whole IP packet of any protocol is delivered, answered or, in the end, counted as dropped.
    #[test]
    fn no_packet_disappears(
        packets in vec((any::<bool>(),
            prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), any::<u8>()],
            prop_oneof![Just(UDP_PORT), Just(PORTS[0]), any::<u16>()],
            vec(any::<u8>(), 0..100)), 1..20),
    ) {
        let mut world = World::quiet();
        for (v6, protocol, port, mut payload) in packets {
            if let (TCP | UDP, Some(field)) = (protocol, payload.get_mut(2..6)) {
                field[..2].copy_from_slice(&port.to_be_bytes());
                if protocol == UDP {
                    let len = payload.len() as u16;
                    payload[4..6].copy_from_slice(&len.to_be_bytes());
                }
            }
            let macs = (OUR_MAC, PEER_MAC);
            let frame = wire::ip_frame(macs, (peer(v6), ours(v6)), protocol, &payload);
            let before = world.noticed();
            world.inject(&frame, TxMeta::default());
            let delivered = world.udp.recv_from(&mut [0; 200]).is_ok();
            let opened = world.stats().tcp_flows > 0;
            // The first answer to the peer waits for its link address.
            let asked = world.stats().neighbors > 0;
            if !(delivered || opened || asked || world.noticed() > before) {
                // It can be a fragment, which is dropped once the others do not come.
                world.run_for(Duration::from_secs(120));
                prop_assert!(world.noticed() > before, "{}", world.stats());
            }
        }
        world.check();
    }

    /// An attacker who sees every sequence number, while both programs and time go on.
    #[test]
    fn connections_survive_or_end(events in vec(event(), 1..40)) {
        let mut world = World::live();
        for event in &events {
            world.happen(event);
            world.check();
        }
        world.finish();
    }

    /// Fragments of anything, in any order.
    #[test]
    fn fragments_of_anything(
        fragments in vec((any::<bool>(), 0..3_u8,
            prop_oneof![0..64_u16, any::<u16>()], any::<bool>(),
            prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), any::<u8>()],
            prop_oneof![Just(8_usize), Just(16), Just(1480), 0..1480_usize]), 1..60),
    ) {
        let mut world = World::quiet();
        for (v6, id, offset, more, protocol, len) in fragments {
            let macs = (OUR_MAC, PEER_MAC);
            let ends = (peer(v6), ours(v6));
            let frame = if v6 {
                let field = (offset << 3 | u16::from(more)).to_be_bytes();
                let head = [protocol, 0, field[0], field[1], 0, 0, 0, id];
                wire::ip_frame(macs, ends, 44, &[&head[..], &vec![0; len.min(1440)]].concat())
            } else {
                let mut frame = wire::ip_frame(macs, ends, protocol, &vec![0; len]);
                let field = (offset & 0x1fff | u16::from(more) << 13).to_be_bytes();
                frame[18..22].copy_from_slice(&[0, id, field[0], field[1]]);
                wire::fix_checksums(&mut frame);
                frame
            };
            world.inject(&frame, TxMeta::default());
            world.check();
        }
        world.run_for(Duration::from_secs(300));
    }

    /// Errors and other ICMP messages that quote anything, live connections above all.
    #[test]
    fn icmp_that_quotes_anything(
        messages in vec((any::<bool>(), any::<u8>(), any::<u8>(), any::<[u8; 4]>(),
            any::<Index>(), vec((any::<Index>(), any::<u8>()), 0..3), 0..120_usize), 1..20),
    ) {
        let mut world = World::live();
        for (v6, kind, code, rest, connection, changes, len) in messages {
            let (_, our_port, peer_port) = world.honest[connection.index(world.honest.len())];
            let ports = [our_port.to_be_bytes(), peer_port.to_be_bytes()].concat();
            let mut quoted = wire::ip(ours(v6), peer(v6), TCP, &[&ports[..], &[0; 60]].concat());
            for (at, change) in changes {
                *at.get_mut(&mut quoted) ^= change;
            }
            quoted.truncate(len);
            let message = [&[kind, code, 0, 0], &rest[..], &quoted].concat();
            let protocol = if v6 { ICMPV6 } else { ICMP };
            let ends = (peer(v6), ours(v6));
            let frame = wire::ip_frame((OUR_MAC, PEER_MAC), ends, protocol, &message);
            world.inject(&frame, TxMeta::default());
            world.check();
        }
        // None of them ends an established connection (RFC 5927).
        prop_assert_eq!(world.stats().tcp_failures, 0);
        world.finish();
    }
}
