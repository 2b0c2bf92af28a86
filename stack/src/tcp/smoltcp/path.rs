use std::num::NonZeroUsize;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::State;
use smoltcp::wire::HardwareAddress;
use underpass_devices::Instant;

use super::connection::SmoltcpConnection;
use super::meter::{Meter, is_before};
use super::phy::{Headers, Nowhere, Phy, TxState};
use super::{DEFAULT_MSS, MIN_MSS, TCP_HEADER_LEN, to_smol};
use crate::output::Output;
use crate::packet::{TcpSegment, protocol};
use crate::tcp::engine::{Connection, Emitted};

/// Until a connection that says it is due and then sends nothing is asked again.
const RETRY: Duration = Duration::from_millis(1);
/// Longer than any retransmission timer of smoltcp's (RFC 6298 §2.5: 60 seconds).
const MAX_RETRANSMISSION_TIME: Duration = Duration::from_secs(61);

/// One IP version: its interface, and what every call on it needs.
pub(super) struct Family {
    pub(super) interface: Interface,
    pub(super) path: Path,
}

/// What differs between the IP versions.
pub(super) struct Path {
    caps: DeviceCapabilities,
    pub(super) mtu: usize,
    /// Superframes are one frame each for the device.
    pub(super) device_cuts: bool,
    pub(super) ip_header_len: usize,
}

impl Family {
    /// `longest`: the longest packet to emit, which is cut into packets of `mtu` below, by the device
    /// or for it.
    pub(super) fn new(ip_header_len: usize, mtu: usize, longest: usize, device_cuts: bool) -> Self {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = longest;
        caps.checksum = ChecksumCapabilities::ignored();
        caps.checksum.ipv4 = Checksum::Tx;
        let limit = NonZeroUsize::new(longest);
        caps.segmentation.tcpv4 = limit;
        caps.segmentation.tcpv6 = limit;
        let path = Path { caps, mtu, device_cuts, ip_header_len };
        Self { interface: path.interface(Instant::ZERO, 0), path }
    }
}

impl Path {
    pub(super) fn interface(&self, now: Instant, seed: u64) -> Interface {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let (mut meter, mut nowhere) = (Meter::default(), Nowhere);
        let state = TxState::new(Headers::none(self), now, &mut meter, &mut nowhere);
        let mut device = Phy::new(&self.caps, None, state);
        let mut interface = Interface::new(config, &mut device, to_smol(now));
        interface.set_any_ip(true);
        interface
    }

    /// Largest payload of one packet on this link.
    pub(super) fn mss(&self) -> u16 {
        (self.mtu - self.ip_header_len - TCP_HEADER_LEN) as u16
    }

    pub(super) fn ingress(
        &self,
        interface: &mut Interface,
        now: Instant,
        connection: &mut SmoltcpConnection,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
    ) {
        // Later SYNs are strangers': they must not decide how a running connection is cut.
        let opening = matches!(connection.socket().state(), State::Listen | State::SynSent);
        if segment.flags.syn() && opening {
            let theirs = segment.mss().filter(|mss| *mss != 0).unwrap_or(DEFAULT_MSS);
            connection.segment_size = theirs.max(MIN_MSS).min(self.mss()).min(connection.path_mss);
            connection.meter.unread = segment.seq.wrapping_add(1);
            connection.meter.peer_scale = segment.window_scale().unwrap_or(0);
        }
        if repeats_ack_of_fin(connection, segment) {
            return;
        }
        let fin_was_there = is_closed_by_peer(connection.socket().state());
        let plain;
        let mut bytes = segment.packet.bytes;
        if brings_fin_alone(connection, segment) {
            let end = segment.seq.wrapping_add(segment.data_len as u32);
            plain = without_data(segment, end, self.ip_header_len);
            bytes = &plain;
        } else if let Some(end) = connection.fin_end.filter(|end| brings_data_behind(*end, segment))
        {
            plain = without_data(segment, end, self.ip_header_len);
            bytes = &plain;
        } else if segment.packet.src.is_ipv6() && segment.packet.payload_at != self.ip_header_len {
            plain = without_extensions(segment, self.ip_header_len);
            bytes = &plain;
        }
        let headers = Headers::of(self, connection);
        let state = TxState::new(headers, now, &mut connection.meter, out);
        let mut device = Phy::new(&self.caps, Some(bytes), state);
        interface.poll_ingress_single(to_smol(now), &mut device, &mut connection.set);
        measure(now, connection, segment);
        if !fin_was_there && is_closed_by_peer(connection.socket().state()) {
            connection.fin_end = Some(segment.seq.wrapping_add(segment.seq_len()));
        }
    }

    pub(super) fn egress(
        &self,
        interface: &mut Interface,
        now: Instant,
        connection: &mut SmoltcpConnection,
        budget: usize,
        out: &mut impl Output,
    ) -> Emitted {
        let headers = Headers::of(self, connection);
        let state = TxState::new(headers, now, &mut connection.meter, out);
        let mut device = Phy::new(&self.caps, None, state);
        let mut emitted = Emitted::More;
        let mut idle = false;
        while device.tx.frames < budget {
            // Behind a full segment there is probably another: asking would cost as much as trying.
            if !std::mem::take(&mut device.tx.filled) {
                match next_poll(interface, now, &connection.set) {
                    Some(at) if at <= now => {}
                    at => {
                        emitted = Emitted::Until(at);
                        break;
                    }
                }
            }
            let nothing = interface.poll_egress(to_smol(now), &mut device, &mut connection.set)
                == PollResult::None;
            if nothing && device.tx.starved {
                break;
            }
            // A call that sends nothing may still change what is due; two in a row do not.
            if nothing && idle {
                emitted = Emitted::Until(Some(now + RETRY));
                break;
            }
            idle = nothing;
        }
        emitted
    }

    /// Makes everything in flight due again. smoltcp does so when its retransmission timer runs out,
    /// which no call can cause; but it looks at the timer before it asks for a slot. So it is called
    /// at a time when any timer has run out, and gets no slot: it goes back to the first byte not
    /// acknowledged, in slow start, and nothing else of it has seen that time.
    pub(super) fn rewind(
        &self,
        interface: &mut Interface,
        now: Instant,
        connection: &mut SmoltcpConnection,
    ) {
        connection.socket_mut().set_timeout(None);
        let headers = Headers::of(self, connection);
        let mut nowhere = Nowhere;
        let state = TxState::new(headers, now, &mut connection.meter, &mut nowhere);
        let mut device = Phy::new(&self.caps, None, state);
        let later = to_smol(now + MAX_RETRANSMISSION_TIME);
        interface.poll_egress(later, &mut device, &mut connection.set);
    }
}

fn measure(now: Instant, connection: &mut SmoltcpConnection, segment: &TcpSegment<'_>) {
    // The window of a SYN is never scaled (RFC 7323 §2.2).
    let scale = if segment.flags.syn() { 0 } else { connection.meter.peer_scale };
    connection.meter.peer_window = u32::from(segment.window) << scale;
    if segment.flags.ack() {
        let una = connection.una();
        connection.meter.on_received(now, segment.ack, una);
    }
}

/// The peer's FIN was taken.
fn is_closed_by_peer(state: State) -> bool {
    matches!(state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait)
}

/// When smoltcp wants to be called next; `now` if at once.
pub(super) fn next_poll(
    interface: &mut Interface,
    now: Instant,
    set: &SocketSet<'static>,
) -> Option<Instant> {
    let at = interface.poll_at(to_smol(now), set)?;
    // smoltcp says "now" as time zero.
    Some(Instant::from_micros(at.total_micros().max(0) as u64).max(now))
}

/// A duplicate acknowledgement while nothing but our FIN is on its way. Three of them make smoltcp
/// stop its retransmission timer, and then it sends data again, but never a FIN alone.
fn repeats_ack_of_fin(connection: &SmoltcpConnection, segment: &TcpSegment<'_>) -> bool {
    let closing =
        matches!(connection.socket().state(), State::FinWait1 | State::Closing | State::LastAck);
    let flags = segment.flags;
    closing
        && connection.send_queue() == 0
        && segment.seq_len() == 0
        && !flags.rst()
        && segment.ack == connection.una()
}

/// A FIN behind data that was all received before. smoltcp does not see the FIN: it looks whether the
/// data is within the window.
fn brings_fin_alone(connection: &SmoltcpConnection, segment: &TcpSegment<'_>) -> bool {
    let data_end = segment.seq.wrapping_add(segment.data_len as u32);
    segment.flags.fin()
        && !segment.flags.syn()
        && segment.data_len > 0
        && !matches!(connection.socket().state(), State::Listen | State::SynSent)
        && data_end == connection.recv_window().0
}

/// Data where the peer's FIN was or behind it, which is to be ignored (RFC 9293 §3.10.7.4). smoltcp
/// would hand it to the reader.
fn brings_data_behind(fin_end: u32, segment: &TcpSegment<'_>) -> bool {
    let data_end = segment.seq.wrapping_add(segment.data_len as u32);
    segment.data_len > 0 && !is_before(data_end, fin_end)
}

/// The bare headers of a segment, as if it began at `seq`.
fn without_data(segment: &TcpSegment<'_>, seq: u32, ip_header_len: usize) -> Vec<u8> {
    let mut bare = segment.packet.bytes[..ip_header_len].to_vec();
    bare.extend_from_slice(&segment.packet.payload()[..TCP_HEADER_LEN]);
    let (ip, tcp) = bare.split_at_mut(ip_header_len);
    if segment.packet.src.is_ipv4() {
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&((ip_header_len + TCP_HEADER_LEN) as u16).to_be_bytes());
    } else {
        ip[4..6].copy_from_slice(&(TCP_HEADER_LEN as u16).to_be_bytes());
        ip[6] = protocol::TCP;
    }
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[12] = (TCP_HEADER_LEN as u8 / 4) << 4;
    bare
}

/// The segment behind a bare IPv6 header: smoltcp does not follow every extension header.
fn without_extensions(segment: &TcpSegment<'_>, ip_header_len: usize) -> Vec<u8> {
    let payload = segment.packet.payload();
    let mut plain = Vec::with_capacity(ip_header_len + payload.len());
    plain.extend_from_slice(&segment.packet.bytes[..ip_header_len]);
    plain.extend_from_slice(payload);
    plain[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    plain[6] = protocol::TCP;
    plain
}
