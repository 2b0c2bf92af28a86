//! The kernel's TCP, waited for with epoll(7).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{Timespec, epoll};
use socket2::Socket;
use underpass_protocols::transport::{
    ConnectionId, Counters, Endpoint, Limits, Lost, SendError, Transport,
};

use super::{READ_LEN, dialer, is_passing, listen};

/// A [`Transport`] over the kernel's TCP, with non-blocking sockets and edge-triggered epoll: one
/// `epoll_wait` per `progress`, one `write` per burst and peer.
pub struct EpollTransport {
    endpoint: Endpoint,
    listener: Socket,
    /// The listener may have connections.
    acceptable: bool,
    epoll: OwnedFd,
    connections: HashMap<ConnectionId, Connection>,
    buffer: Vec<u8>,
}

/// What the kernel said of a socket last.
struct Connection {
    socket: Socket,
    connected: bool,
    readable: bool,
    /// The end of the stream, or an error, is there to be read.
    hung_up: bool,
}

/// The listener, in an event; no connection has this id.
const LISTENER: u64 = u64::MAX;
/// Most events taken at once.
const EVENTS: usize = 64;

impl EpollTransport {
    /// Listens at `local` in the calling thread's network namespace; port 0 is any that is free.
    /// Peers are dialled from the namespace of the thread that calls `progress`.
    pub fn bind(local: SocketAddr, limits: Limits) -> io::Result<Self> {
        let (listener, local) = listen(local)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(Self {
            endpoint: Endpoint::new(local, limits),
            listener,
            acceptable: true,
            epoll,
            connections: HashMap::new(),
            buffer: vec![0; READ_LEN],
        })
    }

    /// Does what the endpoint asks for.
    fn serve(&mut self) -> io::Result<bool> {
        let mut busy = self.acceptable && self.accept()?;
        while let Some((id, to)) = self.endpoint.next_dial() {
            busy = true;
            if let Err(error) = self.dial(id, to) {
                self.endpoint.broken(id, error);
            }
        }
        while let Some(id) = self.endpoint.next_output() {
            busy |= self.write(id);
        }
        while let Some(id) = self.endpoint.next_input() {
            busy |= self.read(id);
        }
        while let Some(id) = self.endpoint.next_close() {
            busy |= self.connections.remove(&id).is_some();
        }
        Ok(busy || self.endpoint.has_messages() || self.endpoint.has_lost())
    }

    /// Waits for events and handles them.
    fn poll(&mut self, timeout: Duration) -> io::Result<bool> {
        // Longer waits are waited for in pieces.
        let timeout = Timespec::try_from(timeout.min(Duration::from_hours(1)))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut buffer[..], Some(&timeout)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        let mut busy = false;
        for event in events {
            // The fields of the packed structure are copied out.
            let (flags, data) = (event.flags, event.data.u64());
            if data == LISTENER {
                self.acceptable = true;
            } else {
                busy |= self.handle(ConnectionId::from_bits(data), flags);
            }
        }
        Ok(busy)
    }

    fn handle(&mut self, id: ConnectionId, flags: epoll::EventFlags) -> bool {
        use epoll::EventFlags;
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let hung_up = EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR;
        connection.hung_up |= flags.intersects(hung_up);
        connection.readable |= flags.intersects(EventFlags::IN | hung_up);
        let mut busy = false;
        if !connection.connected {
            match connection.socket.take_error() {
                Ok(None) => {
                    connection.connected = true;
                    busy = true;
                    self.endpoint.connected(id);
                }
                Ok(Some(error)) | Err(error) => {
                    self.drop_broken(id, error);
                    return true;
                }
            }
        }
        busy | self.write(id) | self.read(id)
    }

    fn accept(&mut self) -> io::Result<bool> {
        let mut busy = false;
        loop {
            match self.listener.accept() {
                Ok((socket, remote)) => {
                    busy = true;
                    let Some(id) = remote.as_socket().and_then(|r| self.endpoint.accepted(r))
                    else {
                        continue;
                    };
                    if let Err(error) = self.keep(id, socket, true) {
                        self.endpoint.broken(id, error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.acceptable = false;
                    return Ok(busy);
                }
                Err(error) if is_passing(&error) => {
                    tracing::warn!("accepting a connection: {error}");
                    return Ok(busy);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn dial(&mut self, id: ConnectionId, to: SocketAddr) -> io::Result<()> {
        let socket = dialer(self.endpoint.local_addr(), to)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        self.keep(id, socket, false)
    }

    fn keep(&mut self, id: ConnectionId, socket: Socket, connected: bool) -> io::Result<()> {
        use epoll::EventFlags;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let data = epoll::EventData::new_u64(id.to_bits());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        // What is the case already is an event, too.
        epoll::add(&self.epoll, &socket, data, flags)?;
        let (readable, hung_up) = (false, false);
        self.connections.insert(id, Connection { socket, connected, readable, hung_up });
        Ok(())
    }

    fn write(&mut self, id: ConnectionId) -> bool {
        let mut busy = false;
        loop {
            let output = self.endpoint.output(id);
            let Some(connection) = self.connections.get_mut(&id).filter(|_| !output.is_empty())
            else {
                return busy;
            };
            match connection.socket.write(output) {
                Ok(written) => self.endpoint.sent(id, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return busy,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.drop_broken(id, error),
            }
            busy = true;
        }
    }

    fn read(&mut self, id: ConnectionId) -> bool {
        let mut busy = false;
        while self.endpoint.wants_input(id) {
            let Some(connection) = self.connections.get_mut(&id).filter(|c| c.readable) else {
                return busy;
            };
            match connection.socket.read(&mut self.buffer) {
                Ok(0) => {
                    self.endpoint.ended(id);
                    self.connections.remove(&id);
                }
                Ok(len) => {
                    // A short read has taken everything; the end, if it is known, is still there.
                    connection.readable = len == self.buffer.len() || connection.hung_up;
                    self.endpoint.received(id, self.buffer.get(..len).unwrap_or(&[]));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.readable = false;
                    return busy;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.drop_broken(id, error),
            }
            busy = true;
        }
        busy
    }

    fn drop_broken(&mut self, id: ConnectionId, error: io::Error) {
        self.endpoint.broken(id, error);
        self.connections.remove(&id);
    }
}

impl Transport for EpollTransport {
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
            let mut busy = self.serve()?;
            let left = timeout.saturating_sub(start.elapsed());
            busy |= self.poll(if busy { Duration::ZERO } else { left })?;
            // New connections and what follows from the events.
            busy |= self.serve()?;
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
