//! Messages between stations: `send(to, message)` here, `recv() -> (message, from)` there.
//!
//! A [`Transport`] is polled by one owner and needs no runtime. Those over TCP keep one connection per
//! peer, made when the first message is sent, and put a length in front of each message. They share
//! everything but the sockets: the framing ([`Decoder`]) and the state of peers and connections
//! ([`Endpoint`]) are here and do no I/O. One is over [`courier`](crate::courier), whose packets and
//! sessions stand for what is said of TCP here.
//!
//! # On the wire, with TCP
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 length of the message, big-endian             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 message: 0 to `message_bytes` bytes           …
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The first message from the side that dialled is the hello, six bytes: `UPT`, the version 1, and
//! the port where the dialler listens. A peer's address is the address it dialled from with that
//! port, so what `recv` returns can be given to `send`, which answers over the same connection. A
//! peer cannot claim another station's address.
//!
//! # Who sends where
//!
//! Messages to a peer go over the connection on which the first of them was queued, until that
//! connection ends: the peer's, if it has dialled, or else one of our own. When both dial at once,
//! there are two connections: each side sends over the one that it dialled and receives from the
//! other. So neither has to close a connection that may hold messages, and order is kept.
//!
//! # What is promised
//!
//! Messages from one peer arrive in order, unchanged and at most once. When a connection ends, what
//! was queued or on its way may be lost: [`Transport::lost`] says so. The next `send` dials anew.

mod endpoint;
mod frame;
mod hello;
#[cfg(feature = "suite")]
pub mod suite;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

pub use endpoint::{ConnectionId, Endpoint};
pub use frame::{Decoder, Front, HEADER_LEN, TooLong, encode};

/// Sends and receives messages. One owner polls it.
pub trait Transport {
    /// Where it listens, and what its peers know it by.
    fn local_addr(&self) -> SocketAddr;

    /// Queues one message for a peer, and dials the peer if there is no connection. Messages leave
    /// with the next [`progress`](Self::progress).
    ///
    /// # Errors
    /// Nothing was queued. A peer that cannot be reached is no error of `send`: it is told by
    /// [`lost`](Self::lost).
    fn send(&mut self, to: SocketAddr, message: &[u8]) -> Result<(), SendError>;

    /// The next message received and its sender. The bytes are a part of the buffer they were read
    /// into, and keep all of it alive: copy what is to be kept for long.
    fn recv(&mut self) -> Option<(Bytes, SocketAddr)>;

    /// Moves bytes between queues and network. Waits up to `timeout` when there is nothing to move
    /// and nothing to receive; with [`Duration::ZERO`] it only looks. True: something happened, or
    /// there are messages to receive.
    ///
    /// # Errors
    /// The transport cannot go on: the device is gone, or the kernel refuses to wait.
    fn progress(&mut self, timeout: Duration) -> io::Result<bool>;

    /// The next connection to a peer that has ended, after everything that it brought was received.
    fn lost(&mut self) -> Option<Lost>;

    /// Bytes queued by `send` and not yet handed to TCP, or without TCP not acknowledged: zero before it
    /// is dropped means that nothing is left behind.
    fn queued(&self) -> usize;

    /// What has happened so far.
    fn counters(&self) -> Counters;
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue for this peer has no room: try again after some progress.
    #[error("the queue for this peer is full")]
    Full,
    /// A message longer than the limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// A new peer, and as many as there may be already.
    #[error("there are {max} peers already, the limit")]
    TooManyPeers {
        /// [`Limits::peers`].
        max: usize,
    },
}

/// A connection to a peer that has ended.
#[derive(Debug)]
pub struct Lost {
    /// The peer's address.
    pub peer: SocketAddr,
    /// Why it ended.
    pub cause: LostCause,
    /// Bytes queued for it that were not handed to TCP. What was may be lost as well. (Without TCP: bytes
    /// that it has not acknowledged.)
    pub unsent: usize,
}

/// Why a connection to a peer has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LostCause {
    /// The peer closed it, between two messages.
    #[error("closed by the peer")]
    Closed,
    /// The peer closed it within a message.
    #[error("closed by the peer in the middle of a message")]
    Truncated,
    /// The peer announced a message longer than the limit.
    #[error("the peer broke the protocol: {0}")]
    TooLong(#[from] TooLong),
    /// The peer dialled again: it must have lost this connection.
    #[error("replaced by a newer connection of the peer")]
    Replaced,
    /// It could not be made, or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Every limit of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message, in bytes; both ends need the same.
    pub message_bytes: u32,
    /// Bytes queued per peer, lengths included; at least one message of the greatest length.
    pub queue_bytes: usize,
    /// Peers.
    pub peers: usize,
    /// Connections whose hello has not come. One more, and the oldest is closed.
    pub strangers: usize,
}

impl Default for Limits {
    /// Messages of 1 MiB, 4 MiB queued per peer, 1024 peers, 64 strangers.
    fn default() -> Self {
        Self { message_bytes: 1 << 20, queue_bytes: 4 << 20, peers: 1024, strangers: 64 }
    }
}

/// What has happened since a transport was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages queued by `send`.
    pub sent_messages: u64,
    /// Their bytes, without lengths.
    pub sent_bytes: u64,
    /// Messages returned by `recv`.
    pub received_messages: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Messages that `send` refused because the queue was full.
    pub full: u64,
    /// Connections made to peers, and accepted from them.
    pub connections: u64,
    /// Connections closed because a limit was reached, or no hello came.
    pub refused: u64,
    /// Connections to peers that have ended.
    pub lost: u64,
    /// Endings that nobody asked for in time: [`Limits::peers`] of them are kept.
    pub untold: u64,
}
