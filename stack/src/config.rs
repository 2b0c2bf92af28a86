use std::time::Duration;

/// Every limit of one shard. Reaching one is counted ([`Stats`](crate::Stats)), never fatal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// TCP connections, half-open and closing ones included.
    pub flows: usize,
    /// Connections that have not finished the handshake, over all listeners.
    pub half_open: usize,
    /// How long a connection may stay half open.
    pub half_open_time: Duration,
    /// How long `connect` tries.
    pub connect_time: Duration,
    /// How long a connection without a handle waits for the peer's FIN.
    pub fin_wait_time: Duration,
    /// Connections remembered in TIME-WAIT.
    pub time_wait: usize,
    /// How long they are remembered.
    pub time_wait_time: Duration,
    /// Bytes written and not yet acknowledged, per connection.
    pub send_buffer: usize,
    /// Bytes received and not yet read, per connection; also the largest window offered. At most
    /// 1 GiB.
    pub recv_buffer: usize,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Datagrams queued per UDP socket and direction.
    pub udp_datagrams: usize,
    /// Their bytes.
    pub udp_bytes: usize,
    /// Link addresses remembered.
    pub neighbors: usize,
    /// Destinations whose path MTU is remembered because it is smaller than the link's.
    pub path_mtus: usize,
    /// Raw sockets.
    pub raw_sockets: usize,
    /// Packets queued per raw socket and direction.
    pub raw_packets: usize,
    /// Their bytes.
    pub raw_bytes: usize,
    /// Custom protocols ([`Stack::attach`](crate::Stack::attach)), on the first shard.
    pub protocols: usize,
    /// Datagrams in reassembly.
    pub reassembly_datagrams: usize,
    /// Their bytes.
    pub reassembly_bytes: usize,
    /// Sleeps and time limits of tasks ([`Stack::sleep`](crate::Stack::sleep)) at a time.
    pub sleeps: usize,
    /// ICMP errors sent per second.
    pub errors_per_second: u32,
    /// Frames that may be on their way from one shard to another, for each pair.
    pub handed_over: usize,
    /// Jobs that other shards have given to one and that it has not begun.
    pub mailbox: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 65_536,
            half_open: 1024,
            half_open_time: Duration::from_secs(60),
            connect_time: Duration::from_secs(60),
            fin_wait_time: Duration::from_secs(60),
            time_wait: 65_536,
            time_wait_time: Duration::from_secs(60),
            send_buffer: 512 * 1024,
            recv_buffer: 512 * 1024,
            udp_sockets: 1024,
            udp_datagrams: 256,
            udp_bytes: 256 * 1024,
            neighbors: 4096,
            path_mtus: 1024,
            raw_sockets: 64,
            raw_packets: 256,
            raw_bytes: 256 * 1024,
            protocols: 16,
            reassembly_datagrams: 64,
            reassembly_bytes: 1 << 20,
            sleeps: 65_536,
            errors_per_second: 1000,
            handed_over: 512,
            mailbox: 1024,
        }
    }
}
