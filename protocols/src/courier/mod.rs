//! Reliable messages and remote calls between stations that share nothing, over any carrier of
//! packets: UDP, raw IP or raw Ethernet.
//!
//! A [`Courier`] is one station. It keeps a session per peer and direction: who calls begins it, the
//! other one serves. Within a session there are requests, each with one response, and messages without
//! response, which arrive in order. Everything is bounded by [`Limits`], and no I/O is done here.
//!
//! # What is promised
//!
//! - A request is given to the application of the peer at most once, and is answered or
//!   [failed](Event::Failed), one of them and once. A failure says whether the request may have been
//!   served.
//! - Bodies arrive whole and unchanged, or not at all. Messages arrive in order and at most once;
//!   [`Event::Ended`] says how many may be lost.
//! - Nothing is promised about the order of requests: each is given to the application as soon as it
//!   is whole, and a lost packet holds up its own request only.
//! - A checksum of 32 bits guards against damage, not against an attacker who sees the packets.
//!
//! # On the wire
//!
//! All numbers are big-endian. Over UDP the usual port is 7000, where Wireshark looks for it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            checksum: CRC32C of everything after it            |  0
//! +-------+-------+-----------+-+-+-------------------------------+
//! |ver. 1 | kind  | 0         |N|E|   bytes after this header     |  4
//! +-------+-------+-----------+-+-+-------------------------------+
//! |            session: the identifier that the receiver          |  8
//! |                      of this packet has chosen                | 12
//! +---------------------------------------------------------------+
//! |  number of this packet, if it is a part of a body             | 16
//! +---------------------------------------------------------------+
//! |  ack: all packets before this number have come                | 20
//! +---------------------------------------------------------------+
//! |  sack: bit i tells whether packet ack + 1 + i has come        | 24
//! |                                                               | 28
//! +---------------------------------------------------------------+
//! |  credit: cells that may be used since the session began       | 32
//! +---------------------------------------------------------------+
//! |  stamp: the sender's clock in nanoseconds                     | 36
//! +---------------------------------------------------------------+
//! |  echo: stamp of the last packet that came + its wait here (E) | 40
//! +===============================================================+
//! |  slot of the call             | 0                             | 44  request,
//! +-------------------------------+-------------------------------+     response,
//! |  number of the call in its slot, or of the message            | 48  message
//! +---------------------------------------------------------------+
//! |  length of the whole body                                     | 52
//! +---------------------------------------------------------------+
//! |  offset of this part in the body                              | 56
//! +---------------------------------------------------------------+
//! |  the part …                                                   | 60
//! +===============================================================+
//! |  session: the identifier that the sender has chosen           | 44  hello,
//! |                                                               | 48  welcome
//! +---------------------------------------------------------------+
//! |  longest body that the sender takes                           | 52
//! +-------------------------------+-------------------------------+
//! |  longest packet that it takes |  calls that it serves at once | 56
//! +-------------------------------+-------------------------------+
//! ```
//!
//! | kind | | |
//! |---|---|---|
//! | 1 | hello | asks for a session; `session` is zero |
//! | 2 | welcome | grants it |
//! | 3, 4, 5 | request, response, message | a part of a body |
//! | 6 | ack | carries what every header carries |
//! | 7 | ping | wants an ack |
//! | 8 | reset | `session` is not known to the sender |
//! | 9 | close | the session has ended; the number says why: 0 closed, 1 no room, 2 protocol broken |
//!
//! N: the sender cannot go on, acknowledge at once. E: `echo` counts. What follows the packet is
//! ignored, since Ethernet pads short frames.
//!
//! # Sessions
//!
//! Each end chooses the identifier under which it is addressed: 39 random bits and the place of the
//! session in its table, so that a packet is brought to its session without a hash. A packet of an
//! earlier life, or from another address, does not find one and is answered with a reset; a reset is
//! believed only if it repeats the identifier that the believer uses, which a stranger cannot know.
//!
//! A welcome leaves a *stranger's* session behind, of which there are few; it becomes a full one, and
//! takes the place of an earlier session with the same address, with the first packet that carries its
//! identifier. So neither a late hello nor a forged one can end a session.
//!
//! # Flow control
//!
//! Credit is counted in cells of 256 bytes. A body takes as many as the smallest power of two that
//! holds it, all of them before its first packet, in the order in which bodies were given; up to 16 short
//! requests and responses go before a long body that waits for credit. The receiver
//! grants cells only out of its budget, anew as the application takes bodies out of the queue of
//! events: whoever does not poll is not sent to. A session begins with the cells of one body of the
//! greatest length, so that none can wait for ever, and 64 more; it gets more the more it uses them.
//!
//! # Loss
//!
//! Each part of a body has a packet number, which it keeps when it is sent again; the receiver takes
//! each number once. 64 numbers can be on the way. A packet is lost when one three numbers later has
//! arrived, or one sent a quarter of a round trip later (RACK), and if nothing arrives for a time-out,
//! the first and the last packet on the way go again (tail-loss probe); the time-out doubles. Round
//! trips are measured by echoed stamps, so retransmissions are measured, too.
//!
//! # Congestion
//!
//! The window of packets on the way answers to delay, as in Swift (Kumar et al., SIGCOMM 2020): it grows
//! by a packet per round trip while the round-trip time is below a target (the least of late, and half
//! of it or [`Config::queueing`]), and shrinks in proportion to the excess above it, at most once per round
//! trip and at most by half. Stamps are echoed without the time that the other end took, so the delay
//! that is seen is that of queues.
//!
//! Delay rather than loss, because queues in a data centre are short: where loss is the only sign, a
//! small call waits behind a full buffer of the switch before anybody slows down. And rather than
//! grants by the receiver, because the link that is full need not be the receiver's. Loss counts too, as
//! a cut by three tenths, since some of it is the switch's. Not taken from Swift: windows below one
//! packet, and pacing; the window is 64 packets at most. So of hundreds of senders to one
//! receiver each keeps a packet in the queue, which nothing here makes shorter.
//!
//! # What is eRPC's and what is Homa's
//!
//! From eRPC (Kalia et al., NSDI 2019; `erpc-io/eRPC`):
//! - sessions with a fixed number of slots for calls, a number per slot that grows, and no look-up
//!   on the way of a packet;
//! - the common case first: a call whose request and response fit a packet each is two packets,
//!   whose acknowledgements ride on the next ones;
//! - one owner polls everything; congestion control by round-trip times.
//!
//! Not from eRPC: credits that count packets per session (ours count memory, so that it bounds
//! what is granted in all); client-driven
//! responses and go-back-N (a response sends itself, and only what is lost goes again: there is no need
//! to assume a network that hardly loses); session management over sockets of its own; message buffers
//! that the device reads (a slot of the device is written here, once); Carousel's rate limiter.
//!
//! From Homa (Montazeri et al., SIGCOMM 2018; Ousterhout, ATC 2021; `PlatformLab/HomaModule`):
//! - messages instead of a stream: each completes on its own, and at-most-once calls are the unit;
//! - short bodies go before long ones, with a share of packets for the long ones so that they do not
//!   starve;
//! - the receiver grants what may be sent, short bodies go without asking.
//!
//! Not from Homa: grants per packet of a message and the switch's priority queues (they need a
//! receiver that knows its link's rate, and switches that are set up for it); retransmission on the
//! receiver's request; connectionless operation, which has a server keep state per call until
//! acknowledged, where here the packet numbers of a session do it.

mod attached;
mod calls;
mod config;
mod congestion;
mod counters;
mod events;
mod inbox;
mod memory;
mod outbox;
mod receive;
mod rtt;
mod session;
mod station;
mod timers;
mod transmit;
pub mod wire;

pub use attached::Attached;
pub use config::{Config, Limits};
pub use counters::{Counters, DropReason};
pub use events::{Call, Event, Failure, Refused, RequestId, SendError, Unanswered};
pub use station::Courier;
pub use wire::{Header, Hello, MessageHeader, Packet};
