//! The courier as a transport, on a link in memory: the suite, many messages, and peers that go away or
//! ask for what there is not.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use underpass::Stack;
use underpass::devices::{MemoryConfig, MemoryDevice, Selector};
use underpass::protocols::Peer;
use underpass::protocols::courier::{Attached, Config, Event, Failure};
use underpass::transport::suite::{self, Rig};
use underpass::transport::{CourierTransport, Limits, Lost, LostCause, Transport};

const PATIENCE: Duration = Duration::from_secs(60);

/// The subject's station and the peers' station.
struct Memory {
    subject: Stack,
    peers: Stack,
    next_port: u16,
}

impl Memory {
    fn new() -> Self {
        let (left, right) = MemoryDevice::pair(MemoryConfig::default());
        let [subject, peers] = [(left, 1), (right, 2)].map(|(device, n)| {
            let address = format!("10.0.0.{n}/24").parse().unwrap();
            Stack::builder().address(address).build(device).unwrap()
        });
        Self { subject, peers, next_port: 1000 }
    }
}

impl Rig for Memory {
    type Subject = CourierTransport;
    type Peer = CourierTransport;

    fn subject(&mut self, limits: Limits) -> io::Result<CourierTransport> {
        let at = SocketAddr::from(([10, 0, 0, 1], 7));
        CourierTransport::bind(&self.subject, at, limits, Config::default())
    }

    fn peer(&mut self, at: Option<SocketAddr>, limits: Limits) -> io::Result<CourierTransport> {
        self.next_port += 1;
        let at = at.unwrap_or(SocketAddr::from(([10, 0, 0, 2], self.next_port)));
        CourierTransport::bind(&self.peers, at, limits, Config::default())
    }
}

/// Waits for what `poll` returns.
fn wait<T>(
    transport: &mut CourierTransport,
    mut poll: impl FnMut(&mut CourierTransport) -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = poll(transport) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        transport.progress(Duration::from_millis(10)).unwrap();
    }
}

fn is_io(lost: &Lost, kind: io::ErrorKind) -> bool {
    matches!(&lost.cause, LostCause::Io(error) if error.kind() == kind)
}

#[test]
fn the_suite_passes() {
    suite::run(4, Memory::new);
}

/// `UNDERPASS_TEST_MESSAGES` messages each way.
#[test]
fn many_messages_are_verified() {
    let count = std::env::var("UNDERPASS_TEST_MESSAGES").map_or(20_000, |n| n.parse().unwrap());
    let mut rig = Memory::new();
    let limits = Limits::default();
    let (mut subject, mut peer) = (rig.subject(limits).unwrap(), rig.peer(None, limits).unwrap());
    println!("{:?}", suite::exchange(&mut subject, &mut peer, count, 64 * 1024, 3));
}

#[test]
fn nobody_is_there() {
    let mut rig = Memory::new();
    let mut subject = rig.subject(Limits::default()).unwrap();
    let nobody = SocketAddr::from(([10, 0, 0, 2], 9));
    for _ in 0..2 {
        subject.send(nobody, b"anybody?").unwrap();
        let lost = wait(&mut subject, Transport::lost);
        assert_eq!((lost.peer, lost.unsent), (nobody, 8));
        assert!(is_io(&lost, io::ErrorKind::TimedOut), "{lost:?}");
        assert_eq!(subject.queued(), 0);
    }
    assert_eq!(subject.counters().lost, 2);
}

#[test]
fn a_peer_begins_a_new_life() {
    let mut rig = Memory::new();
    let mut subject = rig.subject(Limits::default()).unwrap();
    let mut peer = rig.peer(None, Limits::default()).unwrap();
    let there = peer.local_addr();
    for n in 0..3_u8 {
        subject.send(there, &[n]).unwrap();
        let (message, _) = wait(&mut peer, Transport::recv);
        assert_eq!(message[..], [n]);
        while subject.queued() > 0 {
            subject.progress(Duration::from_millis(1)).unwrap();
        }
        drop(peer);
        peer = rig.peer(Some(there), Limits::default()).unwrap();
        // This is how it finds out; the message is for a life that has ended.
        subject.send(there, b"lost").unwrap();
        let lost = wait(&mut subject, Transport::lost);
        assert_eq!((lost.peer, lost.unsent), (there, 4));
        assert!(is_io(&lost, io::ErrorKind::ConnectionReset), "{lost:?}");
        assert!(peer.recv().is_none());
    }
}

#[test]
fn losses_that_nobody_asks_for_are_counted() {
    let mut rig = Memory::new();
    let limits = Limits { peers: 2, ..Limits::default() };
    let mut subject = rig.subject(limits).unwrap();
    for round in 1..=2 {
        for port in 8..10 {
            subject.send(SocketAddr::from(([10, 0, 0, 2], port)), b"anybody?").unwrap();
        }
        let start = Instant::now();
        while subject.counters().lost < round * 2 {
            assert!(start.elapsed() < PATIENCE);
            subject.progress(Duration::from_millis(10)).unwrap();
            assert!(subject.recv().is_none());
        }
    }
    assert_eq!(subject.counters().untold, 2);
}

#[test]
fn who_asks_is_cut_off() {
    let mut rig = Memory::new();
    let mut subject = rig.subject(Limits::default()).unwrap();
    let port = Selector::udp_port(None, 7000);
    let caller = rig.peers.attach(port, Attached::new(Config::default(), [9; 16])).unwrap();
    let to = Peer::Port(subject.local_addr());
    let id = caller.with(|caller| caller.send_request(to, b"well?".to_vec())).unwrap();
    let failed = std::thread::scope(|scope| {
        let failed = scope.spawn(|| caller.wait(|caller| caller.poll_event()).unwrap());
        wait(&mut subject, |subject| (subject.counters().refused > 0).then_some(()));
        failed.join().unwrap()
    });
    assert_eq!(failed, Event::Failed { id, why: Failure::Closed, may_have_run: true });
    assert!(subject.recv().is_none() && subject.lost().is_none());
}
