//! Any bytes from any peers of a message transport, in any pieces, while connections come and go.
//! What is received is what the bytes of one connection say, and every limit holds.

#![no_main]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass_protocols::transport::{ConnectionId, Endpoint, Limits};

#[derive(Arbitrary, Debug)]
enum Call {
    Accepted(u8),
    Bytes(u8, Vec<u8>),
    /// Well-formed: a hello and its port, or a message.
    Hello(u8, u8),
    Message(u8, Vec<u8>),
    Ended(u8),
    Broken(u8),
    Connected(u8),
    Send(u8, u16),
    Write(u8, u16),
    Recv,
    Lost,
    Progress,
}

const LIMITS: Limits = Limits { message_bytes: 300, queue_bytes: 1000, peers: 4, strangers: 3 };
const CALLS: usize = 100;

/// The endpoint, and what its sockets would be.
struct World {
    endpoint: Endpoint,
    open: Vec<ConnectionId>,
    /// What has come from each, whole messages first; the hello of those who have dialled, too.
    streams: HashMap<ConnectionId, Vec<u8>>,
    dialled: HashSet<ConnectionId>,
    received: u64,
    sent: u64,
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n % 6], 7000 + u16::from(n / 64)))
}

/// Whether a stream of bytes holds `message`, cut as the lengths in it say.
fn holds(mut stream: &[u8], message: &[u8]) -> bool {
    while let Some((len, rest)) = stream.split_first_chunk() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some((front, rest)) = rest.split_at_checked(len) else { return false };
        if front == message {
            return true;
        }
        stream = rest;
    }
    false
}

impl World {
    fn connection(&self, n: u8) -> Option<ConnectionId> {
        self.open.get(usize::from(n) % self.open.len().max(1)).copied()
    }

    fn bytes(&mut self, n: u8, bytes: &[u8]) {
        if let Some(id) = self.connection(n)
            && self.endpoint.wants_input(id)
        {
            self.streams.entry(id).or_default().extend(bytes);
            self.endpoint.received(id, bytes);
        }
    }

    fn recv(&mut self) {
        let Some((message, _)) = self.endpoint.recv() else { return };
        self.received += 1;
        assert!(message.len() <= LIMITS.message_bytes as usize);
        let known = self.streams.values().any(|stream| holds(stream, &message));
        assert!(known, "nobody sent {message:02x?}");
    }

    fn progress(&mut self) {
        while let Some((id, _)) = self.endpoint.next_dial() {
            self.dialled.insert(id);
            self.open.push(id);
        }
        while let Some(id) = self.endpoint.next_close() {
            self.open.retain(|open| *open != id);
        }
        while self.endpoint.next_input().is_some() {}
        while self.endpoint.next_output().is_some() {}
    }

    fn call(&mut self, call: &Call) {
        match call {
            Call::Accepted(from) => {
                if let Some(id) = self.endpoint.accepted(address(*from)) {
                    assert!(!self.streams.contains_key(&id), "an id was used again");
                    self.streams.insert(id, Vec::new());
                    self.open.push(id);
                }
            }
            Call::Bytes(n, bytes) => self.bytes(*n, bytes),
            Call::Hello(n, port) => {
                self.bytes(*n, &[0, 0, 0, 6, b'U', b'P', b'T', 1, 27, *port]);
            }
            Call::Message(n, message) => {
                let len = (message.len() as u32).to_be_bytes();
                self.bytes(*n, &[&len[..], message].concat());
            }
            Call::Ended(n) => {
                if let Some(id) = self.connection(*n) {
                    self.open.retain(|open| *open != id);
                    self.endpoint.ended(id);
                }
            }
            Call::Broken(n) => {
                if let Some(id) = self.connection(*n) {
                    self.open.retain(|open| *open != id);
                    self.endpoint.broken(id, std::io::ErrorKind::ConnectionReset.into());
                }
            }
            Call::Connected(n) => {
                if let Some(id) = self.connection(*n).filter(|id| self.dialled.contains(id)) {
                    self.endpoint.connected(id);
                }
            }
            Call::Send(to, len) => {
                let message = vec![7; usize::from(*len) % 400];
                let sent = self.endpoint.send(address(*to), &message).is_ok();
                assert!(!sent || message.len() <= LIMITS.message_bytes as usize);
                self.sent += u64::from(sent);
            }
            Call::Write(n, count) => {
                if let Some(id) = self.connection(*n) {
                    let count = usize::from(*count).min(self.endpoint.output(id).len());
                    self.endpoint.sent(id, count);
                }
            }
            Call::Recv => self.recv(),
            Call::Lost => drop(self.endpoint.lost()),
            Call::Progress => self.progress(),
        }
    }

    fn check(&self) {
        let counters = self.endpoint.counters();
        assert_eq!(
            (counters.received_messages, counters.sent_messages),
            (self.received, self.sent)
        );
        // A peer has at most two connections with a queue: the one for output, and one it dialled.
        assert!(self.endpoint.queued() <= 2 * LIMITS.peers * (LIMITS.queue_bytes + 10));
        assert!(counters.untold <= counters.lost);
    }
}

fuzz_target!(|calls: Vec<Call>| {
    let mut world = World {
        endpoint: Endpoint::new(address(0), LIMITS),
        open: Vec::new(),
        streams: HashMap::new(),
        dialled: HashSet::new(),
        received: 0,
        sent: 0,
    };
    for call in calls.iter().take(CALLS) {
        world.call(call);
        world.check();
    }
    // Once everybody is gone and everything received, nothing is left.
    world.progress();
    for id in std::mem::take(&mut world.open) {
        world.endpoint.ended(id);
    }
    while world.endpoint.has_messages() {
        world.recv();
    }
    while world.endpoint.lost().is_some() {}
    assert_eq!(world.endpoint.queued(), 0);
    world.check();
});
