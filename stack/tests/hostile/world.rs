//! A stack under attack, an honest peer, and the wire between them that the attacker holds.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use underpass::devices::{Instant, MacAddr, MemoryConfig, MemoryDevice, TxMeta};
use underpass::{Limits, Shard, Stack, Stats, TcpListener, TcpStream, UdpSocket};

use crate::wire::{self, IPV4, IPV6, Received, TCP, Wire};

pub(crate) const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Where the stack under attack listens, and where its peer does.
pub(crate) const PORTS: [u16; 2] = [80, 81];
pub(crate) const UDP_PORT: u16 = 7;

pub(crate) fn ours(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 1).into()
    }
}

pub(crate) fn peer(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 2).into()
    }
}

/// A stack, its wire, and what it uses.
pub(crate) struct Station {
    pub(crate) stack: Stack,
    pub(crate) shard: Shard<MemoryDevice>,
    pub(crate) wire: Wire,
}

impl Station {
    pub(crate) fn new(mac: MacAddr, address: impl Fn(bool) -> IpAddr, seed: u64) -> Self {
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

pub(crate) fn limits() -> Limits {
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
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) target: Station,
    pub(crate) peer: Station,
    pub(crate) listener: TcpListener,
    pub(crate) peer_listener: TcpListener,
    pub(crate) udp: UdpSocket,
    pub(crate) peer_udp: UdpSocket,
    pub(crate) streams: Vec<TcpStream>,
    pub(crate) peer_streams: Vec<TcpStream>,
    /// Every frame the peer sent.
    pub(crate) recorded: Vec<Received>,
    /// What the target sent last in each of its connections.
    pub(crate) sequences: HashMap<Ends, Sequence>,
    /// The ends of the honest connections.
    pub(crate) honest: Vec<Ends>,
    /// Frames put onto the target's wire.
    pub(crate) sent: u64,
}

/// IP version, the target's port, the peer's port.
pub(crate) type Ends = (bool, u16, u16);

#[derive(Clone, Copy, Default)]
pub(crate) struct Sequence {
    /// The next byte the target sends.
    pub(crate) snd_nxt: u32,
    /// The next byte it expects.
    pub(crate) rcv_nxt: u32,
}

impl World {
    /// A network without any connection.
    pub(crate) fn quiet() -> Self {
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
    pub(crate) fn live() -> Self {
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

    pub(crate) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true);
            self.streams.push(stream);
        }
        while let Ok((stream, _)) = self.peer_listener.accept() {
            self.peer_streams.push(stream);
        }
    }

    /// Puts a frame onto the target's wire and lets it be looked at.
    pub(crate) fn inject(&mut self, frame: &[u8], meta: TxMeta) {
        self.target.wire.send_with(frame, meta);
        self.sent += 1;
        self.turn();
    }

    /// Turns the target; notes what it sent and returns what is for the peer.
    pub(crate) fn turn(&mut self) -> (Vec<Received>, Option<Instant>) {
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
    pub(crate) fn run_for(&mut self, time: Duration) {
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

    pub(crate) fn stats(&self) -> Stats {
        self.target.stack.stats()
    }

    /// What must hold at any time.
    pub(crate) fn check(&self) {
        let (stats, limits) = (self.stats(), limits());
        assert_eq!(stats.rx_frames, self.sent, "{stats}");
        assert!(stats.tcp_flows <= limits.flows, "{stats}");
        assert!(stats.tcp_half_open <= limits.half_open, "{stats}");
        assert!(stats.neighbors <= limits.neighbors + 1024, "{stats}");
    }

    /// Lets go of every connection; all of them have to end.
    pub(crate) fn finish(mut self) {
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
    pub(crate) fn noticed(&self) -> u64 {
        let stats = self.stats();
        stats.drops.total() + stats.tx_frames + stats.address_conflicts
    }
}

/// Reads the ends and sequence numbers of a TCP segment that the target sent.
pub(crate) fn sequence(frame: &[u8]) -> Option<(Ends, Sequence)> {
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
