//! Messages over the kernel's TCP: the baselines that the stack's own
//! [`Transport`](underpass_protocols::transport::Transport) is compared with.
//!
//! They are here because io_uring needs unsafe code, and this crate holds all of it.

mod epoll;
mod uring;

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use epoll::EpollTransport;
pub use uring::UringTransport;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Bytes that one read takes at most.
const READ_LEN: usize = 64 * 1024;

/// A listening socket, and where it listens: port 0 is any that is free.
fn listen(local: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok((socket, local))
}

/// A socket that dials from the address where `local` listens, so that the peer knows it by that.
fn dialer(local: SocketAddr, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if !local.ip().is_unspecified() && local.is_ipv4() == to.is_ipv4() {
        // The port is picked when the peer is known: one port serves many peers.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SockAddr::from(SocketAddr::new(local.ip(), 0)))?;
    }
    Ok(socket)
}

/// Failures of `accept` that end a connection, or pass: not the listener.
fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::ECONNABORTED,
        libc::EINTR,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EPROTO,
        libc::ECANCELED,
    ];
    error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}
