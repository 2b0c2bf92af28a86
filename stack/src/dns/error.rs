use std::io;

use super::RecordType;
use super::message::MAX_ALIASES;

/// Why a name was not resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// There is no such name (NXDOMAIN).
    #[error("{0} does not exist (NXDOMAIN)")]
    NoName(String),
    /// The name has no such record.
    #[error("{name} has no {kind} record")]
    NoRecord {
        /// The name, complete.
        name: String,
        /// What it lacks.
        kind: RecordType,
    },
    /// Not a name that a host can have.
    #[error("'{name}' is not a host name: {reason}")]
    BadName {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody to ask.
    #[error("looking up {0}: no DNS server is known")]
    NoServer(String),
    /// No server gave an answer.
    #[error("looking up {name}: {tried}")]
    Unanswered {
        /// The name, complete.
        name: String,
        /// Each server, and what came of asking it.
        tried: String,
        /// None of them was heard of at all.
        silence: bool,
    },
    /// Aliases (CNAME) in a circle, or too many one after the other.
    #[error("{0} is an alias of an alias, and so on, more than {MAX_ALIASES} times")]
    TooManyAliases(String),
    /// [`DnsConfig::questions`](super::DnsConfig::questions) is reached.
    #[error("the limit of {0} questions to DNS servers at a time is reached")]
    TooManyQuestions(usize),
    /// The stack could not do its part.
    #[error("looking up a name: {0}")]
    Stack(String),
}

impl From<DnsError> for io::Error {
    /// The error stays inside (`downcast`).
    fn from(error: DnsError) -> Self {
        use io::ErrorKind;
        let kind = match &error {
            DnsError::NoName(_) | DnsError::NoRecord { .. } => ErrorKind::NotFound,
            DnsError::BadName { .. } => ErrorKind::InvalidInput,
            DnsError::NoServer(_) => ErrorKind::AddrNotAvailable,
            DnsError::Unanswered { silence: true, .. } => ErrorKind::TimedOut,
            DnsError::Unanswered { silence: false, .. } | DnsError::TooManyAliases(_) => {
                ErrorKind::InvalidData
            }
            DnsError::TooManyQuestions(_) => ErrorKind::OutOfMemory,
            DnsError::Stack(_) => ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
