use underpass_devices::PartialChecksum;

use crate::checksum;
use crate::ip_header::{ip_header_len, write_ip_header};
use crate::output::{Outgoing, Output};
use crate::packet::{TcpSegment, protocol};

const HOP_LIMIT: u8 = 64;
const TCP_LEN: usize = 20;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// Answers a segment that belongs to no connection (RFC 9293 §3.10.7.1).
pub(crate) fn reset(segment: &TcpSegment<'_>, out: &mut impl Output) {
    if segment.flags.rst() {
        return;
    }
    let (seq, ack, flags) = if segment.flags.ack() {
        (segment.ack, 0, RST)
    } else {
        (0, segment.seq.wrapping_add(segment.seq_len()), RST | ACK)
    };
    bare_segment(segment, seq, ack, flags, 0, out);
}

/// Answers with a bare acknowledgement, as TIME-WAIT does.
pub(crate) fn acknowledge(
    segment: &TcpSegment<'_>,
    seq: u32,
    ack: u32,
    window: u16,
    out: &mut impl Output,
) {
    bare_segment(segment, seq, ack, ACK, window, out);
}

/// Sends a segment without data back to where `segment` came from.
fn bare_segment(
    segment: &TcpSegment<'_>,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    out: &mut impl Output,
) {
    let (src, dst) = (segment.tuple.local, segment.tuple.remote);
    let header_len = ip_header_len(src.ip());
    let outgoing = Outgoing {
        dst: dst.ip(),
        len: header_len + TCP_LEN,
        checksum: Some(PartialChecksum { start: header_len as u16, offset: 16 }),
        segment: None,
        dont_fragment: true,
    };
    out.packet(outgoing, |packet| {
        let (ip, tcp) = packet.split_at_mut(header_len);
        write_ip_header(ip, src.ip(), dst.ip(), protocol::TCP, TCP_LEN, HOP_LIMIT);
        tcp[0..2].copy_from_slice(&src.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&dst.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp[12] = (TCP_LEN as u8 / 4) << 4;
        tcp[13] = flags;
        tcp[14..16].copy_from_slice(&window.to_be_bytes());
        let partial = checksum::partial(src.ip(), dst.ip(), protocol::TCP, TCP_LEN);
        tcp[16..18].copy_from_slice(&partial.to_be_bytes());
        tcp[18..20].fill(0);
    });
}
