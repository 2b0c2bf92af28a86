//! A stack with live sockets, and the wire in front of it that the fuzzer holds.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use underpass::devices::{Device, Instant, MacAddr, MemoryConfig, MemoryDevice, TxMeta};
use underpass::{
    IpVersion, Limits, Ping, RawSocket, RecordType, Route, Shard, Stack, TcpListener, TcpStream,
    UdpSocket,
};

use crate::tcp::{ACK, SYN, Segment};
use crate::wire::{self, Wire};

/// Link addresses of the stack and of everybody else.
pub const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// See [`OUR_MAC`].
pub const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Where the stack listens.
pub const TCP_PORT: u16 = 80;
/// Where its UDP socket is.
pub const UDP_PORT: u16 = 7;
/// The peer's port of the connection that is open from the start.
pub const PEER_PORT: u16 = 1000;
const WINDOW: u16 = 8192;
const TCP: u8 = 6;

/// An address of the stack (1), of its peer (2) or of another station.
pub fn address(v6: bool, station: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, station.into()).into()
    } else {
        Ipv4Addr::new(10, 0, 0, station).into()
    }
}

/// Small enough to be reached.
pub fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.flows = 32;
    limits.half_open = 16;
    limits.send_buffer = 8 * 1024;
    limits.recv_buffer = 8 * 1024;
    limits.udp_sockets = 4;
    limits.udp_bytes = 8 * 1024;
    limits.udp_datagrams = 8;
    limits.neighbors = 16;
    limits.path_mtus = 4;
    limits.raw_packets = 4;
    limits.reassembly_datagrams = 8;
    limits.reassembly_bytes = 64 * 1024;
    limits.errors_per_second = u32::MAX;
    limits
}

/// What a peer knows of a connection that it keeps by hand.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// IP version 6.
    pub v6: bool,
    /// Which station the peer is.
    pub station: u8,
    /// The peer's port.
    pub port: u16,
    /// The peer's next sequence number.
    pub seq: u32,
    /// The stack's next sequence number.
    pub ack: u32,
}

/// The stack, and the program that uses it.
pub struct Station {
    /// The stack.
    pub stack: Stack,
    shard: Shard<MemoryDevice>,
    wire: Wire,
    /// The time.
    pub now: Instant,
    /// What the stack has sent since it was last looked at.
    pub sent: Vec<Vec<u8>>,
    listener: TcpListener,
    /// Accepted connections.
    pub streams: Vec<TcpStream>,
    udp: UdpSocket,
    raw: RawSocket,
    ping: Ping,
    lookup: Option<Pin<Box<dyn Future<Output = ()>>>>,
    given: u64,
    routes: Vec<Route>,
}

impl Station {
    /// A stack that listens, without anything else.
    pub fn quiet() -> Self {
        Self::new(false)
    }

    /// A stack that asks for a lease, for a router and for a name, with a socket of every kind.
    pub fn busy() -> Self {
        let mut station = Self::new(true);
        station.run_for(Duration::from_millis(10));
        let resolver = station.stack.resolver();
        station.lookup = Some(Box::pin(async move {
            let _whatever = resolver.lookup("www.example.com", RecordType::A).await;
        }));
        let _no_reply_yet = station.ping.send(address(false, 2), 1, &[7; 8]);
        station.run_for(Duration::from_millis(10));
        station.routes = station.stack.routes();
        station
    }

    fn new(clients: bool) -> Self {
        // What goes into the device comes out at the wire. Offloads let the wire vouch for checksums.
        let config = MemoryConfig {
            macs: [OUR_MAC, MacAddr::default()],
            offloads: true,
            slots: 32,
            ..MemoryConfig::default()
        };
        let (device, wire) = MemoryDevice::pair(config);
        let (stack, shard) = Stack::builder()
            .address(format!("{}/24", address(false, 1)).parse().unwrap())
            .address(format!("{}/64", address(true, 1)).parse().unwrap())
            .dns_server(address(false, 2))
            .dhcp(clients)
            .slaac(clients)
            .limits(limits())
            .seed(1)
            .build_shard(device)
            .unwrap();
        let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = TcpListener::bind_with_backlog(&stack, any(TCP_PORT), 16).unwrap();
        listener.set_nonblocking(true);
        let udp = UdpSocket::bind(&stack, any(UDP_PORT)).unwrap();
        udp.set_nonblocking(true);
        let raw = RawSocket::new(&stack, IpVersion::V4, 253).unwrap();
        raw.set_nonblocking(true);
        let ping = Ping::new(&stack).unwrap();
        let routes = stack.routes();
        Self {
            stack,
            shard,
            wire: Wire(wire),
            now: Instant::ZERO,
            sent: Vec::new(),
            listener,
            streams: Vec::new(),
            udp,
            raw,
            ping,
            lookup: None,
            given: 0,
            routes,
        }
    }

    /// Puts a frame onto the wire and lets it be looked at. The device takes none that is shorter
    /// than its header or longer than a superframe.
    pub fn inject(&mut self, frame: &[u8], meta: TxMeta) {
        if frame.len() >= 14 {
            self.wire.send_with(frame, meta);
            self.given += 1;
            self.turn();
        }
    }

    /// Turns the shard until it has nothing to do.
    pub fn turn(&mut self) -> Option<Instant> {
        for _ in 0..1000 {
            let turn = self.shard.turn(self.now).unwrap();
            if let Some(lookup) = &mut self.lookup
                && lookup.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
            {
                self.lookup = None;
            }
            let frames = self.wire.recv();
            for (frame, _) in &frames {
                self.answer(frame);
            }
            let idle = !turn.busy && frames.is_empty();
            self.sent.extend(frames.into_iter().map(|(frame, _)| frame));
            if idle {
                return turn.next;
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Answers questions about the link address of every station but the stack itself.
    fn answer(&mut self, frame: &[u8]) {
        let ether_type = wire::ether_type(frame);
        if ether_type == wire::ARP && frame.get(21) == Some(&1) && frame.len() >= 42 {
            let target: [u8; 4] = *frame[38..].first_chunk().unwrap();
            let asks: [u8; 4] = *frame[28..].first_chunk().unwrap();
            // Nobody has the address that a probe is about.
            if IpAddr::from(target) != address(false, 1) && asks != [0; 4] {
                let answer = wire::arp(2, (PEER_MAC, target), (OUR_MAC, asks));
                self.give(&wire::ethernet(OUR_MAC, PEER_MAC, wire::ARP, &answer));
            }
        }
        let is_question = ether_type == wire::IPV6
            && frame.len() >= 78
            && (frame[20], frame[54]) == (wire::ICMPV6, 135);
        if is_question {
            let source = IpAddr::from(*frame[22..].first_chunk::<16>().unwrap());
            let target = IpAddr::from(*frame[62..].first_chunk::<16>().unwrap());
            if !source.is_unspecified() && target != address(true, 1) {
                let answer = wire::ndp(136, 0x60, target, PEER_MAC);
                let ends = (target, source);
                self.give(&wire::ip_frame((OUR_MAC, PEER_MAC), ends, wire::ICMPV6, &answer));
            }
        }
    }

    fn give(&mut self, frame: &[u8]) {
        self.wire.send_with(frame, TxMeta::default());
        self.given += 1;
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.turn();
            if self.now >= end {
                return;
            }
            let soon = self.now + Duration::from_micros(100);
            self.now = next.map_or(end, |next| next.max(soon).min(end));
        }
    }

    /// The program takes everything there is.
    pub fn read_all(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true);
            self.streams.push(stream);
        }
        for stream in &self.streams {
            while (&mut &*stream).read(&mut buffer).is_ok_and(|len| len > 0) {}
        }
        while self.udp.recv_from(&mut buffer).is_ok() {}
        while self.raw.recv_from(&mut buffer).is_ok() {}
        let mut cx = Context::from_waker(Waker::noop());
        while self.ping.poll_recv(&mut cx).is_ready() {}
    }

    /// Sends a segment of a peer.
    pub fn segment(&mut self, of: &Known, segment: &Segment) {
        let ends = (address(of.v6, of.station), address(of.v6, 1));
        let frame = wire::ip_frame((OUR_MAC, PEER_MAC), ends, TCP, &segment.to_bytes());
        let meta = crate::frames::meta(&frame, false);
        self.inject(&frame, meta);
    }

    /// What the stack has sent over a connection since it was last looked at; everything else that
    /// it has sent is forgotten.
    pub fn heard(&mut self, of: &Known) -> Vec<Segment> {
        let peer = address(of.v6, of.station);
        let sent = std::mem::take(&mut self.sent);
        let segments = sent.iter().filter_map(|frame| Segment::read(frame));
        let ports = (TCP_PORT, of.port);
        segments
            .filter(|(to, segment)| *to == peer && segment.ports == ports)
            .map(|(_, segment)| segment)
            .collect()
    }

    /// A peer connects. `None`: the stack did not answer, or refused.
    pub fn handshake(&mut self, v6: bool, station: u8, port: u16) -> Option<(Known, TcpStream)> {
        let mut known = Known { v6, station, port, seq: 100, ack: 0 };
        let ports = (port, TCP_PORT);
        self.sent.clear();
        let syn =
            Segment { ports, seq: known.seq, flags: SYN, window: WINDOW, ..Segment::default() };
        self.segment(&known, &syn);
        let heard = self.heard(&known);
        let answer = heard.iter().find(|segment| segment.has(SYN | ACK))?;
        known.seq += 1;
        known.ack = answer.seq.wrapping_add(1);
        self.segment(&known, &Segment { seq: known.seq, ack: known.ack, flags: ACK, ..syn });
        let (stream, from) = self.listener.accept().ok()?;
        assert_eq!(from, SocketAddr::new(address(v6, station), port));
        stream.set_nonblocking(true);
        Some((known, stream))
    }

    /// What must hold at any time.
    pub fn check(&self) {
        let (stats, limits) = (self.stack.stats(), limits());
        assert_eq!(stats.rx_frames, self.given, "{stats}");
        assert!(stats.tcp_flows <= limits.flows, "{stats}");
        assert!(stats.tcp_half_open <= limits.half_open, "{stats}");
        assert!(stats.neighbors <= limits.neighbors + 1024, "{stats}");
        assert!(stats.path_mtus <= limits.path_mtus, "{stats}");
        let buffers = self.shard.devices()[0].buffers();
        assert!(buffers.add_up() && buffers.rx_lent == 0, "{buffers:?}");
    }

    /// A station that has not been heard of connects and gets its bytes back. A router or a DHCP
    /// server may have sent the answers elsewhere; then nothing is asked.
    pub fn check_service(&mut self, v6: bool) {
        if self.stack.routes() != self.routes {
            return;
        }
        self.read_all();
        let port = if v6 { 2006 } else { 2004 };
        let Some((known, stream)) = self.handshake(v6, 9, port) else {
            panic!("no new connection: {}", self.stack.stats());
        };
        let request = Segment {
            ports: (known.port, TCP_PORT),
            seq: known.seq,
            ack: known.ack,
            flags: ACK,
            window: WINDOW,
            data: b"still there?".to_vec(),
            ..Segment::default()
        };
        self.segment(&known, &request);
        let mut buffer = [0; 64];
        let len = (&mut &stream).read(&mut buffer).unwrap();
        assert_eq!(buffer[..len], request.data);
        (&mut &stream).write_all(&buffer[..len]).unwrap();
        self.turn();
        let heard = self.heard(&known);
        assert!(heard.iter().any(|segment| segment.data == request.data), "{heard:?}");
    }
}
