use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use slab::Slab;

use super::options::TcpOptions;
use crate::wake::Waiters;

/// The listening sockets of a shard.
#[derive(Default)]
pub(crate) struct Listeners {
    slots: Slab<Listener>,
    by_port: HashMap<u16, Vec<u32>>,
}

/// One listening socket.
pub(crate) struct Listener {
    pub(crate) local: SocketAddr,
    /// Established connections that may wait for `accept`.
    pub(crate) backlog: usize,
    /// Of the connections to come.
    pub(crate) options: TcpOptions,
    pub(crate) accept_queue: VecDeque<u32>,
    pub(crate) waiters: Waiters,
}

impl Listener {
    pub(crate) fn is_full(&self) -> bool {
        self.accept_queue.len() >= self.backlog
    }

    /// An unspecified IPv4 address takes IPv4, an unspecified IPv6 address takes both versions.
    fn takes(&self, dst: IpAddr) -> bool {
        let own = self.local.ip();
        own == dst || (own.is_unspecified() && (own.is_ipv6() || dst.is_ipv4()))
    }
}

impl Listeners {
    pub(crate) fn open(
        &mut self,
        local: SocketAddr,
        backlog: usize,
        options: TcpOptions,
    ) -> io::Result<u32> {
        let at_port = self.by_port.entry(local.port()).or_default();
        if at_port.iter().any(|id| self.slots[*id as usize].local.ip() == local.ip()) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("a listener is already bound to {local}"),
            ));
        }
        let id = self.slots.insert(Listener {
            local,
            backlog: backlog.max(1),
            options,
            accept_queue: VecDeque::new(),
            waiters: Waiters::default(),
        }) as u32;
        at_port.push(id);
        Ok(id)
    }

    /// Closes a listener and returns the flows nobody accepted.
    pub(crate) fn close(&mut self, id: u32) -> VecDeque<u32> {
        let Some(listener) = self.slots.try_remove(id as usize) else {
            return VecDeque::new();
        };
        let port = listener.local.port();
        if let Some(at_port) = self.by_port.get_mut(&port) {
            at_port.retain(|other| *other != id);
            if at_port.is_empty() {
                self.by_port.remove(&port);
            }
        }
        listener.accept_queue
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Listener> {
        self.slots.get_mut(id as usize)
    }

    pub(crate) fn is_port_used(&self, port: u16) -> bool {
        self.by_port.contains_key(&port)
    }

    /// The listener for a SYN to `dst`: one bound to that address before one bound to all.
    pub(crate) fn find(&self, dst: SocketAddr) -> Option<u32> {
        let at_port = self.by_port.get(&dst.port())?;
        let exact = at_port.iter().find(|id| self.slots[**id as usize].local.ip() == dst.ip());
        exact
            .or_else(|| at_port.iter().find(|id| self.slots[**id as usize].takes(dst.ip())))
            .copied()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.slots.iter_mut().map(|(_, listener)| listener)
    }
}
