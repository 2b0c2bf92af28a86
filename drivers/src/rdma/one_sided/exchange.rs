use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use underpass_protocols::transport::{LostCause, SendError, Transport};

use super::adapter::Adapter;
use super::connection::Connection;
use super::endpoint::{ConnectionConfig, Endpoint, random};
use super::region::MemoryRegion;
use crate::rdma::verbs::VerbsError;
use crate::rdma_wire::{Content, Message, Refusal, RemoteRegion, WireError};

/// Connects to a station whose [`Listener`] answers at `peer`, and offers it `regions`. The transport serves
/// for nothing but this meanwhile.
///
/// # Errors
/// There is no connection. A message that does not belong here is among the causes, and lost.
pub fn connect(
    adapter: &Adapter,
    config: &ConnectionConfig,
    regions: &[&MemoryRegion],
    transport: &mut impl Transport,
    peer: SocketAddr,
    timeout: Duration,
) -> Result<Connection, HandshakeError> {
    let deadline = Deadline::after(timeout);
    let endpoint = Endpoint::new(adapter, config)?;
    let station = endpoint.station(offer(adapter, regions)?);
    let token = random()?;
    let request = Message { token, content: Content::Request(station) };
    transport.send(peer, &request.to_bytes())?;
    let station = 'reply: loop {
        while let Some((bytes, from)) = transport.recv() {
            if from != peer {
                return Err(HandshakeError::Stray(from));
            }
            let message = Message::parse(&bytes, config.peer_regions)?;
            // What comes late was meant for a handshake that was given up.
            if message.token != token {
                continue;
            }
            match message.content {
                Content::Reply(station) => break 'reply station,
                Content::Refusal(reason) => return Err(HandshakeError::Refused(reason)),
                Content::Request(_) | Content::Ready => return Err(HandshakeError::OutOfTurn),
            }
        }
        while let Some(lost) = transport.lost() {
            if lost.peer == peer {
                return Err(HandshakeError::Lost(lost.cause));
            }
        }
        transport.progress(deadline.left().ok_or(HandshakeError::TimedOut)?)?;
    };
    let connection = endpoint.connect(station)?;
    transport.send(peer, &Message { token, content: Content::Ready }.to_bytes())?;
    // The peer waits for it.
    while transport.queued() > 0 {
        transport.progress(deadline.left().ok_or(HandshakeError::TimedOut)?)?;
    }
    Ok(connection)
}

/// Answers stations that [`connect`].
#[derive(Debug)]
pub struct Listener {
    adapter: Adapter,
    config: ConnectionConfig,
    half_open: Vec<HalfOpen>,
    limit: usize,
    patience: Duration,
}

/// A connection that a station has made to ours.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub connection: Connection,
    /// The station's address, as the transport knows it.
    pub peer: SocketAddr,
}

/// Replied to, and not known to be ready.
#[derive(Debug)]
struct HalfOpen {
    incoming: Incoming,
    token: u64,
    deadline: Deadline,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer has not answered in time.
    #[error("the handshake has taken too long")]
    TimedOut,
    /// What the peer says is not understood.
    #[error("the peer does not speak the handshake: {0}")]
    Wire(#[from] WireError),
    /// A message of the handshake that is not due.
    #[error("the peer says something that is not due")]
    OutOfTurn,
    /// The peer does not want to, or cannot.
    #[error("the peer refuses: {0}")]
    Refused(Refusal),
    /// Somebody else has sent a message to the transport.
    #[error("a message of {0} instead of the peer's: the transport is in use for something else")]
    Stray(SocketAddr),
    /// A region that is offered is of another adapter.
    #[error("a region that is offered is of another adapter than the connection")]
    OtherAdapter,
    /// More regions are offered than a message has room for.
    #[error("{0} regions are offered; the limit is 65,535")]
    TooManyRegions(usize),
    /// The transport's connection to the peer has ended.
    #[error("the connection of the handshake: {0}")]
    Lost(LostCause),
    /// The transport does not take a message.
    #[error("sending the handshake: {0}")]
    Send(#[from] SendError),
    /// The transport has failed.
    #[error("the transport of the handshake: {0}")]
    Transport(#[from] io::Error),
    /// The device.
    #[error(transparent)]
    Device(#[from] VerbsError),
}

/// What went wrong while a listener waited. It goes on: call [`Listener::accept`] again.
#[derive(Debug, thiserror::Error)]
#[error("{}{cause}", .peer.map(|peer| format!("{peer}: ")).unwrap_or_default())]
pub struct AcceptError {
    /// With whom; `None`: with the transport itself.
    pub peer: Option<SocketAddr>,
    /// What.
    pub cause: HandshakeError,
}

impl Listener {
    /// Up to `handshakes` stations are answered at a time, each of which has to be ready within `patience`;
    /// others are told to come again.
    pub fn new(
        adapter: &Adapter,
        config: &ConnectionConfig,
        handshakes: usize,
        patience: Duration,
    ) -> Self {
        let half_open = Vec::with_capacity(handshakes);
        let adapter = adapter.clone();
        Self { adapter, config: *config, half_open, limit: handshakes, patience }
    }

    /// The next station that is connected, to which `regions` are offered. `None`: none within `timeout`.
    ///
    /// # Errors
    /// A handshake has failed, or a message came that is no part of one; it is lost. The listener goes on.
    pub fn accept(
        &mut self,
        regions: &[&MemoryRegion],
        transport: &mut impl Transport,
        timeout: Duration,
    ) -> Result<Option<Incoming>, AcceptError> {
        let deadline = Deadline::after(timeout);
        loop {
            while let Some((bytes, peer)) = transport.recv() {
                let incoming = self.answer(regions, transport, &bytes, peer);
                let incoming = incoming.map_err(|cause| AcceptError { peer: Some(peer), cause })?;
                if incoming.is_some() {
                    return Ok(incoming);
                }
            }
            while let Some(lost) = transport.lost() {
                let before = self.half_open.len();
                self.half_open.retain(|half| half.incoming.peer != lost.peer);
                if self.half_open.len() < before {
                    let cause = HandshakeError::Lost(lost.cause);
                    return Err(AcceptError { peer: Some(lost.peer), cause });
                }
            }
            if let Some(late) =
                self.half_open.iter().position(|half| half.deadline.left().is_none())
            {
                let peer = Some(self.half_open.swap_remove(late).incoming.peer);
                return Err(AcceptError { peer, cause: HandshakeError::TimedOut });
            }
            let Some(left) = deadline.left() else { return Ok(None) };
            let next = self.half_open.iter().filter_map(|half| half.deadline.left()).min();
            let progress = transport.progress(next.map_or(left, |next| next.min(left)));
            progress.map_err(|error| AcceptError { peer: None, cause: error.into() })?;
        }
    }

    fn answer(
        &mut self,
        regions: &[&MemoryRegion],
        transport: &mut impl Transport,
        bytes: &[u8],
        peer: SocketAddr,
    ) -> Result<Option<Incoming>, HandshakeError> {
        let refusal =
            |token, reason| Message { token, content: Content::Refusal(reason) }.to_bytes();
        let message = match Message::parse(bytes, self.config.peer_regions) {
            Ok(message) => message,
            Err(error) => {
                if let Some(token) = Message::token_of(bytes) {
                    transport.send(peer, &refusal(token, Refusal::NotUnderstood))?;
                }
                return Err(error.into());
            }
        };
        let token = message.token;
        let half_open = self
            .half_open
            .iter()
            .position(|half| half.incoming.peer == peer && half.token == token);
        match (message.content, half_open) {
            (Content::Ready, Some(at)) => Ok(Some(self.half_open.swap_remove(at).incoming)),
            (Content::Request(_), None) if self.half_open.len() >= self.limit => {
                transport.send(peer, &refusal(token, Refusal::Busy))?;
                Ok(None)
            }
            (Content::Request(station), None) => {
                let offered = offer(&self.adapter, regions)?;
                let connected = Endpoint::new(&self.adapter, &self.config).and_then(|endpoint| {
                    let reply = Content::Reply(endpoint.station(offered));
                    Ok((Message { token, content: reply }, endpoint.connect(station)?))
                });
                let (reply, connection) = match connected {
                    Ok(connected) => connected,
                    Err(error) => {
                        transport.send(peer, &refusal(token, Refusal::NoResources))?;
                        return Err(error.into());
                    }
                };
                transport.send(peer, &reply.to_bytes())?;
                let deadline = Deadline::after(self.patience);
                let incoming = Incoming { connection, peer };
                self.half_open.push(HalfOpen { incoming, token, deadline });
                Ok(None)
            }
            _ => Err(HandshakeError::OutOfTurn),
        }
    }
}

fn offer(
    adapter: &Adapter,
    regions: &[&MemoryRegion],
) -> Result<Vec<RemoteRegion>, HandshakeError> {
    if regions.len() > usize::from(u16::MAX) {
        return Err(HandshakeError::TooManyRegions(regions.len()));
    }
    if regions.iter().any(|region| !region.is_of(adapter.domain())) {
        return Err(HandshakeError::OtherAdapter);
    }
    Ok(regions.iter().map(|region| region.descriptor()).collect())
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self { start: Instant::now(), timeout }
    }

    /// Time left, if there is any.
    fn left(&self) -> Option<Duration> {
        self.timeout.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero())
    }
}
