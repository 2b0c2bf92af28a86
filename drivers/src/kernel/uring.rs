//! The kernel's TCP through io_uring(7).

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::Socket;
use underpass_protocols::transport::{
    ConnectionId, Counters, Endpoint, Limits, Lost, SendError, Transport,
};

use self::ring::{Done, Operation, Ring};
use super::{READ_LEN, dialer, is_passing, listen};

mod ring;

/// A [`Transport`] over the kernel's TCP through io_uring: accepts, connects, receives and sends of
/// all peers go to the kernel in one system call per `progress`, which waits as well.
///
/// Each connection has at most one receive and one send in the kernel. Receives are into buffers of
/// their own, 64 KiB per connection; a multishot receive with provided buffers could not be held
/// back when nobody takes the messages.
pub struct UringTransport {
    endpoint: Endpoint,
    listener: Arc<Socket>,
    accepting: bool,
    connections: HashMap<ConnectionId, Connection>,
    ring: Ring,
    done: Vec<Done>,
}

struct Connection {
    socket: Arc<Socket>,
    /// The buffer to receive into; `None` while the kernel has it.
    receive: Option<Vec<u8>>,
    /// A buffer to exchange for the output; `None` while the kernel has it.
    send: Option<Vec<u8>>,
}

impl UringTransport {
    /// Listens at `local` in the calling thread's network namespace; port 0 is any that is free.
    /// Peers are dialled from the namespace of the thread that calls `progress`.
    ///
    /// # Errors
    /// Those of the listening socket; `PermissionDenied` or `Unsupported` where this process may not
    /// use io_uring, or the kernel is older than 5.11.
    pub fn bind(local: SocketAddr, limits: Limits) -> io::Result<Self> {
        let ring = Ring::new()?;
        let (listener, local) = listen(local)?;
        Ok(Self {
            endpoint: Endpoint::new(local, limits),
            listener: Arc::new(listener),
            accepting: false,
            connections: HashMap::new(),
            ring,
            done: Vec::new(),
        })
    }

    /// Turns what the endpoint asks for into operations.
    fn serve(&mut self) -> bool {
        let mut busy = false;
        if !self.accepting {
            self.accepting = true;
            self.ring.push(Operation::Accept { listener: Arc::clone(&self.listener) });
        }
        while let Some((id, to)) = self.endpoint.next_dial() {
            busy = true;
            if let Err(error) = self.dial(id, to) {
                self.endpoint.broken(id, error);
            }
        }
        while let Some(id) = self.endpoint.next_output() {
            busy |= self.send_next(id);
        }
        while let Some(id) = self.endpoint.next_input() {
            self.receive_next(id);
        }
        while let Some(id) = self.endpoint.next_close() {
            busy |= self.hang_up(id);
        }
        busy || self.endpoint.has_messages() || self.endpoint.has_lost()
    }

    /// Submits, waits for completions, and handles them.
    fn poll(&mut self, timeout: Duration) -> io::Result<bool> {
        let mut done = std::mem::take(&mut self.done);
        let submitted = self.ring.submit(timeout, &mut done);
        let mut busy = false;
        for done in done.drain(..) {
            busy |= self.handle(done)?;
        }
        self.done = done;
        submitted.map(|()| busy)
    }

    fn handle(&mut self, done: Done) -> io::Result<bool> {
        match done {
            Done::Accept(result) => {
                self.accepting = false;
                match result {
                    Ok(socket) => self.accepted(socket),
                    Err(error) if is_passing(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Done::Connect { id, result: Ok(()) } => {
                self.endpoint.connected(id);
                self.receive_next(id);
            }
            Done::Connect { id, result: Err(error) } => self.drop_broken(id, error),
            Done::Receive { id, buffer, result } => {
                let read = result.map(|len| buffer.get(..len).unwrap_or(&[]));
                match read {
                    Ok([]) => {
                        self.endpoint.ended(id);
                        self.hang_up(id);
                    }
                    Ok(bytes) => self.endpoint.received(id, bytes),
                    Err(error) if is_to_repeat(&error) => {}
                    Err(error) => self.drop_broken(id, error),
                }
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.receive = Some(buffer);
                }
                self.receive_next(id);
            }
            Done::Send { id, buffer, sent, result } => {
                let Some(connection) = self.connections.get_mut(&id) else { return Ok(false) };
                let sent = match result {
                    Ok(len) => {
                        self.endpoint.sent(id, len);
                        sent + len
                    }
                    Err(error) if is_to_repeat(&error) => sent,
                    Err(error) => {
                        self.drop_broken(id, error);
                        return Ok(true);
                    }
                };
                if sent < buffer.len() {
                    let socket = Arc::clone(&connection.socket);
                    self.ring.push(Operation::Send { id, socket, buffer, sent });
                } else {
                    connection.send = Some(buffer);
                    self.send_next(id);
                }
            }
        }
        Ok(true)
    }

    fn accepted(&mut self, socket: Socket) {
        // It may have broken already, so that it has no peer.
        let Some(remote) = socket.peer_addr().ok().and_then(|remote| remote.as_socket()) else {
            return;
        };
        let Some(id) = self.endpoint.accepted(remote) else { return };
        match self.keep(id, socket) {
            Ok(_) => self.receive_next(id),
            Err(error) => self.endpoint.broken(id, error),
        }
    }

    fn dial(&mut self, id: ConnectionId, to: SocketAddr) -> io::Result<()> {
        let socket = self.keep(id, dialer(self.endpoint.local_addr(), to)?)?;
        self.ring.push(Operation::Connect { id, socket, to: Box::new(to.into()) });
        Ok(())
    }

    fn keep(&mut self, id: ConnectionId, socket: Socket) -> io::Result<Arc<Socket>> {
        socket.set_tcp_nodelay(true)?;
        let socket = Arc::new(socket);
        let (receive, send) = (Some(Vec::new()), Some(Vec::new()));
        self.connections.insert(id, Connection { socket: Arc::clone(&socket), receive, send });
        Ok(socket)
    }

    /// Receives from a connection, if it is to be read from and the kernel does not do so already.
    fn receive_next(&mut self, id: ConnectionId) {
        if !self.endpoint.wants_input(id) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(mut buffer) = connection.receive.take() {
            buffer.resize(READ_LEN, 0);
            let socket = Arc::clone(&connection.socket);
            self.ring.push(Operation::Receive { id, socket, buffer });
        }
    }

    /// Sends the output of a connection, if there is any and the kernel is not sending already.
    fn send_next(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if self.endpoint.output(id).is_empty() {
            return false;
        }
        let Some(spare) = connection.send.take() else { return false };
        let buffer = self.endpoint.take_output(id, spare);
        let socket = Arc::clone(&connection.socket);
        self.ring.push(Operation::Send { id, socket, buffer, sent: 0 });
        true
    }

    fn drop_broken(&mut self, id: ConnectionId, error: io::Error) {
        self.endpoint.broken(id, error);
        self.hang_up(id);
    }

    /// Lets go of a connection. Operations in the kernel hold the socket until they end, which they
    /// do now.
    fn hang_up(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.remove(&id) else { return false };
        // It fails if the peer was quicker.
        let _ = connection.socket.shutdown(Shutdown::Both);
        true
    }
}

impl Transport for UringTransport {
    fn local_addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    fn send(&mut self, to: SocketAddr, message: &[u8]) -> Result<(), SendError> {
        self.endpoint.send(to, message)
    }

    fn recv(&mut self) -> Option<(Bytes, SocketAddr)> {
        self.endpoint.recv()
    }

    fn progress(&mut self, timeout: Duration) -> io::Result<bool> {
        let start = Instant::now();
        loop {
            let mut busy = self.serve();
            let left = timeout.saturating_sub(start.elapsed());
            busy |= self.poll(if busy { Duration::ZERO } else { left })?;
            busy |= self.endpoint.has_messages() || self.endpoint.has_lost();
            if busy || start.elapsed() >= timeout {
                return Ok(busy);
            }
        }
    }

    fn lost(&mut self) -> Option<Lost> {
        self.endpoint.lost()
    }

    fn queued(&self) -> usize {
        self.endpoint.queued()
    }

    fn counters(&self) -> Counters {
        self.endpoint.counters()
    }
}

impl Drop for UringTransport {
    /// Ends every operation in the kernel, so that the ring can take its buffers back.
    fn drop(&mut self) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.hang_up(id);
        }
        let _ = self.listener.shutdown(Shutdown::Both);
    }
}

/// The operation was interrupted, or the thread that submitted it has ended, which cancels it.
fn is_to_repeat(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECANCELED | libc::EAGAIN))
}
