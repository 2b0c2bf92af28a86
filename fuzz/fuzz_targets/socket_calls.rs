//! Calls of the sockets API on two stacks with a bad link between them, against what streams and
//! datagrams are: bytes arrive in order and whole, an end is the end, datagrams are those that were
//! sent, and calls fail for reasons that they name.

#![no_main]

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass::devices::{Instant, LinkConfig, SimDevice, SimLink};
use underpass::{KeepAlive, Shard, Stack, TcpListener, TcpStream, UdpSocket};
use underpass_fuzz::station::{address, limits};

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u8,
    loss: u8,
    duplicate: u8,
    corrupt: u8,
    reorder: u8,
    offloads: bool,
    calls: Vec<Call>,
}

#[derive(Arbitrary, Debug)]
enum Call {
    Listen { right: bool, port: u8 },
    Unlisten { right: bool },
    Connect { right: bool, v6: bool, port: u8 },
    Accept,
    Write { end: u8, len: u16 },
    Read { end: u8, len: u16 },
    Peek { end: u8 },
    Shutdown { end: u8, how: u8 },
    Abort { end: u8 },
    Drop { end: u8 },
    Option { end: u8, which: u8 },
    Bind { right: bool, port: u8 },
    SendTo { right: bool, v6: bool, port: u8, len: u16 },
    RecvFrom { right: bool },
    Run { millis: u16 },
}

const CALLS: usize = 80;
const MAX_ENDS: usize = 12;

/// One end of a connection.
#[expect(clippy::struct_excessive_bools, reason = "each is what has happened to it")]
struct End {
    /// `None`: the program has dropped it.
    stream: Option<TcpStream>,
    addresses: (SocketAddr, SocketAddr),
    right: bool,
    /// Where the other end is in `ends`, once both are known.
    peer: Option<usize>,
    written: usize,
    read: usize,
    /// It will send nothing more.
    closed: bool,
    /// It wants to read nothing more.
    deaf: bool,
    /// It has been aborted, or a call has failed, or it was dropped before everything was read: its
    /// peer may lose bytes.
    broken: bool,
}

struct World {
    now: Instant,
    stacks: [Stack; 2],
    shards: [Shard<SimDevice>; 2],
    link: SimLink,
    listeners: [Option<TcpListener>; 2],
    udp: [Option<UdpSocket>; 2],
    ends: Vec<End>,
    datagrams: HashSet<Vec<u8>>,
    number: u32,
}

/// A byte of the stream that an end with this number sends.
fn byte(end: usize, at: usize) -> u8 {
    let mixed = (at as u64).wrapping_add((end as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

fn station(right: bool) -> u8 {
    if right { 2 } else { 1 }
}

/// What a call on a connection may fail with, as the sockets say.
fn check_error(error: &io::Error) {
    let known = [
        ErrorKind::WouldBlock,
        ErrorKind::NotConnected,
        ErrorKind::BrokenPipe,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionAborted,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::TimedOut,
    ];
    assert!(known.contains(&error.kind()), "{error:?}");
}

impl World {
    fn new(input: &Input) -> Self {
        let part = |of: u8, most: f64| f64::from(of) / 255.0 * most;
        let config = LinkConfig {
            seed: input.seed.into(),
            delay: Duration::from_millis(2),
            loss: part(input.loss, 0.2),
            duplicate: part(input.duplicate, 0.2),
            corrupt: part(input.corrupt, 0.1),
            reorder: part(input.reorder, 0.3),
            offloads: input.offloads,
            ..LinkConfig::default()
        };
        let (left, right, link) = SimLink::pair(config);
        let build = |device, n: u8| {
            Stack::builder()
                .address(format!("{}/24", address(false, n)).parse().unwrap())
                .address(format!("{}/64", address(true, n)).parse().unwrap())
                .limits(limits())
                .seed(u64::from(input.seed) * 2 + u64::from(n))
                .build_shard(device)
                .unwrap()
        };
        let ((left, left_shard), (right, right_shard)) = (build(left, 1), build(right, 2));
        Self {
            now: Instant::ZERO,
            stacks: [left, right],
            shards: [left_shard, right_shard],
            link,
            listeners: [None, None],
            udp: [None, None],
            ends: Vec::new(),
            datagrams: HashSet::new(),
            number: 0,
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let turns = self.shards.each_mut().map(|shard| shard.turn(self.now).unwrap());
            if turns.iter().any(|turn| turn.busy) {
                continue;
            }
            let next =
                turns.iter().filter_map(|turn| turn.next).chain(self.link.next_arrival()).min();
            let soon = self.now + Duration::from_nanos(1);
            self.now = next.map_or(end, |next| next.max(soon).min(end));
        }
    }

    fn add(&mut self, stream: TcpStream, right: bool) {
        stream.set_nonblocking(true);
        let addresses = (stream.local_addr(), stream.peer_addr());
        let index = self.ends.len();
        // A port can be used again by another connection: the last one counts.
        let peer = self.ends.iter().rposition(|end| {
            end.right != right
                && end.peer.is_none()
                && (end.addresses.1, end.addresses.0) == addresses
        });
        if let Some(peer) = peer {
            self.ends[peer].peer = Some(index);
        }
        let (closed, deaf, broken, written, read) = (false, false, false, 0, 0);
        let stream = Some(stream);
        self.ends.push(End { stream, addresses, right, peer, written, read, closed, deaf, broken });
    }

    /// An end that the program still has.
    fn end(&self, n: u8) -> Option<usize> {
        let index = usize::from(n).checked_rem(self.ends.len())?;
        self.ends[index].stream.is_some().then_some(index)
    }

    fn accept(&mut self) {
        for side in 0..2 {
            let Some(listener) = &self.listeners[side] else { continue };
            if self.ends.len() >= 2 * MAX_ENDS {
                continue;
            }
            match listener.accept() {
                Ok((stream, _)) => self.add(stream, side == 1),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    fn write(&mut self, index: usize, len: usize) {
        let end = &mut self.ends[index];
        let Some(mut stream) = end.stream.as_ref() else { return };
        let data: Vec<u8> = (end.written..end.written + len).map(|at| byte(index, at)).collect();
        match stream.write(&data) {
            Ok(written) => {
                assert!(!end.closed || len == 0, "written behind the end");
                end.written += written;
            }
            Err(error) => {
                check_error(&error);
                end.broken |= error.kind() != ErrorKind::WouldBlock && !end.closed;
            }
        }
    }

    /// False: there is nothing more to read, now or ever.
    fn read(&mut self, index: usize, len: usize) -> bool {
        let mut buffer = vec![0; len];
        let end = &mut self.ends[index];
        let Some(mut stream) = end.stream.as_ref() else { return false };
        match stream.read(&mut buffer) {
            Ok(0) if len == 0 => true,
            Ok(0) => {
                let (read, excused) = (end.read, end.deaf || end.broken);
                // Its program was dropped before it was accepted, or it has ended its stream.
                if let Some(peer) = self.ends[index].peer.map(|peer| &self.ends[peer])
                    && !excused
                {
                    assert!(peer.closed || peer.broken, "an end that nobody has made");
                    assert!(peer.broken || peer.written == read, "{read} of {}", peer.written);
                }
                false
            }
            Ok(count) => {
                assert!(!end.deaf, "read behind shutdown");
                let (at, peer) = (end.read, end.peer);
                end.read += count;
                // What was sent to somebody who has not accepted yet is of an unknown number.
                if let Some(peer) = peer {
                    for (n, got) in buffer[..count].iter().enumerate() {
                        assert_eq!(*got, byte(peer, at + n), "byte {} of {peer}", at + n);
                    }
                    assert!(at + count <= self.ends[peer].written);
                }
                true
            }
            Err(error) => {
                check_error(&error);
                end.broken |= error.kind() != ErrorKind::WouldBlock;
                false
            }
        }
    }

    fn shutdown(&mut self, index: usize, how: u8) {
        let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][usize::from(how % 3)];
        let end = &mut self.ends[index];
        let Some(stream) = &end.stream else { return };
        match stream.shutdown(how) {
            Ok(()) => {
                end.closed |= how != Shutdown::Read;
                end.deaf |= how != Shutdown::Write;
            }
            Err(error) => {
                check_error(&error);
                // One half may have been closed before the call failed.
                end.closed = true;
                end.deaf |= how != Shutdown::Write;
            }
        }
    }

    /// Drops the handle: a FIN follows what was written, or a reset if something was not read.
    fn let_go(&mut self, index: usize) {
        let peer = self.ends[index].peer.map(|peer| &self.ends[peer]);
        let read = self.ends[index].read;
        let all_read = peer.is_some_and(|peer| peer.closed && peer.written == read);
        let end = &mut self.ends[index];
        (end.stream, end.closed, end.deaf) = (None, true, true);
        end.broken |= !all_read;
    }

    fn option(&mut self, index: usize, which: u8) {
        let Some(stream) = &self.ends[index].stream else { return };
        match which % 6 {
            0 => stream.set_nodelay(which & 8 != 0),
            1 => stream.set_keep_alive((which & 8 != 0).then(KeepAlive::default)),
            2 => stream.set_ttl(which.max(1)),
            3 => stream.set_tos(which),
            4 => drop(stream.info()),
            _ => {
                let _ = stream.take_error().unwrap();
            }
        }
    }

    fn send_to(&mut self, right: bool, v6: bool, port: u8, len: usize) {
        let Some(udp) = &self.udp[usize::from(right)] else { return };
        self.number += 1;
        let mut data = self.number.to_be_bytes().to_vec();
        data.resize(4 + len % 4000, port);
        let to = SocketAddr::new(address(v6, station(!right)), 100 + u16::from(port % 4));
        if udp.send_to(&data, to).is_ok() {
            self.datagrams.insert(data);
        }
    }

    fn call(&mut self, call: &Call) {
        match *call {
            Call::Listen { right, port } => {
                let stack = &self.stacks[usize::from(right)];
                let local = SocketAddr::new([0_u16; 8].into(), 80 + u16::from(port % 2));
                match TcpListener::bind(stack, local) {
                    Ok(listener) => {
                        listener.set_nonblocking(true);
                        self.listeners[usize::from(right)] = Some(listener);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
                }
            }
            Call::Unlisten { right } => self.listeners[usize::from(right)] = None,
            Call::Connect { right, v6, port } => {
                let to = SocketAddr::new(address(v6, station(!right)), 80 + u16::from(port % 2));
                if self.ends.len() < MAX_ENDS {
                    let stream = TcpStream::start(&self.stacks[usize::from(right)], to).unwrap();
                    self.add(stream, right);
                }
            }
            Call::Accept => self.accept(),
            Call::Write { end, len } => {
                if let Some(index) = self.end(end) {
                    self.write(index, usize::from(len) % 6000);
                }
            }
            Call::Read { end, len } => {
                if let Some(index) = self.end(end) {
                    self.read(index, usize::from(len) % 6000);
                }
            }
            Call::Peek { end } => {
                if let Some(index) = self.end(end)
                    && let Some(stream) = &self.ends[index].stream
                    && let Err(error) = stream.peek(&mut [0; 100])
                {
                    check_error(&error);
                }
            }
            Call::Shutdown { end, how } => {
                if let Some(index) = self.end(end) {
                    self.shutdown(index, how);
                }
            }
            Call::Abort { end } => {
                if let Some(index) = self.end(end)
                    && let Some(stream) = &self.ends[index].stream
                {
                    stream.abort();
                    self.ends[index].broken = true;
                }
            }
            Call::Drop { end } => {
                if let Some(index) = self.end(end) {
                    self.let_go(index);
                }
            }
            Call::Option { end, which } => {
                if let Some(index) = self.end(end) {
                    self.option(index, which);
                }
            }
            Call::Bind { right, port } => {
                let local = SocketAddr::new([0_u16; 8].into(), 100 + u16::from(port % 4));
                match UdpSocket::bind(&self.stacks[usize::from(right)], local) {
                    Ok(socket) => {
                        socket.set_nonblocking(true);
                        self.udp[usize::from(right)] = Some(socket);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
                }
            }
            Call::SendTo { right, v6, port, len } => self.send_to(right, v6, port, len.into()),
            Call::RecvFrom { right } => {
                let mut buffer = vec![0; 8000];
                if let Some(udp) = &self.udp[usize::from(right)]
                    && let Ok((len, _)) = udp.recv_from(&mut buffer)
                {
                    assert!(self.datagrams.contains(&buffer[..len]), "nobody sent this");
                }
            }
            Call::Run { millis } => self.run_for(Duration::from_millis((millis % 5000).into())),
        }
    }

    /// Everybody sends no more, reads all there is, and gets it on a good link.
    fn finish(&mut self) {
        self.link.set_loss(0.0);
        self.run_for(Duration::from_millis(50));
        for _ in 0..MAX_ENDS {
            self.accept();
        }
        for index in 0..self.ends.len() {
            self.shutdown(index, 1);
        }
        // Sixteen times the longest time between two retransmissions.
        for _ in 0..200 {
            self.run_for(Duration::from_secs(5));
            for index in 0..self.ends.len() {
                while !self.ends[index].deaf && self.read(index, 4096) {}
            }
        }
        for end in &self.ends {
            let Some(peer) = end.peer.map(|peer| &self.ends[peer]) else { continue };
            let heard = end.stream.is_some() && !end.deaf && !end.broken;
            if heard && !peer.broken {
                assert_eq!(end.read, peer.written, "bytes are missing");
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let mut world = World::new(&input);
    for call in input.calls.iter().take(CALLS) {
        world.call(call);
        for stack in &world.stacks {
            assert!(stack.stats().tcp_flows <= limits().flows);
        }
    }
    world.finish();
});
