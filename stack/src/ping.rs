use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use slab::Slab;

use crate::icmp::QuotedPacket;
use crate::recent::RecentPeers;
use crate::stats::DropReason;
use crate::wake::Waiters;

/// Replies kept per socket, and requests queued per shard.
const QUEUE: usize = 64;

/// An answer to an ICMP or ICMPv6 echo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoReply {
    /// Who answered.
    pub from: IpAddr,
    /// Sequence number of the request.
    pub seq: u16,
    /// Time to live or hop limit the reply arrived with.
    pub hop_limit: u8,
    /// The payload, unchanged if all is well.
    pub payload: Vec<u8>,
}

/// The ping sockets of a shard. A socket's identifier in the messages is its slot.
#[derive(Default)]
pub(crate) struct Pings {
    sockets: Slab<PingSocket>,
    requests: VecDeque<EchoRequest>,
}

#[derive(Default)]
pub(crate) struct PingSocket {
    pub(crate) replies: VecDeque<EchoReply>,
    pub(crate) readers: Waiters,
    sent_to: RecentPeers,
}

/// A request that waits for a transmit slot.
pub(crate) struct EchoRequest {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ident: u16,
    pub(crate) seq: u16,
    pub(crate) payload: Vec<u8>,
}

impl Pings {
    pub(crate) fn open(&mut self) -> io::Result<u16> {
        if self.sockets.len() > usize::from(u16::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "every echo identifier is in use",
            ));
        }
        Ok(self.sockets.insert(PingSocket::default()) as u16)
    }

    pub(crate) fn close(&mut self, ident: u16) {
        self.sockets.remove(usize::from(ident));
    }

    pub(crate) fn socket(&mut self, ident: u16) -> &mut PingSocket {
        &mut self.sockets[usize::from(ident)]
    }

    /// Queues a request. `None`: the queue is full.
    pub(crate) fn send(&mut self, request: EchoRequest) -> Option<()> {
        if self.requests.len() >= QUEUE {
            return None;
        }
        self.socket(request.ident).sent_to.add(SocketAddr::new(request.dst, 0));
        self.requests.push_back(request);
        Some(())
    }

    /// A socket here has lately sent the quoted echo request.
    pub(crate) fn check_sent(&self, quoted: &QuotedPacket<'_>) -> Result<(), DropReason> {
        let socket = quoted.echo_ident.and_then(|ident| self.sockets.get(usize::from(ident)));
        let dst = SocketAddr::new(quoted.dst, 0);
        let sent = socket.is_some_and(|socket| socket.sent_to.contains(dst));
        if sent { Ok(()) } else { Err(DropReason::IcmpNoFlow) }
    }

    /// Where the next request goes.
    pub(crate) fn next_destination(&self) -> Option<IpAddr> {
        self.requests.front().map(|request| request.dst)
    }

    pub(crate) fn next_request(&mut self) -> Option<EchoRequest> {
        self.requests.pop_front()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(crate) fn on_reply(
        &mut self,
        ident: u16,
        reply: EchoReply,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        let socket = self.sockets.get_mut(usize::from(ident)).ok_or(DropReason::PingUnclaimed)?;
        if socket.replies.len() >= QUEUE {
            return Err(DropReason::PingUnclaimed);
        }
        socket.replies.push_back(reply);
        socket.readers.wake(wakes);
        Ok(())
    }

    /// Wakes everybody, because the device is gone.
    pub(crate) fn stop(&mut self, wakes: &mut Vec<Waker>) {
        for (_, socket) in &mut self.sockets {
            socket.readers.wake(wakes);
        }
    }
}
