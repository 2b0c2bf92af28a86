//! RDMA, through libibverbs, which is loaded when it is first used: a program built with this module
//! starts without the library.
//!
//! [`Connection`] carries one-sided operations: it reads and writes the memory of a peer whose processor
//! takes no part. [`verbs`] is what that is made of.

mod one_sided;
pub mod verbs;

pub use one_sided::{
    AcceptError, Adapter, Buffer, Connection, ConnectionConfig, Finished, HandshakeError, Incoming,
    Listener, MemoryRegion, OperationError, OperationId, Permissions, RangeError, Refusal, Refused,
    RegionError, RemoteRegion, RequestError, WaitError, WireError, connect,
};
