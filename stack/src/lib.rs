//! A userspace TCP/IP stack over any packet device.
//!
//! A [`Stack`] owns a device (anything that implements [`devices::Device`]) and gives sockets that
//! look like those of `std::net`: [`TcpListener`], [`TcpStream`], [`UdpSocket`], [`Ping`]. Each of
//! them serves blocking code (`std::io`), futures (`futures_io` traits and `*_async` methods) and,
//! with feature `tokio`, everything written for tokio's streams. Wire protocols of your own run beside
//! TCP ([`Stack::attach`], [`protocols`]).
//!
//! ```
//! use std::io::{Read, Write};
//! use underpass::devices::MemoryDevice;
//! use underpass::{Stack, TcpListener, TcpStream};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (left, right) = MemoryDevice::pair(Default::default());
//! let server = Stack::builder().address("10.0.0.1/24".parse()?).build(left)?;
//! let client = Stack::builder().address("10.0.0.2/24".parse()?).build(right)?;
//!
//! let listener = TcpListener::bind(&server, "10.0.0.1:7".parse()?)?;
//! let mut near = TcpStream::connect(&client, "10.0.0.1:7".parse()?)?;
//! let (mut far, _) = listener.accept()?;
//! near.write_all(b"under the kernel")?;
//! let mut text = [0; 16];
//! far.read_exact(&mut text)?;
//! assert_eq!(&text, b"under the kernel");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod arp;
mod attachments;
mod bell;
mod block;
mod checksum;
mod config;
mod core;
mod dhcp;
mod dns;
mod driver;
mod fragment;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod groups;
mod handover;
mod homes;
mod icmp;
mod icmp_errors;
mod interface;
mod ip_header;
mod isn;
mod link;
mod list;
mod ndp;
mod neighbor;
mod network;
mod output;
mod packet;
mod path_mtu;
mod ping;
mod ports;
mod random;
mod raw;
mod reassembly;
mod recent;
mod routes;
mod runtime;
mod shard;
mod slaac;
mod sleep;
mod socket;
mod stack;
mod stats;
mod tcp;
mod time_wait;
mod timer;
pub mod transport;
mod udp;
mod wake;

pub use attachments::ProtocolCounters;
pub use config::Limits;
pub use core::{AttachError, Turn};
pub use dns::{
    Answer, DnsConfig, DnsError, DnsStats, Hosts, Record, RecordData, RecordType, Resolver,
};
pub use interface::Interface;
pub use network::AddressError;
pub use ping::EchoReply;
pub use routes::{Address, AddressState, Origin, Route};
pub use runtime::{Local, SubmitError, Task, run_per_core};
pub use shard::Shard;
pub use sleep::Sleep;
pub use socket::{
    ConnectOptions, IpVersion, ListenOptions, Ping, ProtocolHandle, RawSocket, TcpListener,
    TcpStream, UdpSocket,
};
pub use stack::{BuildError, Builder, Stack};
pub use stats::{DropReason, Drops, Stats};
pub use tcp::{KeepAlive, TcpInfo, TcpOptions, TcpState};

pub use underpass_devices as devices;
pub use underpass_protocols as protocols;
