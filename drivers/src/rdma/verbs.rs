//! The verbs: what an RDMA device does, as objects that own each other.
//!
//! Nothing is destroyed while something that was made from it lives. What the hardware may touch
//! meanwhile, the type system does not see: those calls are unsafe and say what has to hold.
//!
//! libibverbs is thread-safe: its objects may be used by several threads at once.
//!
//! Sources: InfiniBand Architecture Specification volume 1 release 1.4; the manual pages of libibverbs
//! such as ibv_post_send(3).

mod address;
mod completion;
mod connected;
mod context;
mod domain;
mod error;
mod library;
mod memory;
mod multicast;
mod one_sided;
mod port;
mod queue_pair;
mod request;

pub use self::address::{AddressHandle, Gid, ParseGidError, Route};
pub use self::completion::{Completion, CompletionChannel, CompletionError, CompletionQueue};
pub use self::connected::{Atomics, Link};
pub use self::context::{Context, Event, Limits, devices};
pub use self::domain::ProtectionDomain;
pub use self::error::VerbsError;
pub use self::memory::{Access, Memory};
pub use self::multicast::Membership;
pub use self::one_sided::RemoteAddress;
pub use self::port::{GidEntry, GidKind, Port, PortState};
pub use self::queue_pair::{Kind, QueuePair, QueuePairConfig};
pub use self::request::{Destination, PostError, ReceiveBatch, SendBatch};
