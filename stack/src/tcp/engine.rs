use std::io;

use underpass_devices::Instant;

use super::info::TcpInfo;
use super::options::TcpOptions;
use crate::output::Output;
use crate::packet::{TcpSegment, Tuple};

/// A TCP implementation. One value serves all connections of a shard; the shard finds the connection
/// of a segment, keeps the timers and says when a connection may emit.
///
/// Everything is at the level of segments. A segment travels with its IP header: incoming ones are
/// checked (lengths, checksums, addresses are ours) before they come here, outgoing ones leave the
/// transport checksum to [`Output`].
pub(crate) trait Engine {
    /// One connection with its buffers.
    type Connection: Connection;

    /// Active open. The SYN leaves with the next `emit`.
    fn connect(&mut self, now: Instant, tuple: Tuple, open: &Open<'_>) -> Self::Connection;

    /// Passive open for a SYN without ACK, RST or FIN. The SYN-ACK leaves with the next `emit`.
    fn on_syn(&mut self, now: Instant, syn: &TcpSegment<'_>, open: &Open<'_>) -> Self::Connection;

    /// A segment of this connection.
    fn on_segment(
        &mut self,
        now: Instant,
        connection: &mut Self::Connection,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
    );

    /// Sends what is due, until at least `budget` frames went to the device.
    fn emit(
        &mut self,
        now: Instant,
        connection: &mut Self::Connection,
        budget: usize,
        out: &mut impl Output,
    ) -> Emitted;

    /// Packets of this connection above `mtu` bytes are lost on the way (RFC 1191 §6.5): segments
    /// become smaller from now on, and what is in flight is due again with the next `emit`.
    /// `false`: they were small enough already, nothing has changed.
    fn on_path_mtu(&mut self, now: Instant, connection: &mut Self::Connection, mtu: usize) -> bool;

    /// When `emit` has something to do if nothing else happens first; `None`: never.
    fn next_timer(&mut self, now: Instant, connection: &Self::Connection) -> Option<Instant>;

    /// The largest packet of `interface` is this one now, not above what its device takes.
    fn set_mtu(&mut self, interface: usize, mtu: usize);

    /// Takes back a connection that is over, to use its memory again.
    fn recycle(&mut self, connection: Self::Connection);
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open<'a> {
    /// The interface its packets leave by, whose MTU and offloads it keeps to from then on.
    pub(crate) interface: usize,
    /// Sequence number of the SYN.
    pub(crate) isn: u32,
    /// Longest IP packet that reaches the peer whole, as far as is known.
    pub(crate) path_mtu: usize,
    /// Buffer sizes and everything that [`Connection::configure`] sets.
    pub(crate) options: &'a TcpOptions,
}

/// How an `emit` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emitted {
    /// Nothing more is due before this time, or before something else happens.
    Until(Option<Instant>),
    /// The budget is spent or the output is full: call again.
    More,
}

/// What the sockets need of one connection.
pub(crate) trait Connection {
    /// Its two ends.
    fn tuple(&self) -> &Tuple;

    fn state(&self) -> State;

    /// Lends received bytes in order: `read` gets the longest contiguous piece and returns how many
    /// bytes it took. `Ok(None)`: nothing there now. `Err(End)`: nothing will come any more.
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> (usize, R)) -> Result<Option<R>, RecvEnd>;

    /// Lends free space of the send buffer: `write` returns how many bytes it filled. `Ok(None)`: the
    /// buffer is full.
    fn send<R>(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> (usize, R),
    ) -> Result<Option<R>, SendClosed>;

    /// Bytes received and not read.
    fn recv_queue(&self) -> usize;
    /// Bytes written and not acknowledged.
    fn send_queue(&self) -> usize;
    /// Room for at least one byte, and the sending half is open.
    fn can_send(&self) -> bool;
    /// The peer's FIN has arrived and everything before it was read, or the connection is dead.
    fn recv_finished(&self) -> bool;

    /// Sends a FIN after everything written (half-close).
    fn shutdown(&mut self);
    /// Ends the connection at once; the RST leaves with the next `emit` if the peer is synchronised.
    fn abort(&mut self);

    /// Takes over Nagle's algorithm, user time-out, hop limit and traffic class; buffers stay as they
    /// were made, and the rest is not the engine's.
    fn configure(&mut self, options: &TcpOptions);
    /// Asks the peer, with the next `emit`, to acknowledge once more what it has acknowledged
    /// (RFC 9293 §3.8.4). Nothing happens while data is in flight, which asks as well.
    fn probe(&mut self);

    /// What there is to know.
    fn info(&self) -> TcpInfo;
    /// Data beginning at `seq` was sent and is not acknowledged.
    fn is_in_flight(&self, seq: u32) -> bool;
    /// Next sequence number expected, and how many from there are taken.
    fn recv_window(&self) -> (u32, u32);
    /// Window field of the last segment sent.
    fn last_window(&self) -> u16;

    /// Next sequence number to send and to receive, as of the last segment sent.
    fn sequence(&self) -> Sequence;
}

/// Sequence numbers that a connection leaves behind in TIME-WAIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) snd_nxt: u32,
    pub(crate) rcv_nxt: u32,
}

/// Connection states the shard distinguishes (RFC 9293 §3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    SynSent,
    SynReceived,
    /// ESTABLISHED or CLOSE-WAIT: both may send.
    Open,
    /// FIN-WAIT-1, CLOSING or LAST-ACK: our FIN is not acknowledged yet.
    Closing,
    FinWait2,
    /// Both FINs are acknowledged.
    TimeWait,
    /// No connection, but a RST is still to be emitted.
    Aborting,
    Closed,
}

impl State {
    /// There is no connection any more.
    pub(crate) const fn has_ended(self) -> bool {
        matches!(self, Self::Aborting | Self::Closed)
    }
}

/// Why nothing will be received any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecvEnd {
    /// The peer closed its half: all it sent was read.
    Finished,
    /// The connection ended without a FIN.
    Dead,
}

/// The sending half is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendClosed;

impl From<SendClosed> for io::Error {
    fn from(SendClosed: SendClosed) -> Self {
        io::ErrorKind::BrokenPipe.into()
    }
}
