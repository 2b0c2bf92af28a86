//! What the application is told, and what it is refused.

use std::io::{self, ErrorKind};

/// Names a request at the one who sent it, for as long as its [`Courier`](super::Courier) lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// Names a request at the one who serves it. It is given back with the response, once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the caller waits for a response"]
pub struct Call {
    pub(super) session: u64,
    pub(super) number: u32,
    pub(super) slot: u16,
}

/// Something has happened. Bodies can be given back to [`Courier::recycle`](super::Courier::recycle),
/// or sent on.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<A> {
    /// A peer asks: answer with [`Courier::respond`](super::Courier::respond).
    Request {
        /// Who asks.
        from: A,
        /// What to answer with.
        call: Call,
        /// What it says.
        body: Vec<u8>,
    },
    /// A request has been answered.
    Response {
        /// As [`Courier::send_request`](super::Courier::send_request) said.
        id: RequestId,
        /// The answer.
        body: Vec<u8>,
    },
    /// A request will not be answered.
    Failed {
        /// As [`Courier::send_request`](super::Courier::send_request) said.
        id: RequestId,
        /// What went wrong.
        why: Failure,
        /// It may have been served. If not, no part of it was sent.
        may_have_run: bool,
    },
    /// A message without response, in the order in which its sender has sent them.
    Message {
        /// Who has sent it.
        from: A,
        /// What it says.
        body: Vec<u8>,
    },
    /// A session that was begun here has ended, and nobody here has asked for it. The next request or
    /// message begins a new one.
    Ended {
        /// The other end.
        peer: A,
        /// What went wrong.
        why: Failure,
        /// Messages that may not have arrived.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },
}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing was heard for [`Config::dead_after`](super::Config::dead_after).
    #[error("the peer does not answer")]
    Silent,
    /// The peer does not know the session: it has begun a new life, or forgotten it.
    #[error("the peer does not know the session")]
    Unknown,
    /// The peer has closed it.
    #[error("closed by the peer")]
    Closed,
    /// The peer has no room for another session.
    #[error("the peer has no room for a session")]
    Busy,
    /// The peer takes no bodies as long as one that was queued for it.
    #[error("a body is longer than the peer takes")]
    TooLong,
    /// One of the two ends broke the protocol.
    #[error("the protocol was broken")]
    Violation,
    /// [`Courier::abort`](super::Courier::abort) was called.
    #[error("aborted")]
    Aborted,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::Silent => ErrorKind::TimedOut,
            Failure::Unknown => ErrorKind::ConnectionReset,
            Failure::Closed => ErrorKind::BrokenPipe,
            Failure::Busy => ErrorKind::ConnectionRefused,
            Failure::TooLong => ErrorKind::InvalidInput,
            Failure::Violation => ErrorKind::InvalidData,
            Failure::Aborted => ErrorKind::ConnectionAborted,
        };
        Self::new(kind, failure)
    }
}

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A limit of bytes or calls is reached: try again after some events.
    #[error("too much is under way")]
    Full,
    /// The body is longer than this station or the peer permits.
    #[error("the body is longer than the limit of {limit} bytes")]
    TooLong {
        /// The smaller one of both limits.
        limit: usize,
    },
    /// A new peer, and as many sessions as there may be.
    #[error("there are as many sessions as there may be")]
    TooManySessions,
    /// [`Courier::close`](super::Courier::close) was called, and the session has not ended yet.
    #[error("the session is being closed")]
    Closing,
    /// The caller is gone, or has been answered.
    #[error("nobody waits for this response")]
    Gone,
}

/// A body that was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// Why.
    pub why: SendError,
    /// The body.
    pub body: Vec<u8>,
}

/// A response that was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unanswered {
    /// Why.
    pub why: SendError,
    /// The call, to be answered later if it is worth it.
    pub call: Call,
    /// The response.
    pub body: Vec<u8>,
}
