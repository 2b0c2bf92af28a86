//! smoltcp's TCP socket as an engine: one `SocketSet` per connection, so that smoltcp never looks at
//! more than the one socket a segment belongs to.
//!
//! The interfaces here know no addresses, routes or neighbours (`any_ip`, `Medium::Ip`): all that is
//! the shard's. Checksums are left to [`Output`]. Two properties are worked around, not patched:
//!
//! - smoltcp refuses to emit an IPv6 packet above the MTU even with segmentation offload. The
//!   interface therefore believes in an MTU of one segmentation buffer, and the real maximum segment
//!   size is put into SYNs and segmentation requests here.
//! - The initial sequence number comes from a small generator. A throw-away interface is seeded such
//!   that its first output is the number wanted ([`smoltcp_seed`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::socket::tcp::{self, CongestionControl, Socket, SocketBuffer};
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::{HardwareAddress, IpListenEndpoint};
use underpass_devices::{Caps, Instant, PartialChecksum};

use super::engine::{Connection, Emitted, Engine, RecvEnd, SendClosed, Sequence, State};
use crate::checksum;
use crate::isn::smoltcp_seed;
use crate::output::{Outgoing, Output, Segment};
use crate::packet::{TcpFlags, TcpSegment, Tuple, protocol};

const TCP_HEADER_LEN: usize = 20;
/// Offset of the checksum field in a TCP header.
const TCP_CHECKSUM_AT: u16 = 16;
/// Maximum segment size of a peer that names none (RFC 9293 §3.7.1).
const DEFAULT_MSS: u16 = 536;
/// Unacknowledged data or FIN for this long ends the connection (RFC 9293 §3.8.3: R2 ≥ 100 s).
const USER_TIMEOUT: SmolDuration = SmolDuration::from_secs(120);
/// Delayed acknowledgement of single segments (RFC 9293 §3.8.6.3 allows up to 500 ms).
const ACK_DELAY: SmolDuration = SmolDuration::from_millis(10);
const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Connections kept for reuse.
const POOL: usize = 1024;

/// The engine of one shard.
pub(crate) struct SmoltcpEngine {
    v4: Family,
    v6: Family,
    send_buffer: usize,
    recv_buffer: usize,
    pool: Vec<SmoltcpConnection>,
}

/// One IP version: its interface, and what every call on it needs.
struct Family {
    interface: Interface,
    path: Path,
}

/// What differs between the IP versions.
struct Path {
    caps: DeviceCapabilities,
    mtu: usize,
    ip_header_len: usize,
}

/// One smoltcp socket in a set of its own.
pub(crate) struct SmoltcpConnection {
    set: SocketSet<'static>,
    handle: SocketHandle,
    tuple: Tuple,
    /// Payload per packet on the wire: the smaller of both ends' maximum segment sizes.
    segment_size: u16,
    sent: Sequence,
    /// Sequence number behind the peer's FIN.
    fin_end: Option<u32>,
}

impl SmoltcpEngine {
    /// An engine for a device with `caps`; buffer sizes in bytes per connection.
    pub(crate) fn new(caps: &Caps, send_buffer: usize, recv_buffer: usize) -> Self {
        let limit = |frame: Option<usize>| frame.map(|f| f.min(65_535) - caps.header_len());
        Self {
            v4: Family::new(20, caps.mtu, limit(caps.tx_segment_tcp4)),
            v6: Family::new(40, caps.mtu, limit(caps.tx_segment_tcp6)),
            send_buffer,
            recv_buffer,
            pool: Vec::new(),
        }
    }

    fn family(&mut self, address: IpAddr) -> &mut Family {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }

    fn take(&mut self, tuple: Tuple) -> SmoltcpConnection {
        let segment_size = self.family(tuple.remote.ip()).path.mss().min(DEFAULT_MSS);
        let mut connection = self.pool.pop().unwrap_or_else(|| {
            let mut set = SocketSet::new(Vec::with_capacity(1));
            let handle = set.add(Socket::new(
                SocketBuffer::new(vec![0; self.recv_buffer]),
                SocketBuffer::new(vec![0; self.send_buffer]),
            ));
            SmoltcpConnection {
                set,
                handle,
                tuple,
                segment_size,
                sent: Sequence::default(),
                fin_end: None,
            }
        });
        connection.tuple = tuple;
        connection.segment_size = segment_size;
        connection.sent = Sequence::default();
        connection.fin_end = None;
        let socket = connection.socket_mut();
        socket.abort();
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_nagle_enabled(true);
        socket.set_timeout(None);
        connection
    }
}

impl Engine for SmoltcpEngine {
    type Connection = SmoltcpConnection;

    fn connect(&mut self, now: Instant, tuple: Tuple, isn: u32) -> SmoltcpConnection {
        let mut connection = self.take(tuple);
        let mut seeded = self
            .family(tuple.remote.ip())
            .path
            .interface(now, smoltcp_seed(isn));
        // The shard has checked that both ends are unicast addresses of one version with ports.
        let result =
            connection
                .socket_mut()
                .connect(seeded.context(), tuple.remote, endpoint(tuple.local));
        debug_assert_eq!(result, Ok(()));
        connection
    }

    fn on_syn(&mut self, now: Instant, syn: &TcpSegment<'_>, isn: u32) -> SmoltcpConnection {
        let mut connection = self.take(syn.tuple);
        let listening = connection.socket_mut().listen(endpoint(syn.tuple.local));
        debug_assert_eq!(listening, Ok(()));
        let path = &self.family(syn.tuple.remote.ip()).path;
        let mut seeded = path.interface(now, smoltcp_seed(isn));
        path.ingress(&mut seeded, now, &mut connection, syn, &mut Nowhere);
        connection
    }

    fn on_segment(
        &mut self,
        now: Instant,
        connection: &mut SmoltcpConnection,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
    ) {
        // smoltcp delays the acknowledgement of a first segment even if it is a coalesced one that
        // fills the sender's whole window.
        let coalesced = segment.data_len > usize::from(connection.segment_size);
        connection
            .socket_mut()
            .set_ack_delay((!coalesced).then_some(ACK_DELAY));
        let family = self.family(connection.tuple.remote.ip());
        family
            .path
            .ingress(&mut family.interface, now, connection, segment, out);
    }

    fn emit(
        &mut self,
        now: Instant,
        connection: &mut SmoltcpConnection,
        budget: usize,
        out: &mut impl Output,
    ) -> Emitted {
        // smoltcp counts idle time towards this timeout, so it is on only while an answer is due.
        let waiting = connection.send_queue() > 0 || connection.state() == State::Closing;
        connection
            .socket_mut()
            .set_timeout(waiting.then_some(USER_TIMEOUT));
        let family = self.family(connection.tuple.remote.ip());
        family
            .path
            .egress(&mut family.interface, now, connection, budget, out)
    }

    fn next_timer(&mut self, now: Instant, connection: &SmoltcpConnection) -> Option<Instant> {
        let at = self
            .family(connection.tuple.remote.ip())
            .interface
            .poll_at(to_smol(now), &connection.set)?;
        // smoltcp says "now" as time zero.
        Some(Instant::from_micros(at.total_micros().max(0) as u64).max(now))
    }

    fn recycle(&mut self, connection: SmoltcpConnection) {
        if self.pool.len() < POOL {
            self.pool.push(connection);
        }
    }
}

impl Family {
    fn new(ip_header_len: usize, mtu: usize, segmentation: Option<usize>) -> Self {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = segmentation.unwrap_or(mtu).max(mtu);
        caps.checksum = ChecksumCapabilities::ignored();
        caps.checksum.ipv4 = Checksum::Tx;
        let limit = segmentation.and_then(NonZeroUsize::new);
        caps.segmentation.tcpv4 = limit;
        caps.segmentation.tcpv6 = limit;
        let path = Path {
            caps,
            mtu,
            ip_header_len,
        };
        Self {
            interface: path.interface(Instant::ZERO, 0),
            path,
        }
    }
}

impl Path {
    fn interface(&self, now: Instant, seed: u64) -> Interface {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut nowhere = Nowhere;
        let mut device = Phy::new(&self.caps, None, TxState::new(self, None, &mut nowhere));
        let mut interface = Interface::new(config, &mut device, to_smol(now));
        interface.set_any_ip(true);
        interface
    }

    /// Largest payload of one packet on this link.
    fn mss(&self) -> u16 {
        (self.mtu - self.ip_header_len - TCP_HEADER_LEN) as u16
    }

    fn ingress(
        &self,
        interface: &mut Interface,
        now: Instant,
        connection: &mut SmoltcpConnection,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
    ) {
        if segment.flags.syn() {
            let theirs = segment.mss().filter(|mss| *mss != 0).unwrap_or(DEFAULT_MSS);
            connection.segment_size = theirs.min(self.mss());
        }
        if segment.flags.fin() {
            connection.fin_end = Some(segment.seq.wrapping_add(segment.seq_len()));
        }
        let plain;
        let mut bytes = segment.packet.bytes;
        if segment.packet.src.is_ipv6() && segment.packet.payload_at != self.ip_header_len {
            plain = without_extensions(segment, self.ip_header_len);
            bytes = &plain;
        }
        let mut device = Phy::new(
            &self.caps,
            Some(bytes),
            TxState::new(self, Some(connection), out),
        );
        interface.poll_ingress_single(to_smol(now), &mut device, &mut connection.set);
        connection.sent = device.tx.sent;
    }

    fn egress(
        &self,
        interface: &mut Interface,
        now: Instant,
        connection: &mut SmoltcpConnection,
        budget: usize,
        out: &mut impl Output,
    ) -> Emitted {
        let mut device = Phy::new(&self.caps, None, TxState::new(self, Some(connection), out));
        let mut emitted = Emitted::More;
        for _ in 0..budget {
            if interface.poll_egress(to_smol(now), &mut device, &mut connection.set)
                == PollResult::None
            {
                if !device.tx.starved {
                    emitted = Emitted::All;
                }
                break;
            }
        }
        connection.sent = device.tx.sent;
        emitted
    }
}

impl SmoltcpConnection {
    fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

impl Connection for SmoltcpConnection {
    fn state(&self) -> State {
        let socket = self.socket();
        match socket.state() {
            tcp::State::SynSent => State::SynSent,
            tcp::State::SynReceived => State::SynReceived,
            tcp::State::Established | tcp::State::CloseWait => State::Open,
            tcp::State::FinWait2 => State::FinWait2,
            tcp::State::TimeWait if Some(self.sent.rcv_nxt) == self.fin_end => State::TimeWait,
            // In TIME-WAIT, the acknowledgement of the peer's FIN may be delayed with that of data.
            tcp::State::FinWait1
            | tcp::State::Closing
            | tcp::State::LastAck
            | tcp::State::TimeWait => State::Closing,
            // An aborted socket remembers its peer until the RST is out.
            tcp::State::Closed if socket.remote_endpoint().is_some() => State::Aborting,
            // A reset in SYN-RECEIVED sends a passive socket back to LISTEN; listening is not its job.
            tcp::State::Closed | tcp::State::Listen => State::Closed,
        }
    }

    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> (usize, R)) -> Result<Option<R>, RecvEnd> {
        let socket = self.socket_mut();
        if socket.recv_queue() == 0 && socket.may_recv() {
            return Ok(None);
        }
        match socket.recv(|bytes| read(bytes)) {
            Ok(result) => Ok(Some(result)),
            Err(tcp::RecvError::Finished) => Err(RecvEnd::Finished),
            Err(tcp::RecvError::InvalidState) => match socket.state() {
                tcp::State::SynSent | tcp::State::SynReceived => Ok(None),
                _ => Err(RecvEnd::Dead),
            },
        }
    }

    fn send<R>(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> (usize, R),
    ) -> Result<Option<R>, SendClosed> {
        let socket = self.socket_mut();
        match socket.state() {
            tcp::State::SynSent | tcp::State::SynReceived => Ok(None),
            _ if socket.may_send() && !socket.can_send() => Ok(None),
            _ => socket.send(write).map(Some).map_err(|_| SendClosed),
        }
    }

    fn recv_queue(&self) -> usize {
        self.socket().recv_queue()
    }

    fn send_queue(&self) -> usize {
        self.socket().send_queue()
    }

    fn can_send(&self) -> bool {
        self.socket().can_send()
    }

    fn recv_finished(&self) -> bool {
        let socket = self.socket();
        !socket.may_recv()
            && !matches!(
                socket.state(),
                tcp::State::SynSent | tcp::State::SynReceived
            )
    }

    fn shutdown(&mut self) {
        self.socket_mut().close();
    }

    fn abort(&mut self) {
        self.socket_mut().abort();
    }

    fn set_nodelay(&mut self, nodelay: bool) {
        self.socket_mut().set_nagle_enabled(!nodelay);
    }

    fn sequence(&self) -> Sequence {
        self.sent
    }
}

/// The device smoltcp sees during one call: at most one packet to receive, and our output.
struct Phy<'a, O> {
    caps: &'a DeviceCapabilities,
    rx: Option<&'a [u8]>,
    tx: TxState<'a, O>,
}

struct TxState<'a, O> {
    out: &'a mut O,
    headers: Headers<'a>,
    sent: Sequence,
    /// smoltcp wanted to send and there was no slot.
    starved: bool,
}

impl<'a, O: Output> Phy<'a, O> {
    fn new(caps: &'a DeviceCapabilities, rx: Option<&'a [u8]>, tx: TxState<'a, O>) -> Self {
        Self { caps, rx, tx }
    }
}

impl<'a, O: Output> TxState<'a, O> {
    fn new(path: &'a Path, connection: Option<&SmoltcpConnection>, out: &'a mut O) -> Self {
        Self {
            out,
            headers: Headers {
                path,
                src: connection.map_or(UNSPECIFIED, |c| c.tuple.local.ip()),
                dst: connection.map_or(UNSPECIFIED, |c| c.tuple.remote.ip()),
                segment_size: connection.map_or(DEFAULT_MSS, |c| c.segment_size),
            },
            sent: connection.map_or(Sequence::default(), |c| c.sent),
            starved: false,
        }
    }
}

/// What is known of the headers of every packet of one connection.
struct Headers<'a> {
    path: &'a Path,
    src: IpAddr,
    dst: IpAddr,
    segment_size: u16,
}

impl Headers<'_> {
    fn outgoing(&self, len: usize) -> Outgoing {
        let start = self.path.ip_header_len as u16;
        // smoltcp puts options on SYNs only, so every packet that needs cutting has a plain header.
        let segment = (len > self.path.mtu).then(|| Segment {
            size: NonZeroU16::new(self.segment_size).unwrap_or(NonZeroU16::MIN),
            header_len: start + TCP_HEADER_LEN as u16,
        });
        Outgoing {
            dst: self.dst,
            len,
            checksum: Some(PartialChecksum {
                start,
                offset: TCP_CHECKSUM_AT,
            }),
            segment,
        }
    }

    /// Puts right what smoltcp could not know, and reads the sequence numbers it used.
    fn finish(&self, packet: &mut [u8]) -> Option<Sequence> {
        let tcp = packet.get_mut(self.path.ip_header_len..)?;
        let tcp_len = tcp.len();
        let header: &mut [u8; TCP_HEADER_LEN] = tcp.first_chunk_mut()?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (seq, ack, flags) = (word(4), word(8), TcpFlags::from_bits(header[13]));
        let data_len = tcp_len - usize::from(header[12] >> 4) * 4;
        let partial = checksum::partial(self.src, self.dst, protocol::TCP, tcp_len);
        header[16..18].copy_from_slice(&partial.to_be_bytes());
        // smoltcp writes the maximum segment size as the first option.
        if flags.syn()
            && let Some([2, 4, high, low]) = tcp.get_mut(20..24)
        {
            [*high, *low] = self.path.mss().to_be_bytes();
        }
        let seq_len = data_len as u32 + u32::from(flags.syn()) + u32::from(flags.fin());
        (!flags.rst()).then_some(Sequence {
            snd_nxt: seq.wrapping_add(seq_len),
            rcv_nxt: ack,
        })
    }
}

struct RxToken<'a>(&'a [u8]);

struct TxToken<'a, 'o, O>(&'a mut TxState<'o, O>);

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
        if self.tx.out.has_room() {
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
            written = result.map(|result| (result, state.headers.finish(bytes)));
        });
        match (written, emit) {
            (Some((result, sequence)), _) => {
                state.sent = sequence.unwrap_or(state.sent);
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
struct Nowhere;

impl Output for Nowhere {
    fn has_room(&self) -> bool {
        false
    }

    fn packet<R>(&mut self, _: Outgoing, _: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        None
    }
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

fn endpoint(address: SocketAddr) -> IpListenEndpoint {
    IpListenEndpoint {
        addr: Some(address.ip().into()),
        port: address.port(),
    }
}

fn to_smol(now: Instant) -> SmolInstant {
    SmolInstant::from_micros(now.as_micros() as i64)
}
