use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use underpass_devices::Selector;
use underpass_protocols::Peer;
use underpass_protocols::courier::{self, Attached, Config, DropReason, Event, Failure};

use super::{Counters, Limits, Lost, LostCause, SendError, TooLong, Transport};
use crate::{ProtocolHandle, Stack};

/// A [`Transport`] over [`courier`](underpass_protocols::courier) on a UDP port of a [`Stack`]: packets
/// and timers of its own instead of TCP connections, so that a lost packet costs microseconds and holds
/// up no other peer.
///
/// Both ends speak courier. What [`Transport`] says of connections is true of its sessions, with these
/// differences:
/// - There is one in each direction. [`Limits::peers`] is half the number of sessions.
/// - [`queued`](Transport::queued) and [`Lost::unsent`] count what the peer has not acknowledged, so what
///   is not queued any more has arrived at the peer's station. Bodies are reckoned as
///   [`courier::Limits`] says.
/// - Nobody listens, or the peer has gone, is not told by the peer: [`lost`](Transport::lost) says so
///   after [`Config::dead_after`], or when a new life of the peer does not know the session.
/// - A peer that sends a request, which nobody here would answer, is cut off and counted as refused.
#[derive(Debug)]
pub struct CourierTransport {
    courier: ProtocolHandle<Attached>,
    local: SocketAddr,
    limits: Limits,
    /// Taken from the courier, to see what comes after it.
    next: Option<(Bytes, SocketAddr)>,
    lost: VecDeque<Lost>,
    counters: Counters,
}

impl CourierTransport {
    /// Listens on the UDP port `local`, an address of the stack. The limits of `config` are replaced by
    /// those that follow from `limits`.
    ///
    /// # Errors
    /// Those of [`Stack::attach`]; the operating system has no random numbers.
    pub fn bind(
        stack: &Stack,
        local: SocketAddr,
        limits: Limits,
        config: Config,
    ) -> io::Result<Self> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let courier = Attached::new(Config { limits: limits.into(), ..config }, secret);
        let selector = Selector::udp_port(Some(local.ip()), local.port());
        Ok(Self {
            courier: stack.attach(selector, courier).map_err(io::Error::other)?,
            local,
            limits,
            next: None,
            lost: VecDeque::new(),
            counters: Counters::default(),
        })
    }

    /// Takes events until there is a message. True: there is one, or a loss to be asked for.
    fn take_events(&mut self) -> bool {
        while self.next.is_none() {
            let event = self.courier.with(|courier| {
                let event = courier.poll_event();
                if let Some(Event::Request { from, .. }) = event {
                    courier.abort(from);
                }
                event
            });
            match event {
                Some(Event::Message { from: Peer::Port(from), body }) => {
                    self.next = Some((body.into(), from));
                }
                Some(Event::Ended { peer: Peer::Port(peer), why, bytes, .. }) => {
                    self.tell_lost(peer, why, bytes);
                }
                Some(Event::Request { .. }) => self.counters.refused += 1,
                // There are no answers without requests, and none but ports of peers.
                Some(_) => {}
                None => break,
            }
        }
        self.next.is_some() || !self.lost.is_empty()
    }

    fn tell_lost(&mut self, peer: SocketAddr, why: Failure, unsent: usize) {
        let cause = match why {
            Failure::Closed => LostCause::Closed,
            why => LostCause::Io(why.into()),
        };
        self.counters.lost += 1;
        if self.lost.len() >= self.limits.peers {
            self.counters.untold += 1;
            self.lost.pop_front();
        }
        self.lost.push_back(Lost { peer, cause, unsent });
    }
}

impl Transport for CourierTransport {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn send(&mut self, to: SocketAddr, message: &[u8]) -> Result<(), SendError> {
        let sent = self.courier.with(|courier| {
            let mut body = courier.buffer(message.len());
            body.extend_from_slice(message);
            courier.send(Peer::Port(to), body).map_err(|refused| {
                courier.recycle(refused.body);
                refused.why
            })
        });
        let why = match sent {
            Ok(()) => {
                self.counters.sent_messages += 1;
                self.counters.sent_bytes += message.len() as u64;
                return Ok(());
            }
            Err(why) => why,
        };
        Err(match why {
            courier::SendError::TooLong { limit } => {
                TooLong { len: message.len(), max: limit as u32 }.into()
            }
            courier::SendError::TooManySessions => {
                SendError::TooManyPeers { max: self.limits.peers }
            }
            // No room, for now.
            _ => {
                self.counters.full += 1;
                SendError::Full
            }
        })
    }

    fn recv(&mut self) -> Option<(Bytes, SocketAddr)> {
        self.take_events();
        let (message, from) = self.next.take()?;
        self.counters.received_messages += 1;
        self.counters.received_bytes += message.len() as u64;
        Some((message, from))
    }

    fn progress(&mut self, timeout: Duration) -> io::Result<bool> {
        if self.take_events() {
            return Ok(true);
        }
        self.courier.set_nonblocking(timeout.is_zero());
        self.courier.set_timeout(Some(timeout).filter(|timeout| !timeout.is_zero()));
        let news = self.courier.wait(|courier| {
            let has_room = courier.take_room();
            (courier.has_events() || has_room).then_some(())
        });
        match news {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn lost(&mut self) -> Option<Lost> {
        self.take_events();
        self.lost.pop_front()
    }

    fn queued(&self) -> usize {
        self.courier.with(|courier| courier.send_bytes())
    }

    fn counters(&self) -> Counters {
        let courier = self.courier.with(|courier| courier.counters());
        let refused = courier.dropped(DropReason::NoRoom) + courier.forgotten;
        let mut counters = self.counters;
        counters.connections = courier.opened;
        counters.refused += refused;
        counters
    }
}
