//! The sockets of a transport: they do what its endpoint asks for.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::calls::{Bell, Caller, Calls};
use super::{ConnectionId, Endpoint, Limits};
use crate::{Stack, TcpListener, TcpStream};

pub(super) struct Sockets {
    pub(super) endpoint: Endpoint,
    stack: Stack,
    listener: TcpListener,
    listener_bell: Arc<Bell>,
    listener_waker: Waker,
    by_id: HashMap<ConnectionId, Socket>,
    calls: Arc<Calls>,
    /// Callers being answered; kept for its memory.
    callers: Vec<Caller>,
}

struct Socket {
    stream: TcpStream,
    bell: Arc<Bell>,
    waker: Waker,
    connected: bool,
}

impl Sockets {
    pub(super) fn bind(stack: &Stack, local: SocketAddr, limits: Limits) -> io::Result<Self> {
        let calls = Arc::<Calls>::default();
        let (listener_bell, listener_waker) = calls.bell(None);
        let listener = TcpListener::bind(stack, local)?;
        // The first look finds what has come, and leaves the waker.
        listener_waker.wake_by_ref();
        Ok(Self {
            endpoint: Endpoint::new(local, limits),
            stack: stack.clone(),
            listener,
            listener_bell,
            listener_waker,
            by_id: HashMap::new(),
            calls,
            callers: Vec::new(),
        })
    }

    /// Moves what can be moved. True: something was, or there are messages or losses to be asked
    /// for.
    ///
    /// # Errors
    /// The stack has stopped.
    pub(super) fn serve(&mut self) -> io::Result<bool> {
        let mut busy = false;
        let mut callers = std::mem::take(&mut self.callers);
        self.calls.take(&mut callers);
        for caller in callers.drain(..) {
            match caller {
                None => busy |= self.accept()?,
                Some(id) => busy |= self.answer(id),
            }
        }
        self.callers = callers;
        while let Some((id, to)) = self.endpoint.next_dial() {
            self.dial(id, to);
            busy = true;
        }
        while let Some(id) = self.endpoint.next_output() {
            busy |= self.write(id);
        }
        while let Some(id) = self.endpoint.next_input() {
            busy |= self.read(id);
        }
        while let Some(id) = self.endpoint.next_close() {
            busy |= self.by_id.remove(&id).is_some();
        }
        Ok(busy || self.endpoint.has_messages() || self.endpoint.has_lost())
    }

    /// Waits until a socket calls. False: none has at `deadline`.
    pub(super) fn wait_until(&self, deadline: Option<Instant>) -> bool {
        self.calls.wait_until(deadline)
    }

    fn accept(&mut self) -> io::Result<bool> {
        let mut busy = false;
        self.listener_bell.answer();
        let waker = self.listener_waker.clone();
        let mut cx = Context::from_waker(&waker);
        while let Poll::Ready(accepted) = self.listener.poll_accept(&mut cx) {
            let (stream, remote) = accepted?;
            busy = true;
            if let Some(id) = self.endpoint.accepted(remote) {
                self.keep(id, stream, true);
            }
        }
        Ok(busy)
    }

    fn dial(&mut self, id: ConnectionId, to: SocketAddr) {
        match TcpStream::start(&self.stack, to) {
            Ok(stream) => self.keep(id, stream, false),
            Err(error) => self.endpoint.broken(id, error),
        }
    }

    fn keep(&mut self, id: ConnectionId, stream: TcpStream, connected: bool) {
        // Messages are put together here, in bursts.
        stream.set_nodelay(true);
        let (bell, waker) = self.calls.bell(Some(id));
        waker.wake_by_ref();
        self.by_id.insert(id, Socket { stream, bell, waker, connected });
    }

    fn answer(&mut self, id: ConnectionId) -> bool {
        let Some(socket) = self.by_id.get_mut(&id) else { return false };
        socket.bell.answer();
        let mut busy = false;
        if !socket.connected {
            match socket.stream.poll_connected(&mut Context::from_waker(&socket.waker)) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) => {
                    socket.connected = true;
                    busy = true;
                    self.endpoint.connected(id);
                }
                Poll::Ready(Err(error)) => {
                    self.drop_broken(id, error);
                    return true;
                }
            }
        }
        busy | self.write(id) | self.read(id)
    }

    fn write(&mut self, id: ConnectionId) -> bool {
        let mut busy = false;
        loop {
            let output = self.endpoint.output(id);
            let Some(socket) = self.by_id.get(&id).filter(|_| !output.is_empty()) else {
                return busy;
            };
            let mut cx = Context::from_waker(&socket.waker);
            match socket.stream.poll_write_slice(&mut cx, output) {
                Poll::Pending => return busy,
                Poll::Ready(Ok(written)) => self.endpoint.sent(id, written),
                Poll::Ready(Err(error)) => self.drop_broken(id, error),
            }
            busy = true;
        }
    }

    fn read(&mut self, id: ConnectionId) -> bool {
        let mut busy = false;
        while self.endpoint.wants_input(id) {
            let Some(socket) = self.by_id.get(&id) else { return busy };
            let mut cx = Context::from_waker(&socket.waker);
            let endpoint = &mut self.endpoint;
            let read = socket.stream.poll_read_with(
                &mut cx,
                &mut Some(|bytes: &[u8]| {
                    endpoint.received(id, bytes);
                    (bytes.len(), bytes.len())
                }),
            );
            match read {
                Poll::Pending => return busy,
                Poll::Ready(Ok(0)) => {
                    self.endpoint.ended(id);
                    self.by_id.remove(&id);
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => self.drop_broken(id, error),
            }
            busy = true;
        }
        busy
    }

    fn drop_broken(&mut self, id: ConnectionId, error: io::Error) {
        self.endpoint.broken(id, error);
        self.by_id.remove(&id);
    }
}
