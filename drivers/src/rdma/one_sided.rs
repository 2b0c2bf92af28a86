//! One-sided operations: a station reads and writes memory of its peer, whose processor takes no part.
//!
//! What the types keep apart:
//!
//! - [`Buffer`]: memory of ours that no peer can reach. It is ordinary bytes as long as nothing is under
//!   way with it. An operation takes it by value and its [`Finished`] gives it back, so that nobody frees
//!   or touches what the device may still touch. The connection keeps it meanwhile: whoever forgets an
//!   operation, or the connection itself, leaks memory and frees none.
//! - [`MemoryRegion`]: memory of ours that peers read and write whenever they like. There is never a slice
//!   of it, only copies and atomic words.
//! - [`RemoteRegion`]: memory of a peer, which is not ours to trust or to free.
//!
//! A connection is dropped queue pair first, buffers after it.

mod adapter;
mod buffer;
mod connection;
mod endpoint;
mod exchange;
mod operation;
mod region;

pub use self::adapter::Adapter;
pub use self::buffer::Buffer;
pub use self::connection::Connection;
pub use self::endpoint::ConnectionConfig;
pub use self::exchange::{AcceptError, HandshakeError, Incoming, Listener, connect};
pub use self::operation::{
    Finished, OperationError, OperationId, Refused, RequestError, WaitError,
};
pub use self::region::{MemoryRegion, RangeError};
pub use crate::rdma_wire::{Permissions, Refusal, RegionError, RemoteRegion, WireError};
