//! The device smoltcp sees.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use smoltcp::phy::{self, DeviceCapabilities, PacketMeta};
use smoltcp::time::Instant as SmolInstant;
use underpass_devices::{Instant, PartialChecksum};

use super::connection::SmoltcpConnection;
use super::meter::{Meter, SentSegment, is_before};
use super::path::Path;
use super::{DEFAULT_MSS, TCP_HEADER_LEN};
use crate::checksum;
use crate::ip_header::rewrite_ip_header;
use crate::output::{Outgoing, Output, Segment};
use crate::packet::{TcpFlags, protocol};
use crate::tcp::engine::Sequence;

/// Offset of the checksum field in a TCP header.
const TCP_CHECKSUM_AT: u16 = 16;
const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The device smoltcp sees during one call: at most one packet to receive, and our output.
pub(super) struct Phy<'a, O> {
    caps: &'a DeviceCapabilities,
    rx: Option<&'a [u8]>,
    pub(super) tx: TxState<'a, O>,
}

pub(super) struct TxState<'a, O> {
    out: &'a mut O,
    headers: Headers<'a>,
    now: Instant,
    meter: &'a mut Meter,
    /// Frames that the device has got, or gets of the last superframe.
    pub(super) frames: usize,
    /// The last packet held as much data as one may.
    pub(super) filled: bool,
    /// smoltcp wanted to send and there was no slot.
    pub(super) starved: bool,
}

impl<'a, O: Output> Phy<'a, O> {
    pub(super) fn new(
        caps: &'a DeviceCapabilities,
        rx: Option<&'a [u8]>,
        tx: TxState<'a, O>,
    ) -> Self {
        Self { caps, rx, tx }
    }
}

impl<'a, O: Output> TxState<'a, O> {
    pub(super) fn new(
        headers: Headers<'a>,
        now: Instant,
        meter: &'a mut Meter,
        out: &'a mut O,
    ) -> Self {
        Self { out, headers, now, meter, frames: 0, filled: false, starved: false }
    }
}

/// What is known of the headers of every packet of one connection.
pub(super) struct Headers<'a> {
    path: &'a Path,
    interface: usize,
    src: IpAddr,
    dst: IpAddr,
    segment_size: u16,
    traffic_class: u8,
    may_fragment: bool,
    /// First sequence number not acknowledged.
    una: u32,
}

impl<'a> Headers<'a> {
    pub(super) fn of(path: &'a Path, connection: &SmoltcpConnection) -> Self {
        Self {
            path,
            interface: connection.interface,
            src: connection.tuple.local.ip(),
            dst: connection.tuple.remote.ip(),
            segment_size: connection.segment_size,
            traffic_class: connection.traffic_class,
            may_fragment: connection.may_fragment,
            una: connection.una(),
        }
    }

    /// For calls that send nothing.
    pub(super) fn none(path: &'a Path) -> Self {
        Self {
            path,
            interface: 0,
            src: UNSPECIFIED,
            dst: UNSPECIFIED,
            segment_size: DEFAULT_MSS,
            traffic_class: 0,
            may_fragment: false,
            una: 0,
        }
    }

    /// Longest packet that is not cut.
    fn max_packet(&self) -> usize {
        self.path.ip_header_len + TCP_HEADER_LEN + usize::from(self.segment_size)
    }

    /// Frames that a packet of `len` bytes is for the device.
    fn frames(&self, len: usize) -> usize {
        if self.path.device_cuts { 1 } else { len.div_ceil(self.max_packet()) }
    }

    fn outgoing(&self, len: usize) -> Outgoing {
        let start = self.path.ip_header_len as u16;
        // smoltcp puts options on SYNs and bare acknowledgements only, which need no cutting.
        let segment = (len > self.max_packet()).then(|| Segment {
            size: NonZeroU16::new(self.segment_size).unwrap_or(NonZeroU16::MIN),
            header_len: start + TCP_HEADER_LEN as u16,
        });
        Outgoing {
            dst: self.dst,
            len,
            checksum: Some(PartialChecksum { start, offset: TCP_CHECKSUM_AT }),
            segment,
            dont_fragment: true,
        }
    }

    /// Puts right what smoltcp could not know, and reads the sequence numbers it used. `sent_max` is
    /// behind everything ever sent. `None`: a reset.
    fn finish(&self, packet: &mut [u8], sent_max: u32) -> Option<SentSegment> {
        let (ip, tcp) = packet.split_at_mut_checked(self.path.ip_header_len)?;
        if self.traffic_class != 0 || self.may_fragment {
            rewrite_ip_header(ip, self.traffic_class, !self.may_fragment);
        }
        let tcp_len = tcp.len();
        let header: &mut [u8; TCP_HEADER_LEN] = tcp.first_chunk_mut()?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (mut seq, ack, flags) = (word(4), word(8), TcpFlags::from_bits(header[13]));
        let window = u16::from_be_bytes([header[14], header[15]]);
        let data_len = (tcp_len - usize::from(header[12] >> 4) * 4) as u32;
        let partial = checksum::partial(self.src, self.dst, protocol::TCP, tcp_len);
        header[16..18].copy_from_slice(&partial.to_be_bytes());
        let seq_len = data_len + u32::from(flags.syn()) + u32::from(flags.fin());
        // While it sends again, smoltcp acknowledges with a number the peer may be beyond, which would
        // ignore it. If both ends do so at once, neither ever hears the other: bare acknowledgements
        // carry SND.NXT (RFC 9293 §3.10.7.4).
        if seq_len == 0 && !flags.rst() && is_before(seq, sent_max) {
            seq = sent_max;
            header[4..8].copy_from_slice(&seq.to_be_bytes());
        }
        // smoltcp writes the maximum segment size as the first option.
        if flags.syn()
            && let Some([2, 4, high, low]) = tcp.get_mut(20..24)
        {
            [*high, *low] = self.path.mss().to_be_bytes();
        }
        let sequence = Sequence { snd_nxt: seq.wrapping_add(seq_len), rcv_nxt: ack };
        (!flags.rst()).then_some(SentSegment { sequence, seq, data_len, window })
    }
}

pub(super) struct RxToken<'a>(&'a [u8]);

pub(super) struct TxToken<'a, 'o, O>(&'a mut TxState<'o, O>);

impl<'o, O: Output> phy::Device for Phy<'o, O> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, 'o, O>
    where
        Self: 'a;

    fn receive(&mut self, _: SmolInstant) -> Option<(RxToken<'_>, TxToken<'_, 'o, O>)> {
        let bytes = self.rx.take()?;
        Some((RxToken(bytes), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<TxToken<'_, 'o, O>> {
        if self.tx.out.has_room(self.tx.headers.interface) {
            Some(TxToken(&mut self.tx))
        } else {
            self.tx.starved = true;
            None
        }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.caps.clone()
    }
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl<O: Output> phy::TxToken for TxToken<'_, '_, O> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let state = self.0;
        let packet = state.headers.outgoing(len);
        // smoltcp wants its closure called even if there is no slot: then the packet is lost, which
        // happens to immediate answers only (duplicate acknowledgements and resets).
        let mut emit = Some(f);
        let mut written = None;
        state.out.packet(packet, |bytes| {
            let result = emit.take().map(|emit| emit(bytes));
            written =
                result.map(|result| (result, state.headers.finish(bytes, state.meter.sent_max)));
        });
        match (written, emit) {
            (Some((result, sent)), _) => {
                state.frames += state.headers.frames(len);
                state.filled = len >= state.headers.max_packet();
                if let Some(sent) = sent {
                    let Headers { una, segment_size, .. } = state.headers;
                    state.meter.on_sent(state.now, &sent, una, segment_size);
                }
                result
            }
            (None, Some(emit)) => emit(&mut vec![0; len]),
            (None, None) => unreachable!("the closure is either called or still here"),
        }
    }

    fn set_meta(&mut self, _: PacketMeta) {
        // The segment size is ours: smoltcp's comes from the MTU it was made to believe in.
    }
}

/// Output of calls that cannot send: interface creation, and a SYN that only opens a connection.
pub(super) struct Nowhere;

impl Output for Nowhere {
    fn has_room(&self, _: usize) -> bool {
        false
    }

    fn path_mtu(&self, _: IpAddr) -> usize {
        0
    }

    fn interface_to(&self, _: IpAddr) -> Option<usize> {
        None
    }

    fn packet<R>(&mut self, _: Outgoing, _: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        None
    }
}
