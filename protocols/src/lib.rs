//! Wire protocols, sans-I/O: state machines that are handed bytes and say which bytes to send.
//!
//! [`transport`] carries messages between stations over TCP connections, whoever's they are.

#![forbid(unsafe_code)]

pub mod transport;
