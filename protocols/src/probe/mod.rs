//! Is a host there, how long is the way, and how many hops has it in each direction?
//!
//! A small protocol, to be read as an example. It runs on an IP protocol number of its own: 253, which
//! RFC 3692 sets aside for experiments. Who runs [`Probe`] answers the requests of others.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |    version    |     kind      |           checksum            |
//! +---------------+---------------+-------------------------------+
//! |            session            |           sequence            |
//! +-------------------------------+-------------------------------+
//! |                            sent_at                            |
//! |                                                               |
//! +---------------+---------------+-------------------------------+
//! |   hop_limit   |   hops_there  |           reserved            |
//! +---------------+---------------+-------------------------------+
//! |                           payload …
//! ```
//!
//! A reply repeats `session`, `sequence`, `sent_at` and the payload of its request. `hop_limit` is what
//! the packet was sent with; the receiver subtracts what has arrived in the IP header, and knows the
//! number of hops. The replier tells it of the request in `hops_there`. A request whose hop limit is too
//! small for the way ends at a router, which says so: requests with a hop limit of 1, 2, 3 and so on find
//! out the way. Such an ICMP error quotes at least the first eight bytes, in which the request is told.
//!
//! A reply counts if it comes from where the request went and repeats its number and time, an error if it
//! quotes session and number. Nothing keeps those on the way from forging either.

mod header;
mod machine;
#[cfg(test)]
mod tests;

pub use self::header::ProbeHeader;
pub use self::machine::{Outcome, Probe, ProbeConfig, ProbeResult, Request, TooManyRequests};
