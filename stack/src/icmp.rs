//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and errors in both directions. Neighbour discovery is
//! in [`ndp`](crate::ndp).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use underpass_devices::Instant;

use crate::checksum;
use crate::fragment::next_header_field;
use crate::ip_header::{ip_header_len, write_ip_header};
use crate::packet::{Packet, protocol};
use crate::stats::DropReason;

const HEADER_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;

/// What a received message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IcmpMessage<'a> {
    /// Somebody pings us.
    EchoRequest(Echo<'a>),
    /// An answer to a ping of ours.
    EchoReply(Echo<'a>),
    /// A packet of ours did not arrive.
    Error(IcmpError<'a>),
    /// Nothing for this stack.
    Other,
}

/// The body of an echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo<'a> {
    /// Which ping socket.
    pub(crate) ident: u16,
    /// Which of its requests.
    pub(crate) seq: u16,
    /// What is to be sent back.
    pub(crate) payload: &'a [u8],
}

/// A report that a packet did not arrive. Whoever acts on it first finds the flow it quotes, and
/// checks that the quoted sequence number is one in flight (RFC 5927 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IcmpError<'a> {
    /// Who reports it.
    pub(crate) from: IpAddr,
    /// Why.
    pub(crate) kind: IcmpErrorKind,
    /// Which packet.
    pub(crate) quoted: QuotedPacket<'a>,
}

/// Why a packet did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpErrorKind {
    /// No socket there.
    PortUnreachable,
    /// The host does not answer its router.
    HostUnreachable,
    /// No route.
    NetUnreachable,
    /// The host does not speak the transport protocol.
    ProtocolUnreachable,
    /// A filter forbids it.
    AdminProhibited,
    /// Too long for a link on the way.
    PacketTooBig {
        /// Largest packet that fits; 0 from routers older than RFC 1191. An MTU below 1280 over IPv6
        /// or 68 over IPv4 is not to be believed.
        mtu: u32,
    },
    /// Hop limit or reassembly time ran out.
    TimeExceeded,
    /// A header field is wrong.
    ParameterProblem,
}

/// The head of a packet we sent, as an error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuotedPacket<'a> {
    /// Where it came from: the address the error was sent to.
    pub(crate) src: IpAddr,
    /// Where it was to go.
    pub(crate) dst: IpAddr,
    /// Transport protocol.
    pub(crate) protocol: u8,
    /// First two bytes of the transport header: source port of TCP and UDP.
    pub(crate) src_port: u16,
    /// Second two bytes: destination port of TCP and UDP.
    pub(crate) dst_port: u16,
    /// Sequence number, of TCP.
    pub(crate) tcp_seq: Option<u32>,
    /// Identifier, of an ICMP or ICMPv6 echo message.
    pub(crate) echo_ident: Option<u16>,
    /// Length its IP header names, in bytes.
    pub(crate) len: usize,
    /// Transport header and data as far as they are quoted, at least 8 bytes.
    pub(crate) transport: &'a [u8],
}

/// Judges a whole packet whose protocol is ICMP or ICMPv6.
pub(crate) fn receive<'a>(packet: &Packet<'a>) -> Result<IcmpMessage<'a>, DropReason> {
    let message = packet.payload();
    let (header, body) =
        message.split_first_chunk::<HEADER_LEN>().ok_or(DropReason::MalformedIcmp)?;
    let v4 = packet.src.is_ipv4();
    let intact = if v4 {
        packet.protocol == protocol::ICMP && checksum::sum(message) == 0xffff
    } else {
        packet.protocol == protocol::ICMPV6
            && checksum::verify_transport(packet.src, packet.dst, protocol::ICMPV6, message)
    };
    if !intact {
        return Err(DropReason::MalformedIcmp);
    }
    let [kind, code, _, _, a, b, c, d] = *header;
    let echo =
        Echo { ident: u16::from_be_bytes([a, b]), seq: u16::from_be_bytes([c, d]), payload: body };
    let error = match (v4, kind, code) {
        (true, 8, 0) | (false, 128, 0) => return Ok(IcmpMessage::EchoRequest(echo)),
        (true, 0, 0) | (false, 129, 0) => return Ok(IcmpMessage::EchoReply(echo)),
        (true, ..) => error_v4(kind, code, u16::from_be_bytes([c, d])),
        (false, ..) => error_v6(kind, code, u32::from_be_bytes([a, b, c, d])),
    };
    let Some(kind) = error else {
        return Ok(IcmpMessage::Other);
    };
    let quoted = if v4 { quoted_v4(body) } else { quoted_v6(body) };
    match quoted {
        // Nobody can report a packet to us that we did not send.
        Some(quoted) if quoted.src == packet.dst => {
            Ok(IcmpMessage::Error(IcmpError { from: packet.src, kind, quoted }))
        }
        _ => Err(DropReason::MalformedIcmp),
    }
}

/// True if an echo request is to be answered: not if it was sent to a group or to all (as Linux
/// does by default over IPv4), nor if its source is no single node.
pub(crate) fn may_answer_echo(request: &Packet<'_>) -> bool {
    is_node(request.src) && is_node(request.dst)
}

/// Length of the IP packet that carries an echo message.
pub(crate) fn echo_len(dst: IpAddr, payload_len: usize) -> usize {
    ip_header_len(dst) + HEADER_LEN + payload_len
}

/// Which echo message to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EchoKind {
    /// A ping.
    Request,
    /// The answer to one.
    Reply,
}

/// Writes an echo message as an IP packet to `out`, which is [`echo_len`] bytes long.
pub(crate) fn write_echo(
    out: &mut [u8],
    src: IpAddr,
    dst: IpAddr,
    kind: EchoKind,
    echo: &Echo<'_>,
) {
    let number = match (kind, dst) {
        (EchoKind::Request, IpAddr::V4(_)) => 8,
        (EchoKind::Request, IpAddr::V6(_)) => 128,
        (EchoKind::Reply, IpAddr::V4(_)) => 0,
        (EchoKind::Reply, IpAddr::V6(_)) => 129,
    };
    let [a, b] = echo.ident.to_be_bytes();
    let [c, d] = echo.seq.to_be_bytes();
    write_message(out, src, dst, [number, 0, 0, 0, a, b, c, d], echo.payload);
}

/// Why this stack refuses a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// Nobody here speaks its transport protocol.
    Protocol,
    /// No socket at its port.
    Port,
}

/// True if a packet may be answered with an error (RFC 1122 §3.2.2, RFC 4443 §2.4 e): it is no error
/// itself, no later fragment, was sent to one node, by link address (`link_group` is false) and by
/// IP address, and comes from one.
pub(crate) fn may_answer_error(packet: &Packet<'_>, link_group: bool) -> bool {
    let kind = packet.payload().first().copied();
    let is_error = match packet.protocol {
        // Everything but queries and their replies.
        protocol::ICMP => !kind.is_some_and(|kind| matches!(kind, 0 | 8 | 13..=18)),
        protocol::ICMPV6 => !kind.is_some_and(|kind| kind >= 128 && kind != 137),
        _ => false,
    };
    let later_fragment = packet.fragment.is_some_and(|fragment| fragment.offset != 0);
    !is_error && !later_fragment && !link_group && is_node(packet.src) && is_node(packet.dst)
}

/// Length of the IP packet that refuses `original`.
pub(crate) fn unreachable_len(original: &Packet<'_>) -> usize {
    ip_header_len(original.src) + HEADER_LEN + quote(original).len()
}

/// Writes the packet that refuses `original` to `out`, which is [`unreachable_len`] bytes long. It
/// goes back to where `original` came from.
pub(crate) fn write_unreachable(out: &mut [u8], original: &Packet<'_>, why: Unreachable) {
    let header = match (original.src, why) {
        (IpAddr::V4(_), Unreachable::Protocol) => [3, 2, 0, 0, 0, 0, 0, 0],
        (IpAddr::V4(_), Unreachable::Port) => [3, 3, 0, 0, 0, 0, 0, 0],
        (IpAddr::V6(_), Unreachable::Port) => [1, 4, 0, 0, 0, 0, 0, 0],
        (IpAddr::V6(_), Unreachable::Protocol) => {
            // Parameter Problem: unrecognized Next Header, and a pointer to that field.
            let field = next_header_field(original.bytes, original.payload_at) as u32;
            let [a, b, c, d] = field.to_be_bytes();
            [4, 1, 0, 0, a, b, c, d]
        }
    };
    write_message(out, original.dst, original.src, header, quote(original));
}

/// A token bucket: so many errors per second, and as many at once after a second of silence
/// (RFC 4443 §2.4 f).
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// Nanoseconds per token; `None`: no tokens ever.
    interval: Option<u64>,
    /// Saved up, in nanoseconds.
    credit: u64,
    last: Instant,
}

impl RateLimiter {
    const BUCKET: u64 = 1_000_000_000;

    /// A full bucket.
    pub(crate) fn new(per_second: u32) -> Self {
        let interval = Self::BUCKET.checked_div(per_second.into()).map(|nanos| nanos.max(1));
        Self { interval, credit: Self::BUCKET, last: Instant::ZERO }
    }

    /// True if one more may be sent now; it counts as sent.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let elapsed = now.as_nanos().saturating_sub(self.last.as_nanos());
        self.last = self.last.max(now);
        self.credit = self.credit.saturating_add(elapsed).min(Self::BUCKET);
        match self.interval.and_then(|interval| self.credit.checked_sub(interval)) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }
}

/// RFC 792 and RFC 1812 §5.2.7.1; `low` are the last two bytes of the header.
fn error_v4(kind: u8, code: u8, low: u16) -> Option<IcmpErrorKind> {
    Some(match (kind, code) {
        (3, 0 | 6 | 11) => IcmpErrorKind::NetUnreachable,
        (3, 1 | 5 | 7 | 8 | 12) => IcmpErrorKind::HostUnreachable,
        (3, 2) => IcmpErrorKind::ProtocolUnreachable,
        (3, 3) => IcmpErrorKind::PortUnreachable,
        (3, 4) => IcmpErrorKind::PacketTooBig { mtu: u32::from(low) },
        (3, 9 | 10 | 13..=15) => IcmpErrorKind::AdminProhibited,
        (11, _) => IcmpErrorKind::TimeExceeded,
        (12, _) => IcmpErrorKind::ParameterProblem,
        _ => return None,
    })
}

/// RFC 4443 §3; `word` are the last four bytes of the header.
fn error_v6(kind: u8, code: u8, word: u32) -> Option<IcmpErrorKind> {
    Some(match (kind, code) {
        (1, 0) => IcmpErrorKind::NetUnreachable,
        (1, 2 | 3) => IcmpErrorKind::HostUnreachable,
        (1, 4) => IcmpErrorKind::PortUnreachable,
        (1, 1 | 5 | 6) => IcmpErrorKind::AdminProhibited,
        (2, _) => IcmpErrorKind::PacketTooBig { mtu: word },
        (3, _) => IcmpErrorKind::TimeExceeded,
        (4, 1) => IcmpErrorKind::ProtocolUnreachable,
        (4, _) => IcmpErrorKind::ParameterProblem,
        _ => return None,
    })
}

fn quoted_v4(body: &[u8]) -> Option<QuotedPacket<'_>> {
    let header: &[u8; 20] = body.first_chunk()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if header[0] >> 4 != 4 || header_len < 20 || offset != 0 {
        return None;
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    quoted_transport(src.into(), dst.into(), header[9], body.get(header_len..)?, len)
}

fn quoted_v6(body: &[u8]) -> Option<QuotedPacket<'_>> {
    let (header, mut rest) = body.split_first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let src = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    let dst = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
    let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut next = header[6];
    loop {
        let (&[after, units, high, low], _) = rest.split_first_chunk::<4>()?;
        let len = match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                (usize::from(units) + 1) * 8
            }
            protocol::FRAGMENT if u16::from_be_bytes([high, low]) < 8 => 8,
            protocol::FRAGMENT => return None,
            _ => return quoted_transport(src.into(), dst.into(), next, rest, total),
        };
        next = after;
        rest = rest.get(len..)?;
    }
}

fn quoted_transport(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    transport: &[u8],
    len: usize,
) -> Option<QuotedPacket<'_>> {
    let &[s0, s1, d0, d1, q0, q1, q2, q3] = transport.first_chunk::<8>()?;
    let tcp_seq = (protocol == protocol::TCP).then(|| u32::from_be_bytes([q0, q1, q2, q3]));
    let is_echo = matches!((protocol, s0), (protocol::ICMP, 8) | (protocol::ICMPV6, 128));
    let echo_ident = is_echo.then(|| u16::from_be_bytes([q0, q1]));
    let (src_port, dst_port) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Some(QuotedPacket {
        src,
        dst,
        protocol,
        src_port,
        dst_port,
        tcp_seq,
        echo_ident,
        len,
        transport,
    })
}

/// As much of a packet as fits into an error that every link carries: 576 bytes over IPv4 (RFC 1812
/// §4.3.2.3), 1280 over IPv6 (RFC 4443 §3.1).
fn quote<'a>(original: &Packet<'a>) -> &'a [u8] {
    let largest = if original.src.is_ipv4() { 576 } else { 1280 };
    let room = largest - ip_header_len(original.src) - HEADER_LEN;
    &original.bytes[..original.bytes.len().min(room)]
}

fn write_message(out: &mut [u8], src: IpAddr, dst: IpAddr, header: [u8; HEADER_LEN], body: &[u8]) {
    let (ip, message) = out.split_at_mut(ip_header_len(dst));
    let number = if dst.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    write_ip_header(ip, src, dst, number, message.len(), HOP_LIMIT);
    let (head, rest) = message.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&header);
    rest.copy_from_slice(body);
    let checksum = match dst {
        IpAddr::V4(_) => !checksum::sum(message),
        IpAddr::V6(_) => checksum::transport(src, dst, protocol::ICMPV6, message),
    };
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

fn is_node(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

#[cfg(test)]
#[path = "icmp_tests.rs"]
mod tests;
