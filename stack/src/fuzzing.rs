//! Doorways for the targets in `fuzz/` (feature `fuzzing`): thin functions over private parsers, and
//! no part of this crate's interface.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use ipnet::Ipv4Net;
use underpass_devices::Instant;

use crate::dhcp;
use crate::dns::{Name, Outcome, Query, Question, Record, RecordType, Reply};
use crate::packet::{Packet, TcpSegment, UdpDatagram};
use crate::random::Random;

/// A checked IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol, behind the extension headers that were followed.
    pub protocol: u8,
    /// Hop limit or TTL.
    pub hop_limit: u8,
    /// Where the transport header and its data are, link padding left out.
    pub payload: Range<usize>,
    /// Of a fragment: its identification, its offset in bytes, and whether more follow.
    pub fragment: Option<(u32, usize, bool)>,
}

/// A checked TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source and destination.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, whatever the flags.
    pub ack: u32,
    /// FIN, SYN, RST, ACK.
    pub flags: [bool; 4],
    /// As in the header.
    pub window: u16,
    /// Bytes behind the header.
    pub data_len: usize,
    /// The option, if it is there.
    pub mss: Option<u16>,
    /// The option, if it is there; at most 14.
    pub window_scale: Option<u8>,
}

/// A checked UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source and destination.
    pub ports: (u16, u16),
    /// Bytes behind the header.
    pub data_len: usize,
}

/// Judges what follows a link header. An IPv4 header's checksum has to be right.
pub fn ip(bytes: &[u8]) -> Option<Ip> {
    let packet = Packet::parse(bytes).ok()?;
    Some(Ip {
        source: packet.src,
        destination: packet.dst,
        protocol: packet.protocol,
        hop_limit: packet.hop_limit,
        payload: packet.payload_at..packet.bytes.len(),
        fragment: packet.fragment.map(|fragment| (fragment.id, fragment.offset, fragment.more)),
    })
}

/// Judges the TCP segment in an IP packet, whatever protocol that names.
pub fn tcp(bytes: &[u8]) -> Option<Tcp> {
    let segment = TcpSegment::parse(Packet::parse(bytes).ok()?).ok()?;
    let flags = segment.flags;
    Some(Tcp {
        ports: (segment.tuple.remote.port(), segment.tuple.local.port()),
        seq: segment.seq,
        ack: segment.ack,
        flags: [flags.fin(), flags.syn(), flags.rst(), flags.ack()],
        window: segment.window,
        data_len: segment.data_len,
        mss: segment.mss(),
        window_scale: segment.window_scale(),
    })
}

/// The same for a UDP datagram.
pub fn udp(bytes: &[u8]) -> Option<Udp> {
    let datagram = UdpDatagram::parse(Packet::parse(bytes).ok()?).ok()?;
    Some(Udp { ports: (datagram.src_port, datagram.dst_port), data_len: datagram.data.len() })
}

/// What a DHCP server has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpLease {
    /// Address and network.
    pub net: Ipv4Net,
    /// Networks and their gateways.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Servers of names.
    pub dns_servers: Vec<IpAddr>,
    /// The domain of names.
    pub domain: Option<String>,
    /// When to renew it, to ask anybody, and to stop using it.
    pub times: [Instant; 3],
}

/// The lease in a message of a DHCP server, as if it answered a request sent at `asked_at`. `None`: it
/// is no such message, or gives no usable lease.
pub fn dhcp(bytes: &[u8], asked_at: Instant) -> Option<DhcpLease> {
    let lease = dhcp::lease_of(bytes, asked_at)?;
    Some(DhcpLease {
        net: lease.net,
        routes: lease.routes,
        dns_servers: lease.dns_servers,
        domain: lease.domain,
        times: [lease.renew_at, lease.rebind_at, lease.expires_at],
    })
}

/// A question to a DNS server.
#[derive(Debug)]
pub struct DnsQuery(Query);

/// What a message is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsVerdict {
    /// Not its answer.
    Mismatch,
    /// Its answer, but for the case of letters.
    OtherCase,
    /// Its answer does not fit into a datagram.
    Truncated,
    /// The server cannot answer.
    Failure(String),
    /// Aliases, then what was asked for.
    Found(Vec<Record>),
    /// Aliases only, and the name to ask for.
    Alias(Vec<Record>, String),
    /// There is no such name or record; for so many seconds.
    Absent(Option<u32>),
}

impl DnsQuery {
    /// A question for a valid name, in letters of random case.
    pub fn new(name: &str, kind: RecordType, seed: u64) -> Option<Self> {
        let name = Name::parse(name).ok()?;
        Some(Self(Query::new(&Question { name, kind }, true, &mut Random::Seeded(seed))))
    }

    /// The message to the server.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Judges a datagram.
    pub fn check(&self, message: &[u8]) -> DnsVerdict {
        verdict(self.0.check(message))
    }

    /// Judges a message from a connection.
    pub fn check_stream(&self, message: &[u8]) -> DnsVerdict {
        verdict(self.0.check_stream(message))
    }
}

fn verdict(reply: Reply) -> DnsVerdict {
    match reply {
        Reply::Mismatch => DnsVerdict::Mismatch,
        Reply::OtherCase => DnsVerdict::OtherCase,
        Reply::Truncated => DnsVerdict::Truncated,
        Reply::Failure(why) => DnsVerdict::Failure(why),
        Reply::Outcome(Outcome::Found(records)) => DnsVerdict::Found(records),
        Reply::Outcome(Outcome::Alias(records, name)) => {
            DnsVerdict::Alias(records, name.to_string())
        }
        Reply::Outcome(Outcome::NoName(ttl) | Outcome::NoRecord(ttl)) => DnsVerdict::Absent(ttl),
    }
}
