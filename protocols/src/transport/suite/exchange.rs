//! Messages of seeded lengths and contents, verified at the other end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{LIMITS, LONGEST, PATIENCE, Rig};
use crate::transport::{SendError, Transport};

/// What [`exchange`] has moved.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged {
    /// Messages in both directions together.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub time: Duration,
}

/// Sends `count` messages of up to `longest` bytes each way at the same time, each transport on a
/// thread of its own, and verifies their order, length and content. Most are short; one in sixteen
/// has any length.
///
/// # Panics
/// A message is missing, wrong or out of place, or a connection is lost; with the seed.
pub fn exchange<A: Transport + Send, B: Transport + Send>(
    a: &mut A,
    b: &mut B,
    count: u64,
    longest: u32,
    seed: u64,
) -> Exchanged {
    let start = Instant::now();
    let finished = AtomicUsize::new(0);
    let (to_a, to_b) = (a.local_addr(), b.local_addr());
    let messages =
        |salt: u64| Messages::new(seed.wrapping_mul(2).wrapping_add(salt), longest, count);
    let bytes = thread::scope(|scope| {
        let (from_a, from_b) = (messages(0), messages(1));
        let expected = messages(1);
        let a = scope
            .spawn(|| Side { transport: a, peer: to_b, seed }.run(from_a, expected, &finished));
        let expected = messages(0);
        let b = scope
            .spawn(|| Side { transport: b, peer: to_a, seed }.run(from_b, expected, &finished));
        [a, b].map(|side| side.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    Exchanged { messages: 2 * count, bytes: bytes.iter().sum(), time: start.elapsed() }
}

/// The case of the suite.
pub(super) fn case<R: Rig>(rig: &mut R, seed: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    let exchanged = exchange(&mut subject, &mut peer, 3000, LONGEST, seed);
    println!("{exchanged:?}");
    for counters in [subject.counters(), peer.counters()] {
        assert_eq!((counters.sent_messages, counters.received_messages), (3000, 3000));
        assert_eq!((counters.lost, counters.refused), (0, 0));
    }
}

struct Side<'a, T> {
    transport: &'a mut T,
    peer: SocketAddr,
    seed: u64,
}

impl<T: Transport> Side<'_, T> {
    /// Returns the bytes received.
    fn run(&mut self, mut send: Messages, mut expected: Messages, finished: &AtomicUsize) -> u64 {
        let (mut total, mut is_finished) = (0, false);
        let mut last = Instant::now();
        let mut next = send.next();
        // It goes on until the other side has everything, too.
        while finished.load(Ordering::SeqCst) < 2 {
            while let Some(message) = next {
                match self.transport.send(self.peer, message) {
                    Ok(()) => next = send.next(),
                    Err(SendError::Full) => break,
                    Err(error) => panic!("seed {}: {error}", self.seed),
                }
            }
            while let Some((bytes, from)) = self.transport.recv() {
                self.verify(&bytes, from, &mut expected);
                total += bytes.len() as u64;
                last = Instant::now();
            }
            if let Some(lost) = self.transport.lost() {
                panic!("seed {}: {lost:?}, {:?}", self.seed, self.transport.counters());
            }
            if !is_finished && next.is_none() && expected.left == 0 && self.transport.queued() == 0
            {
                is_finished = true;
                finished.fetch_add(1, Ordering::SeqCst);
            }
            assert!(
                is_finished || last.elapsed() < PATIENCE,
                "seed {}: nothing received for {PATIENCE:?}, {} messages missing",
                self.seed,
                expected.left
            );
            self.transport.progress(Duration::from_millis(5)).expect("the transport goes on");
        }
        total
    }

    fn verify(&self, bytes: &[u8], from: SocketAddr, expected: &mut Messages) {
        let (seed, at) = (self.seed, expected.count - expected.left);
        let Some(message) = expected.next() else {
            panic!("seed {seed}: a message of {} bytes too many", bytes.len());
        };
        assert_eq!(bytes.len(), message.len(), "seed {seed}: length of message {at}");
        assert!(bytes == message, "seed {seed}: content of message {at}");
        assert_eq!(from, self.peer, "seed {seed}: sender of message {at}");
    }
}

/// A sequence of messages that a seed defines. Each is a piece of one random text.
struct Messages {
    random: ChaCha8Rng,
    text: Vec<u8>,
    longest: usize,
    count: u64,
    left: u64,
}

impl Messages {
    fn new(seed: u64, longest: u32, count: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let longest = longest as usize;
        let mut text = vec![0; longest + 65_536];
        random.fill(&mut text[..]);
        Self { random, text, longest, count, left: count }
    }

    fn next(&mut self) -> Option<&[u8]> {
        self.left = self.left.checked_sub(1)?;
        let short = self.longest.min(1024);
        let len = match self.random.random_range(0..64) {
            0 => 0,
            1 => self.longest,
            2..5 => self.random.random_range(0..=self.longest),
            _ => self.random.random_range(0..=short),
        };
        let at = self.random.random_range(0..65_536);
        self.text.get(at..at + len)
    }
}
