//! Wire protocols, sans-I/O: state machines that are handed bytes and say which bytes to send.
//!
//! [`courier`] carries messages and remote calls in packets of its own; [`transport`] carries messages
//! between stations over TCP connections, whoever's they are.

#![forbid(unsafe_code)]

pub mod courier;
pub mod transport;
