use std::time::Duration;

/// What is known of a TCP connection at one moment. Only what the engine measures or holds is here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// Where the connection is.
    pub state: TcpState,
    /// Smoothed round-trip time (RFC 6298 §2); `None`: nothing was acknowledged yet.
    pub rtt: Option<Duration>,
    /// Its mean deviation.
    pub rtt_variation: Option<Duration>,
    /// Segments sent again.
    pub retransmissions: u32,
    /// Payload bytes per segment we send: the least of what the peer, the link and the path take.
    pub mss: u16,
    /// Bytes sent and not acknowledged.
    pub in_flight: usize,
    /// Bytes written and not sent yet.
    pub unsent: usize,
    /// Bytes received and not read yet.
    pub unread: usize,
    /// Bytes beyond the last acknowledged one that the peer takes.
    pub send_window: usize,
    /// Bytes beyond the last received one that we take.
    pub recv_window: usize,
    /// Size of the send buffer.
    pub send_buffer: usize,
    /// Size of the receive buffer.
    pub recv_buffer: usize,
}

/// States of a connection (RFC 9293 §3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the RFC")]
pub enum TcpState {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}
