//! Our sockets and the kernel's behind one face, so that both are measured by the same code.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net;
use underpass::{Stack, TcpListener, TcpStream};
use underpass_drivers::lab::Namespace;

/// What TCP does, on either side.
pub(super) trait Sockets: Clone + Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// A listening socket.
    type Listener: Send + Sync + 'static;

    /// Listens at `addr`; inside a tokio runtime.
    fn listen(&self, addr: SocketAddr) -> io::Result<Self::Listener>;
    /// The next connection.
    fn accept(listener: &Self::Listener) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Connects to `addr`.
    fn connect(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Sockets for Stack {
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn listen(&self, addr: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(self, addr)
    }

    async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
        let (stream, _) = listener.accept_async().await?;
        stream.set_nodelay(true);
        Ok(stream)
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_async(self, addr).await?;
        stream.set_nodelay(true);
        Ok(stream)
    }
}

/// The kernel's TCP in one network namespace.
#[derive(Clone, Debug)]
pub(super) struct Kernel(Arc<Namespace>);

impl Kernel {
    pub(super) fn new(namespace: Namespace) -> Self {
        Self(Arc::new(namespace))
    }

    /// A socket belongs to the namespace it is made in, whoever uses it.
    fn socket(&self, addr: SocketAddr) -> io::Result<Socket> {
        let domain = Domain::for_address(addr);
        let socket = self.0.run(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)))?;
        // The most common one, whatever this machine is set to; a user namespace may not have it.
        let _ = socket.set_tcp_congestion(b"cubic");
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl Sockets for Kernel {
    type Stream = net::TcpStream;
    type Listener = net::TcpListener;

    fn listen(&self, addr: SocketAddr) -> io::Result<net::TcpListener> {
        let socket = self.socket(addr)?;
        socket.bind(&addr.into())?;
        socket.listen(128)?;
        net::TcpListener::from_std(StdListener::from(socket))
    }

    async fn accept(listener: &net::TcpListener) -> io::Result<net::TcpStream> {
        // It takes its options from the listener.
        Ok(listener.accept().await?.0)
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<net::TcpStream> {
        let socket = self.socket(addr)?;
        net::TcpSocket::from_std_stream(socket.into()).connect(addr).await
    }
}
