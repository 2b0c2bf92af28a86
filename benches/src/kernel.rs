//! TCP sockets of the kernel, with cubic.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

/// A listening socket in the network namespace of the calling thread.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = cubic()?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

/// A connection from the network namespace of the calling thread.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = cubic()?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Cubic from the start: a system whose default is BBR goes on pacing if it is changed later.
fn cubic() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_congestion(b"cubic")?;
    Ok(socket)
}
