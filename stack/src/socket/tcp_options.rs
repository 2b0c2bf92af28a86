//! Options of a stream, and what is known of its connection.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::TcpStream;
use crate::block::wait;
use crate::tcp::{KeepAlive, TcpInfo, TcpOptions};

impl TcpStream {
    /// All options, as they were set. Buffer sizes are in [`info`](Self::info) as well.
    pub fn options(&self) -> TcpOptions {
        self.with(|core, id| core.tcp.options(id))
    }

    /// Switches Nagle's algorithm off (`true`) or on.
    pub fn set_nodelay(&self, nodelay: bool) {
        self.configure(|options| options.nodelay = nodelay);
    }

    /// Whether Nagle's algorithm is off.
    pub fn nodelay(&self) -> bool {
        self.options().nodelay
    }

    /// Asks a silent peer whether it is there (`None`: never); see [`TcpOptions::keep_alive`].
    pub fn set_keep_alive(&self, keep_alive: Option<KeepAlive>) {
        self.configure(|options| options.keep_alive = keep_alive);
    }

    /// When a silent peer is asked.
    pub fn keep_alive(&self) -> Option<KeepAlive> {
        self.options().keep_alive
    }

    /// Says what dropping the last handle does with unsent data; see [`TcpOptions::linger`].
    pub fn set_linger(&self, linger: Option<Duration>) {
        self.configure(|options| options.linger = linger);
    }

    /// What dropping the last handle does with unsent data.
    pub fn linger(&self) -> Option<Duration> {
        self.options().linger
    }

    /// Limits how long written data may stay unacknowledged; see [`TcpOptions::user_timeout`].
    pub fn set_user_timeout(&self, timeout: Option<Duration>) {
        self.configure(|options| options.user_timeout = timeout);
    }

    /// How long written data may stay unacknowledged; `None`: the default.
    pub fn user_timeout(&self) -> Option<Duration> {
        self.options().user_timeout
    }

    /// Sets the time to live (IPv4) or hop limit (IPv6); 0 counts as 1.
    pub fn set_ttl(&self, ttl: u8) {
        self.configure(|options| options.hop_limit = ttl.max(1));
    }

    /// Time to live or hop limit.
    pub fn ttl(&self) -> u8 {
        self.options().hop_limit
    }

    /// Sets type of service (IPv4) or traffic class (IPv6).
    pub fn set_tos(&self, tos: u8) {
        self.configure(|options| options.traffic_class = tos);
    }

    /// Type of service or traffic class.
    pub fn tos(&self) -> u8 {
        self.options().traffic_class
    }

    /// How long a read waits; `None`: for ever.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.modes().read_timeout()
    }

    /// How long a write waits; `None`: for ever.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.modes().write_timeout()
    }

    /// What is known of the connection now.
    pub fn info(&self) -> TcpInfo {
        self.with(|core, id| core.tcp.info(id))
    }

    /// Why the connection failed, if it did, which is forgotten: reads and writes then tell its end
    /// only.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.with(|core, id| core.tcp.flow(id).take_error()))
    }

    /// Waits for data and copies it, as much as fits, without taking it: the next read gets it again.
    /// Returns 0 at the end.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        wait(self.modes().read(), |cx| self.poll_peek(cx, buffer))
    }

    /// The same, without holding the thread.
    pub async fn peek_async(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_peek(cx, buffer)).await
    }

    /// The same, for a future of one's own. Data that wraps around the end of the receive buffer is
    /// copied up to there.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut copy = Some(|bytes: &[u8]| {
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            (0, len)
        });
        self.poll_read_with(cx, &mut copy)
    }

    fn configure(&self, change: impl FnOnce(&mut TcpOptions)) {
        self.with(|core, id| core.tcp.configure(id, change));
    }
}
