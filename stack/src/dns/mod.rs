//! Names to addresses: a stub resolver (RFC 1034 §5.3.1) over the stack's own sockets.
//!
//! What a message says ([`message`]), what is remembered ([`cache`]), whom to ask and how long to
//! wait ([`schedule`]) does no I/O. [`exchange`] asks one server one question, [`flight`] keeps it at
//! one question of a kind at a time, and [`Resolver`] joins them.

mod addresses;
mod cache;
mod config;
mod connect;
mod error;
mod exchange;
mod flight;
mod hosts;
mod message;
mod name;
mod resolver;
mod schedule;

pub use config::DnsConfig;
pub use error::DnsError;
pub use hosts::Hosts;
pub use message::{Record, RecordData, RecordType};
pub use resolver::{Answer, DnsStats, Resolver};

pub(crate) use resolver::State;

#[cfg(feature = "fuzzing")]
pub(crate) use message::{Outcome, Query, Question, Reply};
#[cfg(feature = "fuzzing")]
pub(crate) use name::Name;
