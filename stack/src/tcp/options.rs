use std::io;
use std::time::Duration;

/// Options of a TCP connection, as `setsockopt` has them. Those of a listener are inherited by the
/// connections it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Nagle's algorithm (RFC 896) is off: small writes are sent at once.
    pub nodelay: bool,
    /// Asks a peer that has been silent whether it is still there.
    pub keep_alive: Option<KeepAlive>,
    /// How long written data, or the end, may stay unacknowledged while the peer is silent, before
    /// the connection fails with `TimedOut` (RFC 5482). `None`: two minutes.
    pub user_timeout: Option<Duration>,
    /// Time to live (IPv4) or hop limit (IPv6); 0 counts as 1.
    pub hop_limit: u8,
    /// Type of service (IPv4) or traffic class (IPv6): six bits of DSCP and two of ECN.
    pub traffic_class: u8,
    /// What happens to unsent data when the last handle is dropped. `None`: the stack goes on sending
    /// it. Zero: it is thrown away and the peer gets a reset. More: the drop waits up to so long
    /// until the peer has acknowledged everything, then the stack goes on alone; non-blocking
    /// handles do not wait. Do not wait so on the thread that turns the stack.
    pub linger: Option<Duration>,
    /// Bytes written and not yet acknowledged; `None`: as in [`Limits`](crate::Limits). At most 1 GiB,
    /// and fixed once the connection exists.
    pub send_buffer: Option<usize>,
    /// Bytes received and not yet read, and the largest window offered, in the same way.
    pub recv_buffer: Option<usize>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            nodelay: false,
            keep_alive: None,
            user_timeout: None,
            hop_limit: 64,
            traffic_class: 0,
            linger: None,
            send_buffer: None,
            recv_buffer: None,
        }
    }
}

impl TcpOptions {
    /// Refuses sizes that no buffer can have.
    pub(crate) fn check(&self) -> io::Result<()> {
        let sizes = [self.send_buffer, self.recv_buffer];
        if sizes.into_iter().flatten().all(|size| (1..=1 << 30).contains(&size)) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "a TCP buffer has 1 byte to 1 GiB"))
    }
}

/// When a silent peer is asked whether it is there (RFC 9293 §3.8.4). The default is Linux's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// After so many unanswered probes, and one more interval, the connection fails with
    /// `TimedOut`.
    pub count: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), count: 9 }
    }
}
