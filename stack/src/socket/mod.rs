//! The sockets: handles that lock their shard for the length of one call.

mod mode;
mod multicast;
mod ping;
mod tcp_io;
mod tcp_listener;
mod tcp_stream;
#[cfg(feature = "tokio")]
mod tokio_io;
mod udp;

pub use ping::Ping;
pub use tcp_listener::TcpListener;
pub use tcp_stream::TcpStream;
pub use udp::UdpSocket;
