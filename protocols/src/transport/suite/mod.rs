//! What every [`Transport`] must do, as tests for whoever implements one (feature `suite`).
//!
//! [`run`] takes the transport under test through the cases with honest peers, [`run_over_tcp`] also
//! through those with plain TCP connections that break the protocol. [`exchange`] verifies any number of
//! messages between two transports. All panic with what went wrong; the first two print their seed first.

mod exchange;
mod hostile;
mod traffic;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Limits, Lost, Transport};

pub use exchange::{Exchanged, exchange};

/// How long anything may take; a debug build on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest message of the cases: several reads of a socket.
const LONGEST: u32 = 200_000;

/// The limits of the cases.
const LIMITS: Limits =
    Limits { message_bytes: LONGEST, queue_bytes: 300_000, peers: 8, strangers: 4 };

/// Two places that reach each other: one for the transport under test, one for its peers.
pub trait Rig {
    /// The transport under test.
    type Subject: Transport + Send;
    /// Its peers; the same implementation, or another.
    type Peer: Transport + Send;

    /// Opens the transport under test; called once per rig.
    fn subject(&mut self, limits: Limits) -> io::Result<Self::Subject>;

    /// Opens a peer at a free address, or again at the one of a peer that is gone.
    fn peer(&mut self, at: Option<SocketAddr>, limits: Limits) -> io::Result<Self::Peer>;
}

/// The same, for transports over TCP.
pub trait TcpRig: Rig {
    /// Makes plain TCP connections from where the peers are. It may be called on another thread.
    fn dialer(&self) -> Dialer;

    /// Listens with plain TCP where the peers are; the function accepts one connection.
    fn listen(&mut self) -> io::Result<(SocketAddr, Acceptor)>;
}

/// A plain TCP connection, with blocking reads and writes that give up after some time.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Dials with plain TCP.
pub type Dialer = Box<dyn Fn(SocketAddr) -> io::Result<Box<dyn Stream>> + Send + Sync>;
/// Accepts one plain TCP connection.
pub type Acceptor = Box<dyn FnOnce() -> io::Result<Box<dyn Stream>> + Send>;

/// A case: a rig and a seed.
type Case<R> = fn(&mut R, u64);

/// Runs the cases with honest peers, each on a rig of its own.
///
/// # Panics
/// A case fails.
pub fn run<R: Rig>(seed: u64, rig: impl FnMut() -> R) {
    run_cases(seed, rig, &honest());
}

/// Runs every case, each on a rig of its own.
///
/// # Panics
/// A case fails.
pub fn run_over_tcp<R: TcpRig>(seed: u64, rig: impl FnMut() -> R) {
    let hostile: [(&str, Case<R>); 7] = [
        ("one connection for both ways", traffic::one_connection),
        ("nobody listens", hostile::nobody_listens),
        ("reconnect", hostile::reconnect),
        ("hostile first messages", hostile::first_messages),
        ("hostile lengths", hostile::lengths),
        ("hostile lengths of one that was dialled", hostile::lengths_of_the_dialled),
        ("death in the middle of a message", hostile::death_in_a_message),
    ];
    run_cases(seed, rig, &[&honest()[..], &hostile].concat());
}

fn honest<R: Rig>() -> [(&'static str, Case<R>); 7] {
    [
        ("echo", traffic::echo),
        ("both dial at once", traffic::both_dial_at_once),
        ("many peers", traffic::many_peers),
        ("full", traffic::full),
        ("progress waits and wakes", traffic::waits_and_wakes),
        ("nothing is left behind", traffic::nothing_is_left_behind),
        ("verified exchange", exchange::case),
    ]
}

fn run_cases<R>(seed: u64, mut rig: impl FnMut() -> R, cases: &[(&str, Case<R>)]) {
    println!("seed {seed}");
    for (name, case) in cases {
        println!("case: {name}");
        case(&mut rig(), seed);
    }
}

/// Lets two transports progress until `done`.
fn until<A: Transport, B: Transport>(
    what: &str,
    a: &mut A,
    b: &mut B,
    mut done: impl FnMut(&mut A, &mut B) -> bool,
) {
    let start = Instant::now();
    while !done(a, b) {
        assert!(start.elapsed() < PATIENCE, "{what}: not done after {PATIENCE:?}");
        let busy = step(a, Duration::ZERO) | step(b, Duration::ZERO);
        if !busy {
            step(a, Duration::from_millis(1));
        }
    }
}

fn step(transport: &mut impl Transport, timeout: Duration) -> bool {
    transport.progress(timeout).expect("the transport goes on")
}

/// Lets one transport progress until it has lost a connection, while `other` runs on a thread.
fn lost_while<T: Transport>(what: &str, subject: &mut T, other: impl FnOnce() + Send) -> Lost {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        let mut lost = None;
        while lost.is_none() || !other.is_finished() {
            assert!(start.elapsed() < PATIENCE, "{what}: not done after {PATIENCE:?}");
            step(subject, Duration::from_millis(1));
            while subject.recv().is_some() {}
            lost = lost.or(subject.lost());
        }
        lost.expect("the loop has ended")
    })
}

/// The hello of a station that listens on `port`.
fn hello(port: u16) -> Vec<u8> {
    let mut hello = b"\0\0\0\x06UPT\x01".to_vec();
    hello.extend(port.to_be_bytes());
    hello
}
