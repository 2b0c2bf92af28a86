//! What sockets ask for.

use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use super::{Flow, Role, Tcp};
use crate::packet::Tuple;
use crate::tcp::engine::{Connection, Engine, Open};
use crate::tcp::options::TcpOptions;

/// How the packets of a connection about to be opened will go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowRoute {
    pub(crate) interface: usize,
    /// Longest packet that gets through, as far as routers have told.
    pub(crate) path_mtu: usize,
    pub(crate) tuple: Tuple,
}

impl<E: Engine> Tcp<E> {
    /// Opens a connection; the local port may be 0, then one is chosen that makes this shard the owner. A port that is asked for may be one whose
    /// last connection to `remote` is in TIME-WAIT (RFC 9293 §3.6.1); so may any if there is no
    /// other.
    pub(crate) fn connect(&mut self, route: &FlowRoute, options: &TcpOptions) -> io::Result<u32> {
        let FlowRoute { interface, path_mtu, tuple: Tuple { local, remote } } = *route;
        if self.flows.len() >= self.limits.flows {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("the limit of {} connections is reached", self.limits.flows),
            ));
        }
        let (table, flows) = (&self.table, &self.flows);
        let home = self.home;
        let (time_wait, listeners) = (&self.time_wait, &self.listeners);
        let in_use = |port: u16| {
            let tuple = Tuple { local: SocketAddr::new(local.ip(), port), remote };
            listeners.is_port_used(port)
                || table.get(&tuple, |id| *flows[id as usize].connection.tuple() == tuple).is_some()
        };
        let rests = |port: u16| {
            let tuple = Tuple { local: SocketAddr::new(local.ip(), port), remote };
            time_wait.contains(&tuple)
        };
        let unfit = |port: u16| {
            let local = SocketAddr::new(local.ip(), port);
            home.is_some_and(|(steering, shard)| steering.queue_of(local, remote) != shard)
                || in_use(port)
        };
        let port = match local.port() {
            0 => {
                let fresh = self.ports.pick(local.ip(), remote, |p| unfit(p) || rests(p));
                let port = fresh.or_else(|| self.ports.pick(local.ip(), remote, unfit));
                port.ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::AddrNotAvailable,
                        format!("every ephemeral port towards {remote} is in use"),
                    )
                })?
            }
            port if in_use(port) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("{local} is in use towards {remote}"),
                ));
            }
            port => port,
        };
        let tuple = Tuple { local: SocketAddr::new(local.ip(), port), remote };
        let previous = self.time_wait.reopen(&tuple);
        let isn = self.isn_after(previous, &tuple);
        let open = Open { interface, isn, path_mtu, options };
        let connection = self.engine.connect(self.now, tuple, &open);
        Ok(self.insert(connection, tuple, Role::Socket, self.limits.connect_time, options))
    }

    /// The next established connection of a listener.
    pub(crate) fn accept(&mut self, listener: u32) -> Option<(u32, Tuple)> {
        let id = self.listeners.get_mut(listener)?.accept_queue.pop_front()?;
        let flow = &mut self.flows[id as usize];
        flow.role = Role::Socket;
        Some((id, *flow.connection.tuple()))
    }

    /// Closes a listener; connections nobody accepted are reset.
    pub(crate) fn close_listener(&mut self, listener: u32) {
        for id in self.listeners.close(listener) {
            self.abort(id);
            self.release(id);
        }
        let half_open: Vec<u32> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.role == Role::HalfOpen(listener))
            .map(|(id, _)| id as u32)
            .collect();
        for id in half_open {
            self.abort(id);
        }
    }

    /// The flow of a socket. The id stays valid until the socket is released.
    pub(crate) fn flow(&mut self, id: u32) -> &mut Flow<E::Connection> {
        &mut self.flows[id as usize]
    }

    /// A socket has read: there may be a window to announce.
    pub(crate) fn has_read(&mut self, id: u32) {
        let timer = self.engine.next_timer(self.now, &self.flows[id as usize].connection);
        self.schedule(id, timer);
    }

    /// A socket has written or closed its half: there is something to send.
    pub(crate) fn has_written(&mut self, id: u32) {
        self.mark_dirty(id);
    }

    pub(crate) fn abort(&mut self, id: u32) {
        self.flows[id as usize].connection.abort();
        self.mark_dirty(id);
    }

    /// The socket is gone. Unread data makes the end a reset (RFC 2525 §2.17), else a FIN.
    pub(crate) fn release(&mut self, id: u32) {
        let flow = &mut self.flows[id as usize];
        flow.role = Role::Orphan;
        if flow.connection.recv_queue() > 0 {
            flow.connection.abort();
        } else {
            flow.connection.shutdown();
        }
        self.mark_dirty(id);
    }

    /// No connection is left, not even one that is closing.
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A connection that nobody holds any more is still closing.
    pub(crate) fn has_orphans(&self) -> bool {
        self.flows.iter().any(|(_, flow)| flow.role == Role::Orphan)
    }

    /// Ends every connection and wakes everybody, because the device is gone.
    pub(crate) fn stop(&mut self, wakes: &mut Vec<Waker>) {
        for listener in self.listeners.iter_mut() {
            listener.waiters.wake(wakes);
        }
        for (_, flow) in &mut self.flows {
            flow.fail(io::ErrorKind::NetworkDown);
            flow.connection.abort();
            flow.readers.wake(wakes);
            flow.writers.wake(wakes);
        }
    }
}
