//! The sockets: handles that lock their shard for the length of one call.

mod mode;
mod multicast;
mod ping;
mod protocol;
mod raw;
mod tcp_io;
mod tcp_listener;
mod tcp_options;
mod tcp_stream;
#[cfg(feature = "tokio")]
mod tokio_io;
mod udp;

pub use ping::Ping;
pub use protocol::ProtocolHandle;
pub use raw::{IpVersion, RawSocket};
pub use tcp_listener::{ListenOptions, TcpListener};
pub use tcp_stream::{ConnectOptions, TcpStream};
pub use udp::UdpSocket;
