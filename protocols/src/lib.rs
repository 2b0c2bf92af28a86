//! Wire protocols, sans-I/O: state machines that are handed bytes and say which bytes to send.
//!
//! A [`Protocol`] of your own takes four steps:
//! 1. Declare its header with [`header!`]: name, selector, fields.
//! 2. Write the state machine: what a frame changes ([`Protocol::on_frame`]), what there is to send
//!    ([`Protocol::poll_transmit`]), and when to be asked again ([`Protocol::poll_timeout`]).
//! 3. Test it without a network: [`header::test_header`], a [`Recorder`] in place of the stack, and
//!    [`header::fuzz_header`] for a fuzzer to call.
//! 4. Run it: `stack.attach(MyHeader::SELECTOR, MyProtocol::new())`, on any device, beside TCP.
//!
//! `examples/src/bin/custom_protocol.rs` is one from head to foot. [`probe`] is a protocol to read next,
//! [`beacon`] one with more in it, and [`dissector`] tells Wireshark about yours.
//!
//! [`courier`] carries messages and remote calls in packets of its own; [`transport`] carries messages
//! between stations over TCP connections, whoever's they are.

#![forbid(unsafe_code)]

pub mod beacon;
pub mod courier;
pub mod dissector;
pub mod header;
mod incoming;
mod outbox;
pub mod probe;
mod protocol;
pub mod transport;
mod undelivered;

pub use incoming::{Destination, Incoming, Peer, Stations};
pub use outbox::{Outbox, Recorder, SendError, Slots};
pub use protocol::{Protocol, Refused};
pub use undelivered::{Reason, Undelivered};
