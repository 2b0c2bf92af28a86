//! Peers, connections and their queues: everything of a transport but its sockets.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use slab::Slab;

use super::frame::{Decoder, Front, HEADER_LEN, encode};
use super::hello;
use super::{Counters, Limits, Lost, LostCause, SendError, TooLong};

/// A connection that holds so many bytes and a whole message is not read from.
const READ_AHEAD: usize = 64 * 1024;

/// Names one connection of an [`Endpoint`]; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    index: u32,
    generation: u32,
}

/// The state of a transport without its sockets, which belong to the implementation: it asks what to
/// dial, write, read and close, and tells what has come of it.
///
/// ```text
/// send ──► queue per peer ──► next_dial, next_output/output ──► sockets
/// recv ◄── decoder per connection ◄── received ◄── next_input ◄──┘
/// ```
///
/// For each id that `next_dial` or `accepted` gives out the implementation keeps a socket until
/// `next_close` asks to drop it, or until it says `closed` itself. Ids of connections that are gone
/// are ignored everywhere. No operation takes longer with more peers.
#[derive(Debug)]
pub struct Endpoint {
    local: SocketAddr,
    limits: Limits,
    connections: Slab<Connection>,
    generation: u32,
    peers: HashMap<SocketAddr, Peer>,
    /// Accepted, without a hello yet; oldest first.
    strangers: VecDeque<ConnectionId>,
    dials: VecDeque<ConnectionId>,
    outputs: VecDeque<ConnectionId>,
    inputs: VecDeque<ConnectionId>,
    closes: VecDeque<ConnectionId>,
    /// With a whole message; each is served in turn.
    ready: VecDeque<ConnectionId>,
    lost: VecDeque<Lost>,
    queued: usize,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Peer {
    /// Where messages to it go.
    out: Option<ConnectionId>,
    /// The connection that it has dialled.
    accepted: Option<ConnectionId>,
    /// All that are left, ended ones with messages to receive included.
    connections: usize,
}

#[derive(Debug)]
struct Connection {
    generation: u32,
    /// The peer's address; a stranger's is that of its socket.
    remote: SocketAddr,
    state: State,
    decoder: Decoder,
    output: Vec<u8>,
    /// Bytes in front of `output` that are sent.
    sent: usize,
    /// Bytes taken out by `take_output` and not yet reported by `sent`.
    in_flight: usize,
    /// Is in `outputs`.
    wants_output: bool,
    /// Is in `ready`.
    is_ready: bool,
    /// The implementation was told not to read.
    paused: bool,
}

#[derive(Debug)]
enum State {
    Dialing,
    Stranger,
    Open,
    /// Its socket is gone, its last messages are not: why it ended, and the bytes not sent.
    Ended(LostCause, usize),
}

/// What the owner of the transport asks for.
impl Endpoint {
    /// The endpoint of a transport that listens at `local`.
    pub fn new(local: SocketAddr, limits: Limits) -> Self {
        let longest = HEADER_LEN + limits.message_bytes as usize;
        let greeting = HEADER_LEN + hello::LEN as usize;
        let limits = Limits {
            queue_bytes: limits.queue_bytes.max(longest.saturating_add(greeting)),
            peers: limits.peers.clamp(1, 1 << 28),
            strangers: limits.strangers.clamp(1, 1 << 28),
            ..limits
        };
        Self {
            local,
            limits,
            connections: Slab::new(),
            generation: 0,
            peers: HashMap::new(),
            strangers: VecDeque::new(),
            dials: VecDeque::new(),
            outputs: VecDeque::new(),
            inputs: VecDeque::new(),
            closes: VecDeque::new(),
            ready: VecDeque::new(),
            lost: VecDeque::new(),
            queued: 0,
            counters: Counters::default(),
        }
    }

    /// Where the transport listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// See [`Transport::send`](super::Transport::send).
    pub fn send(&mut self, to: SocketAddr, message: &[u8]) -> Result<(), SendError> {
        let max = self.limits.message_bytes;
        if message.len() > max as usize {
            return Err(TooLong { len: message.len(), max }.into());
        }
        let to = hello::canonical(to);
        let id = match self.route(to) {
            Some(id) => id,
            None => self.dial(to)?,
        };
        let Some(connection) = lookup(&mut self.connections, id) else {
            return Err(SendError::Full);
        };
        if connection.unsent() + HEADER_LEN + message.len() > self.limits.queue_bytes {
            self.counters.full += 1;
            return Err(SendError::Full);
        }
        encode(message, max, connection.free_output())?;
        self.queued += HEADER_LEN + message.len();
        self.counters.sent_messages += 1;
        self.counters.sent_bytes += message.len() as u64;
        self.offer_output(id);
        Ok(())
    }

    /// See [`Transport::recv`](super::Transport::recv).
    pub fn recv(&mut self) -> Option<(Bytes, SocketAddr)> {
        while let Some(id) = self.ready.pop_front() {
            let Some(connection) = lookup(&mut self.connections, id) else { continue };
            connection.is_ready = false;
            let remote = connection.remote;
            let message = connection.decoder.next_message();
            self.look_at(id);
            if let Ok(Some(message)) = message {
                self.counters.received_messages += 1;
                self.counters.received_bytes += message.len() as u64;
                return Some((message, remote));
            }
        }
        None
    }

    /// Whether `recv` has something to return.
    pub fn has_messages(&self) -> bool {
        !self.ready.is_empty()
    }

    /// See [`Transport::lost`](super::Transport::lost).
    pub fn lost(&mut self) -> Option<Lost> {
        self.lost.pop_front()
    }

    /// Whether `lost` has something to return.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// See [`Transport::queued`](super::Transport::queued).
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// See [`Transport::counters`](super::Transport::counters).
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

/// What the implementation does with its sockets.
impl Endpoint {
    /// A connection to make: to whom.
    pub fn next_dial(&mut self) -> Option<(ConnectionId, SocketAddr)> {
        let id = self.dials.pop_front()?;
        let connection = lookup(&mut self.connections, id)?;
        Some((id, connection.remote))
    }

    /// A dialled connection is established.
    pub fn connected(&mut self, id: ConnectionId) {
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        if matches!(connection.state, State::Dialing) {
            connection.state = State::Open;
            self.counters.connections += 1;
            self.offer_output(id);
        }
    }

    /// The listener has accepted a connection from `remote`; `None`: there are too many, drop it.
    pub fn accepted(&mut self, remote: SocketAddr) -> Option<ConnectionId> {
        // Two for each peer; more only while nobody receives what ended ones have brought.
        if self.connections.len() >= 2 * self.limits.peers + self.limits.strangers {
            self.counters.refused += 1;
            return None;
        }
        if self.strangers.len() >= self.limits.strangers
            && let Some(oldest) = self.strangers.front().copied()
        {
            self.close(oldest, LostCause::Closed);
        }
        let decoder = Decoder::new(hello::LEN);
        let id = self.insert(hello::canonical(remote), State::Stranger, decoder);
        self.strangers.push_back(id);
        Some(id)
    }

    /// Whether to read from a connection. If not, [`next_input`](Self::next_input) says when to go
    /// on.
    pub fn wants_input(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = lookup(&mut self.connections, id) else { return false };
        connection.paused = connection.is_full();
        !connection.paused && matches!(connection.state, State::Open | State::Stranger)
    }

    /// A connection that was not to be read from, and is again.
    pub fn next_input(&mut self) -> Option<ConnectionId> {
        self.inputs.pop_front()
    }

    /// Bytes were read from a connection.
    pub fn received(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        connection.decoder.push(bytes);
        if matches!(connection.state, State::Stranger) {
            match connection.decoder.next_message() {
                Ok(None) => return,
                Ok(Some(message)) => match hello::read(&message) {
                    Some(port) => self.introduce(id, port),
                    None => self.close(id, LostCause::Closed),
                },
                Err(too_long) => self.close(id, too_long.into()),
            }
        }
        self.look_at(id);
    }

    /// A connection with bytes to write that had none before. Write all of them, or go on when the
    /// socket has room: it is not named again before it has none left.
    pub fn next_output(&mut self) -> Option<ConnectionId> {
        self.outputs.pop_front()
    }

    /// The bytes to write to a connection.
    pub fn output(&self, id: ConnectionId) -> &[u8] {
        let connection = self.connections.get(id.index as usize);
        let connection = connection.filter(|c| c.generation == id.generation && c.is_open());
        connection.and_then(|c| c.output.get(c.sent..)).unwrap_or(&[])
    }

    /// The same for those who write from memory of their own: moves all of it out, and leaves
    /// `spare` for what comes. Empty: there is nothing to write.
    pub fn take_output(&mut self, id: ConnectionId, mut spare: Vec<u8>) -> Vec<u8> {
        let connection = lookup(&mut self.connections, id).filter(|c| c.is_open());
        let Some(connection) = connection else { return Vec::new() };
        connection.output.drain(..std::mem::take(&mut connection.sent));
        connection.in_flight += connection.output.len();
        spare.clear();
        std::mem::replace(&mut connection.output, spare)
    }

    /// The first `count` bytes of the output are written.
    pub fn sent(&mut self, id: ConnectionId, count: usize) {
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        if matches!(connection.state, State::Ended(..)) {
            return;
        }
        let before = connection.unsent();
        let of_taken = count.min(connection.in_flight);
        connection.in_flight -= of_taken;
        connection.sent = (connection.sent + count - of_taken).min(connection.output.len());
        self.queued -= before - connection.unsent();
        if connection.unsent() == 0 {
            connection.output.clear();
            connection.sent = 0;
            connection.wants_output = false;
        }
    }

    /// The peer has closed its connection.
    pub fn ended(&mut self, id: ConnectionId) {
        self.end(id, LostCause::Closed);
    }

    /// A connection could not be made, or broke; its socket is gone.
    pub fn broken(&mut self, id: ConnectionId, error: std::io::Error) {
        self.end(id, error.into());
    }

    /// A connection to close: drop its socket.
    pub fn next_close(&mut self) -> Option<ConnectionId> {
        self.closes.pop_front()
    }
}

impl Endpoint {
    /// The connection over which messages to a peer go.
    fn route(&mut self, to: SocketAddr) -> Option<ConnectionId> {
        let peer = self.peers.get_mut(&to)?;
        peer.out = peer.out.or(peer.accepted);
        peer.out
    }

    fn dial(&mut self, to: SocketAddr) -> Result<ConnectionId, SendError> {
        let (max, is_new) = (self.limits.peers, !self.peers.contains_key(&to));
        if is_new && self.peers.len() >= max {
            return Err(SendError::TooManyPeers { max });
        }
        if self.connections.len() >= 2 * max + self.limits.strangers {
            // Ended connections hold messages that were not received.
            self.counters.full += 1;
            return Err(SendError::Full);
        }
        let id = self.insert(to, State::Dialing, Decoder::new(self.limits.message_bytes));
        if let Some(connection) = lookup(&mut self.connections, id) {
            let hello = hello::write(self.local.port());
            encode(&hello, hello::LEN, &mut connection.output)?;
            self.queued += connection.output.len();
        }
        let peer = self.peers.entry(to).or_default();
        peer.connections += 1;
        peer.out = Some(id);
        self.dials.push_back(id);
        Ok(id)
    }

    fn insert(&mut self, remote: SocketAddr, state: State, decoder: Decoder) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let index = self.connections.insert(Connection {
            generation: self.generation,
            remote,
            state,
            decoder,
            output: Vec::new(),
            sent: 0,
            in_flight: 0,
            wants_output: false,
            is_ready: false,
            paused: false,
        }) as u32;
        ConnectionId { index, generation: self.generation }
    }

    /// A stranger has said where it listens.
    fn introduce(&mut self, id: ConnectionId, port: u16) {
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        let remote = SocketAddr::new(connection.remote.ip(), port);
        let remote = match (remote, connection.remote) {
            // The scope of a link-local address is a part of it.
            (SocketAddr::V6(mut to), SocketAddr::V6(from)) => {
                to.set_scope_id(from.scope_id());
                SocketAddr::V6(to)
            }
            (remote, _) => remote,
        };
        if !self.peers.contains_key(&remote) && self.peers.len() >= self.limits.peers {
            self.close(id, LostCause::Closed);
            return;
        }
        connection.remote = remote;
        connection.state = State::Open;
        connection.decoder.set_max(self.limits.message_bytes);
        self.strangers.retain(|stranger| *stranger != id);
        self.counters.connections += 1;
        let peer = self.peers.entry(remote).or_default();
        peer.connections += 1;
        if let Some(old) = peer.accepted.replace(id) {
            self.close(old, LostCause::Replaced);
        }
    }

    /// Finds out what is in front of a connection's decoder, and what follows from it.
    fn look_at(&mut self, id: ConnectionId) {
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        match connection.decoder.front() {
            Ok(Front::Whole) => {
                if !connection.is_ready && !matches!(connection.state, State::Stranger) {
                    connection.is_ready = true;
                    self.ready.push_back(id);
                }
            }
            Ok(Front::Part) | Err(_) if matches!(connection.state, State::Ended(..)) => {
                self.finish(id);
            }
            Ok(Front::Part) => {}
            Err(too_long) => self.close(id, too_long.into()),
        }
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        if connection.paused && !connection.is_full() {
            connection.paused = false;
            self.inputs.push_back(id);
        }
    }

    fn offer_output(&mut self, id: ConnectionId) {
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        if connection.is_open() && connection.unsent() > 0 && !connection.wants_output {
            connection.wants_output = true;
            self.outputs.push_back(id);
        }
    }

    /// Ends a connection and asks for its socket to be dropped.
    fn close(&mut self, id: ConnectionId, cause: LostCause) {
        self.closes.push_back(id);
        self.end(id, cause);
    }

    /// Ends a connection whose socket is gone, once all that it brought is received.
    fn end(&mut self, id: ConnectionId, cause: LostCause) {
        let Some(connection) = lookup(&mut self.connections, id) else { return };
        match connection.state {
            State::Ended(..) => return,
            State::Stranger => {
                tracing::debug!("{}: a connection without a hello: {cause}", connection.remote);
                self.strangers.retain(|stranger| *stranger != id);
                self.connections.remove(id.index as usize);
                self.counters.refused += 1;
                return;
            }
            State::Dialing | State::Open => {}
        }
        let unsent = connection.unsent();
        self.queued -= unsent;
        connection.state = State::Ended(cause, unsent);
        connection.output = Vec::new();
        if let Some(peer) = self.peers.get_mut(&connection.remote) {
            peer.out = peer.out.filter(|out| *out != id);
            peer.accepted = peer.accepted.filter(|accepted| *accepted != id);
        }
        self.look_at(id);
    }

    /// Forgets an ended connection, and tells its end.
    fn finish(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.try_remove(id.index as usize) else { return };
        let State::Ended(cause, unsent) = connection.state else { return };
        let peer = connection.remote;
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.connections -= 1;
            if entry.connections == 0 {
                self.peers.remove(&peer);
            }
        }
        let cause = match cause {
            LostCause::Closed if connection.decoder.buffered() > 0 => LostCause::Truncated,
            cause => cause,
        };
        self.counters.lost += 1;
        if self.lost.len() >= self.limits.peers {
            self.counters.untold += 1;
            self.lost.pop_front();
        }
        self.lost.push_back(Lost { peer, cause, unsent });
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    fn unsent(&self) -> usize {
        self.output.len() - self.sent + self.in_flight
    }

    fn is_full(&self) -> bool {
        self.decoder.buffered() >= READ_AHEAD && self.decoder.front() == Ok(Front::Whole)
    }

    /// The output, without what is sent if that is most of it.
    fn free_output(&mut self) -> &mut Vec<u8> {
        if self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        &mut self.output
    }
}

fn lookup(connections: &mut Slab<Connection>, id: ConnectionId) -> Option<&mut Connection> {
    connections.get_mut(id.index as usize).filter(|c| c.generation == id.generation)
}

impl ConnectionId {
    /// The id as one number, for `user_data` of the kernel's interfaces.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The id of a number.
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
