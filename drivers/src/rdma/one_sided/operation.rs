use std::io;

use super::buffer::Buffer;
use super::region::RangeError;
use crate::rdma::verbs::CompletionError;

/// Names an operation of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub(super) u64);

/// An operation that the device is done with.
#[derive(Debug)]
pub enum Finished {
    /// A read or a write.
    Transfer {
        /// Which one.
        operation: OperationId,
        /// What it took. If a read has failed, any part of its range may have been written.
        buffer: Buffer,
        /// Whether all bytes were read, or have arrived.
        result: Result<(), OperationError>,
    },
    /// An atomic operation.
    Atomic {
        /// Which one.
        operation: OperationId,
        /// What the word was before.
        result: Result<u64, OperationError>,
    },
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The device or the peer says so: [`RemoteAccess`](CompletionError::RemoteAccess) of a wrong key, range
    /// or permission, [`NoAnswer`](CompletionError::NoAnswer) of a peer that is gone,
    /// [`Flushed`](CompletionError::Flushed) behind one that failed.
    #[error(transparent)]
    Completion(#[from] CompletionError),
    /// The device has not taken all of its requests.
    #[error("the device does not take the request: {}", io::Error::from_raw_os_error(*.0))]
    NotPosted(i32),
}

/// Why an operation was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Ask for what is finished first.
    #[error("{limit} operations are under way or not asked for, the limit")]
    Full {
        /// [`ConnectionConfig::operations`](super::ConnectionConfig::operations)
        limit: usize,
    },
    /// The connection has failed.
    #[error("the connection has failed: {0}")]
    Failed(OperationError),
    /// The peer's region does not have these bytes.
    #[error("the peer's memory: {0}")]
    Remote(RangeError),
    /// The buffer does not have these bytes.
    #[error("the buffer: {0}")]
    Local(RangeError),
    /// A transfer of no bytes.
    #[error("a transfer of no bytes")]
    Empty,
    /// More than [`ConnectionConfig::longest_transfer`](super::ConnectionConfig::longest_transfer).
    #[error("{len} bytes; a transfer has at most {max}")]
    TooLong {
        /// What was asked for.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The region was offered without this permission.
    #[error("the peer has not given the permission for this")]
    NotPermitted,
    /// The device has no atomic operations.
    #[error("the device has no atomic operations")]
    NoAtomics,
    /// A buffer of another adapter.
    #[error("the buffer is of another adapter than the connection")]
    OtherAdapter,
}

/// A transfer that was not begun, and its buffer.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// As it was.
    pub buffer: Buffer,
    /// Why.
    pub reason: RequestError,
}

/// Why [`Connection::wait_for`](super::Connection::wait_for) returns nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It is still under way.
    #[error("the operation takes longer")]
    TimedOut,
    /// There is no such operation, or its end was asked for before.
    #[error("no such operation is under way")]
    Unknown,
    /// The device has failed.
    #[error(transparent)]
    Device(#[from] io::Error),
}

impl Finished {
    /// Which operation it was.
    pub fn operation(&self) -> OperationId {
        match self {
            Self::Transfer { operation, .. } | Self::Atomic { operation, .. } => *operation,
        }
    }
}
