//! What a shard has done, and every reason it has to drop a frame.

use core::fmt;
use std::ops::{AddAssign, Index, IndexMut};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a frame, packet or datagram went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason as it is printed: lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than a link header.
    ShortFrame => "short_frame",
    /// For another station.
    OtherStation => "other_station",
    /// An EtherType nobody here speaks.
    UnknownEtherType => "unknown_ether_type",
    /// ARP packet that is not one.
    MalformedArp => "malformed_arp",
    /// Neighbour discovery message that is not one (RFC 4861 §6.1, §7.1).
    MalformedNdp => "malformed_ndp",
    /// DHCP message that is not one, or that gives no usable lease.
    MalformedDhcp => "malformed_dhcp",
    /// A DHCP message for another client or transaction, or one nobody waits for.
    DhcpIgnored => "dhcp_ignored",
    /// IP header lengths contradict each other or the frame.
    MalformedIp => "malformed_ip",
    /// IPv4 header checksum is wrong.
    IpChecksum => "ip_checksum",
    /// The source address cannot be answered: multicast, broadcast, loopback, or our own (a frame
    /// that came back).
    BadSource => "bad_source",
    /// The destination is not an address of this stack.
    OtherHost => "other_host",
    /// Sent to a multicast group that nobody here has joined.
    NotJoined => "not_joined",
    /// An IGMP message that is no query, or is malformed.
    IgmpIgnored => "igmp_ignored",
    /// A transport protocol nobody here speaks.
    UnknownProtocol => "unknown_protocol",
    /// TCP header lengths contradict the packet, or a port is zero.
    MalformedTcp => "malformed_tcp",
    /// UDP lengths contradict the packet, or a port is zero.
    MalformedUdp => "malformed_udp",
    /// ICMP message too short or with a wrong checksum.
    MalformedIcmp => "malformed_icmp",
    /// TCP or UDP checksum is wrong.
    TransportChecksum => "transport_checksum",
    /// No socket at this TCP port; answered with RST.
    TcpClosedPort => "tcp_closed_port",
    /// A segment for a connection that does not exist; answered with RST if allowed.
    TcpNoFlow => "tcp_no_flow",
    /// A reset or stray segment for a connection in TIME-WAIT (RFC 1337).
    TimeWait => "time_wait",
    /// The listener's accept queue is full.
    AcceptQueueFull => "accept_queue_full",
    /// Too many connections are half open.
    HalfOpenFull => "half_open_full",
    /// The flow table is full.
    FlowsFull => "flows_full",
    /// No socket at this UDP port; answered with ICMP.
    UdpClosedPort => "udp_closed_port",
    /// The socket's receive queue is full.
    UdpQueueFull => "udp_queue_full",
    /// No socket waits for this echo reply, or its queue is full.
    PingUnclaimed => "ping_unclaimed",
    /// An ICMP message the stack has no use for.
    IcmpIgnored => "icmp_ignored",
    /// An ICMP error that quotes no flow of ours (RFC 5927).
    IcmpNoFlow => "icmp_no_flow",
    /// An ICMP error that quotes a flow of ours, but nothing it has in flight (RFC 5927 §4).
    IcmpNotInFlight => "icmp_not_in_flight",
    /// A reset that is not exactly at the sequence number expected next (RFC 5961 §3.2).
    TcpReset => "tcp_reset",
    /// A SYN for a connection that exists (RFC 5961 §4.2).
    TcpSyn => "tcp_syn",
    /// The queue of a raw socket was full, and it got no copy.
    RawQueueFull => "raw_queue_full",
    /// A custom protocol did not take the frame.
    ProtocolRefused => "protocol_refused",
    /// A fragment that overlaps another: the whole datagram goes (RFC 5722).
    FragmentOverlap => "fragment_overlap",
    /// A fragment whose offset or length is impossible.
    FragmentMalformed => "fragment_malformed",
    /// A fragment that repeats another byte by byte.
    FragmentDuplicate => "fragment_duplicate",
    /// Fragments evicted because the reassembly memory is full.
    FragmentMemory => "fragment_memory",
    /// Fragments whose missing parts did not come in time.
    FragmentTimeout => "fragment_timeout",
    /// For another shard, whose ring of frames handed over is full.
    HandOverFull => "hand_over_full",
    /// Outgoing packet without a route.
    NoRoute => "no_route",
    /// Outgoing packet whose next hop does not answer.
    NeighborUnreachable => "neighbor_unreachable",
    /// Outgoing packet waiting for a next hop, pushed out by the limit.
    NeighborQueueFull => "neighbor_queue_full",
    /// ARP or NDP told of a neighbour nobody asked for, or of an impossible address.
    UnsolicitedNeighbor => "unsolicited_neighbor",
    /// A neighbour's address was not remembered because the table is full of neighbours in use.
    NeighborTableFull => "neighbor_table_full",
    /// An answer (RST, ICMP, ARP, acknowledgement) found the transmit queue full.
    TxFull => "tx_full",
    /// An outgoing frame the device refused for its length or offload.
    TxUnsupported => "tx_unsupported",
    /// An ICMP error or acknowledgement that was not sent, to limit the rate.
    RateLimited => "rate_limited",
}

/// A count per reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().map(|r| (r, self[r])).filter(|(_, count)| *count > 0)
    }

    /// All drops together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self[reason] += 1;
    }
}

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Index<DropReason> for Drops {
    type Output = u64;
    fn index(&self, reason: DropReason) -> &u64 {
        &self.0[reason as usize]
    }
}

impl IndexMut<DropReason> for Drops {
    fn index_mut(&mut self, reason: DropReason) -> &mut u64 {
        &mut self.0[reason as usize]
    }
}

/// Counters of a stack since it was built, and what it holds right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Frames taken from the device.
    pub rx_frames: u64,
    /// Frames given to the device.
    pub tx_frames: u64,
    /// Frames given to another shard: it owns their flow, or every shard hears of them.
    pub handed_over: u64,
    /// Times that a job for another shard found its mailbox full.
    pub mailbox_full: u64,
    /// Connections opened by `connect`.
    pub tcp_active_opens: u64,
    /// Connections that reached ESTABLISHED through a listener.
    pub tcp_passive_opens: u64,
    /// Connections that ended by a reset, a time-out or an unreachable peer.
    pub tcp_failures: u64,
    /// TCP connections that exist now, half-open and closing ones included.
    pub tcp_flows: usize,
    /// Of these, half-open ones.
    pub tcp_half_open: usize,
    /// Connections in the TIME-WAIT table.
    pub tcp_time_wait: usize,
    /// Connections that left TIME-WAIT early because the table was full.
    pub tcp_time_wait_evicted: u64,
    /// Datagrams put together from fragments.
    pub reassembled: u64,
    /// Addresses whose link address is known or asked for.
    pub neighbors: usize,
    /// Destinations whose path MTU is remembered because it is smaller than the link's.
    pub path_mtus: usize,
    /// ARP and NDP conflicts: another station claims an address of ours.
    pub address_conflicts: u64,
    /// Frames, packets and datagrams dropped, by reason.
    pub drops: Drops,
    /// The device's own counters, up to a tenth of a second old.
    pub device: underpass_devices::Counters,
}

/// The sum over shards.
impl AddAssign<&Self> for Stats {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            rx_frames,
            tx_frames,
            handed_over,
            mailbox_full,
            tcp_active_opens,
            tcp_passive_opens,
            tcp_failures,
            tcp_flows,
            tcp_half_open,
            tcp_time_wait,
            tcp_time_wait_evicted,
            reassembled,
            neighbors,
            path_mtus,
            address_conflicts,
            drops,
            device,
        } = self;
        *rx_frames += other.rx_frames;
        *tx_frames += other.tx_frames;
        *handed_over += other.handed_over;
        *mailbox_full += other.mailbox_full;
        *tcp_active_opens += other.tcp_active_opens;
        *tcp_passive_opens += other.tcp_passive_opens;
        *tcp_failures += other.tcp_failures;
        *tcp_flows += other.tcp_flows;
        *tcp_half_open += other.tcp_half_open;
        *tcp_time_wait += other.tcp_time_wait;
        *tcp_time_wait_evicted += other.tcp_time_wait_evicted;
        *reassembled += other.reassembled;
        // Every shard knows the same ones.
        *neighbors = other.neighbors.max(*neighbors);
        *path_mtus += other.path_mtus;
        *address_conflicts += other.address_conflicts;
        for (sum, count) in drops.0.iter_mut().zip(other.drops.0) {
            *sum += count;
        }
        *device += other.device;
    }
}

/// One line: what flowed, what was lost and why.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rx {} frames, tx {} frames, tcp {} accepted, {} opened, {} failed, {} dropped",
            self.rx_frames,
            self.tx_frames,
            self.tcp_passive_opens,
            self.tcp_active_opens,
            self.tcp_failures,
            self.drops.total(),
        )?;
        for (n, (reason, count)) in self.drops.iter().enumerate() {
            write!(f, "{}{} {count}", if n == 0 { " (" } else { ", " }, reason.name())?;
        }
        if self.drops.total() > 0 { f.write_str(")") } else { Ok(()) }
    }
}
