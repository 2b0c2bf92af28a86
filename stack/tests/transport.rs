//! The suite of transports over this stack, on a link in memory: with a thread of its own, and with
//! stack and application on one thread.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use underpass::devices::{Instant, MemoryConfig, MemoryDevice};
use underpass::transport::suite::{self, Acceptor, Dialer, Rig, Stream, TcpRig};
use underpass::transport::{Limits, ShardTransport, StackTransport};
use underpass::{Shard, Stack, TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(30);

/// The subject's station and the peers' station.
struct Memory<S> {
    subject: S,
    peers: Stack,
    next_port: u16,
}

impl<S> Memory<S> {
    fn new(start: impl FnOnce(MemoryDevice) -> S) -> Self {
        let config = MemoryConfig { offloads: true, ..MemoryConfig::default() };
        let (left, right) = MemoryDevice::pair(config);
        let subject = start(left);
        let peers = Stack::builder().address("10.0.0.2/24".parse().unwrap()).build(right).unwrap();
        Self { subject, peers, next_port: 1000 }
    }

    fn free_address(&mut self) -> SocketAddr {
        self.next_port += 1;
        SocketAddr::from(([10, 0, 0, 2], self.next_port))
    }

    fn open_peer(&mut self, at: Option<SocketAddr>, limits: Limits) -> io::Result<StackTransport> {
        let at = at.unwrap_or_else(|| self.free_address());
        StackTransport::bind(&self.peers, at, limits)
    }

    fn plain_dialer(&self) -> Dialer {
        let stack = self.peers.clone();
        Box::new(move |to| Ok(patient(TcpStream::connect_timeout(&stack, to, PATIENCE)?)))
    }

    fn plain_listener(&mut self) -> io::Result<(SocketAddr, Acceptor)> {
        let at = self.free_address();
        let listener = TcpListener::bind(&self.peers, at)?;
        Ok((at, Box::new(move || Ok(patient(listener.accept()?.0)))))
    }
}

fn patient(stream: TcpStream) -> Box<dyn Stream> {
    stream.set_read_timeout(Some(PATIENCE));
    stream.set_write_timeout(Some(PATIENCE));
    Box::new(stream)
}

fn subject_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7))
}

fn builder() -> underpass::Builder {
    Stack::builder().address("10.0.0.1/24".parse().unwrap())
}

impl Rig for Memory<Stack> {
    type Subject = StackTransport;
    type Peer = StackTransport;

    fn subject(&mut self, limits: Limits) -> io::Result<StackTransport> {
        StackTransport::bind(&self.subject, subject_address(), limits)
    }

    fn peer(&mut self, at: Option<SocketAddr>, limits: Limits) -> io::Result<StackTransport> {
        self.open_peer(at, limits)
    }
}

impl TcpRig for Memory<Stack> {
    fn dialer(&self) -> Dialer {
        self.plain_dialer()
    }

    fn listen(&mut self) -> io::Result<(SocketAddr, Acceptor)> {
        self.plain_listener()
    }
}

type OnShard = Memory<Option<(Stack, Shard<MemoryDevice>)>>;

impl Rig for OnShard {
    type Subject = ShardTransport<MemoryDevice, Box<dyn FnMut() -> Instant + Send>>;
    type Peer = StackTransport;

    fn subject(&mut self, limits: Limits) -> io::Result<Self::Subject> {
        let (stack, shard) = self.subject.take().expect("once per rig");
        let start = Clock::now();
        let clock: Box<dyn FnMut() -> Instant + Send> =
            Box::new(move || Instant::from_nanos(start.elapsed().as_nanos() as u64));
        ShardTransport::bind(&stack, shard, clock, subject_address(), limits)
    }

    fn peer(&mut self, at: Option<SocketAddr>, limits: Limits) -> io::Result<StackTransport> {
        self.open_peer(at, limits)
    }
}

impl TcpRig for OnShard {
    fn dialer(&self) -> Dialer {
        self.plain_dialer()
    }

    fn listen(&mut self) -> io::Result<(SocketAddr, Acceptor)> {
        self.plain_listener()
    }
}

#[test]
fn the_suite_passes_on_a_stack_with_a_thread() {
    suite::run_over_tcp(1, || Memory::new(|device| builder().build(device).unwrap()));
}

#[test]
fn the_suite_passes_on_a_shard_of_its_own() {
    suite::run_over_tcp(2, || -> OnShard {
        Memory::new(|device| Some(builder().build_shard(device).unwrap()))
    });
}

/// `UNDERPASS_TEST_MESSAGES` messages each way.
#[test]
fn many_messages_are_verified() {
    let count = std::env::var("UNDERPASS_TEST_MESSAGES").map_or(20_000, |n| n.parse().unwrap());
    let mut rig = Memory::new(|device| builder().build(device).unwrap());
    let limits = Limits::default();
    let mut subject = rig.subject(limits).unwrap();
    let mut peer = rig.peer(None, limits).unwrap();
    println!("{:?}", suite::exchange(&mut subject, &mut peer, count, 64 * 1024, 3));
}
