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

mod connection;
mod meter;
mod path;
mod phy;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::IpListenEndpoint;
use underpass_devices::{Caps, Instant};

use self::connection::SmoltcpConnection;
use self::meter::Meter;
use self::path::Family;
use super::engine::{Connection, Emitted, Engine, Open, State};
use crate::isn::smoltcp_seed;
use crate::output::Output;
use crate::packet::{TcpSegment, Tuple};

const TCP_HEADER_LEN: usize = 20;
/// Maximum segment size of a peer that names none (RFC 9293 §3.7.1).
const DEFAULT_MSS: u16 = 536;
/// Least segment size a peer can ask for, as in smoltcp and Linux: less would make one frame tens of
/// thousands of packets (CVE-2019-11479).
const MIN_MSS: u16 = 48;
/// Unacknowledged data or FIN for this long ends the connection (RFC 9293 §3.8.3: R2 ≥ 100 s).
const USER_TIMEOUT: SmolDuration = SmolDuration::from_secs(120);
/// Delayed acknowledgement of single segments (RFC 9293 §3.8.6.3 allows up to 500 ms): an answer to
/// ride on comes soon or not at all, and the connection may still be in the cache.
const ACK_DELAY: SmolDuration = SmolDuration::from_millis(1);
/// The longest IPv4 packet in bytes. A superframe may be as long whether the device cuts it or the
/// link does (a tenth less speed with a quarter of it).
const MAX_PACKET: usize = 65_535;
/// Connections kept for reuse.
const POOL: usize = 1024;

/// The engine of one shard.
pub(crate) struct SmoltcpEngine {
    /// One per network interface, in their order.
    families: Vec<Families>,
    send_buffer: usize,
    recv_buffer: usize,
    pool: Vec<SmoltcpConnection>,
}

/// Both IP versions on one network interface.
struct Families {
    caps: Caps,
    v4: Family,
    v6: Family,
}

impl Families {
    fn new(caps: &Caps) -> Self {
        let family = |ip_header_len: usize, frame: Option<usize>| {
            let headers = ip_header_len + TCP_HEADER_LEN;
            let segment = caps.mtu - headers;
            let cut_by_us = headers + (MAX_PACKET - headers) / segment * segment;
            let longest =
                frame.map_or(cut_by_us, |frame| frame.min(MAX_PACKET) - caps.header_len());
            Family::new(ip_header_len, caps.mtu, longest.max(caps.mtu), frame.is_some())
        };
        let (v4, v6) = (family(20, caps.tx_segment_tcp4), family(40, caps.tx_segment_tcp6));
        Self { caps: caps.clone(), v4, v6 }
    }
}

impl SmoltcpEngine {
    /// An engine for devices with `caps`, one per network interface; buffer sizes in bytes per
    /// connection.
    pub(crate) fn new(caps: &[Caps], send_buffer: usize, recv_buffer: usize) -> Self {
        let families = caps.iter().map(Families::new).collect();
        Self { families, send_buffer, recv_buffer, pool: Vec::new() }
    }

    fn family(&mut self, interface: usize, address: IpAddr) -> &mut Family {
        let families = &mut self.families[interface];
        match address {
            IpAddr::V4(_) => &mut families.v4,
            IpAddr::V6(_) => &mut families.v6,
        }
    }

    fn take(&mut self, tuple: Tuple, open: &Open<'_>) -> SmoltcpConnection {
        let Open { interface, options, .. } = *open;
        let path = &self.family(interface, tuple.remote.ip()).path;
        let segment_size = path.mss().min(DEFAULT_MSS);
        let sizes = (
            options.send_buffer.unwrap_or(self.send_buffer),
            options.recv_buffer.unwrap_or(self.recv_buffer),
        );
        let pooled = if sizes == self.buffer_sizes() { self.pool.pop() } else { None };
        let mut connection = pooled.unwrap_or_else(|| {
            let mut set = SocketSet::new(Vec::with_capacity(1));
            let handle = set.add(Socket::new(
                SocketBuffer::new(vec![0; sizes.1]),
                SocketBuffer::new(vec![0; sizes.0]),
            ));
            SmoltcpConnection {
                set,
                handle,
                tuple,
                interface,
                segment_size,
                path_mss: u16::MAX,
                may_fragment: false,
                traffic_class: 0,
                user_timeout: USER_TIMEOUT,
                meter: Meter::default(),
                fin_end: None,
            }
        });
        connection.tuple = tuple;
        connection.interface = interface;
        connection.segment_size = segment_size;
        connection.meter = Meter::new(open.isn);
        connection.fin_end = None;
        connection.set_path_mtu(open.path_mtu);
        connection.configure(options);
        let socket = connection.socket_mut();
        socket.abort();
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_timeout(None);
        connection
    }

    fn buffer_sizes(&self) -> (usize, usize) {
        (self.send_buffer, self.recv_buffer)
    }
}

impl Engine for SmoltcpEngine {
    type Connection = SmoltcpConnection;

    fn connect(&mut self, now: Instant, tuple: Tuple, open: &Open<'_>) -> SmoltcpConnection {
        let mut connection = self.take(tuple, open);
        let path = &self.family(open.interface, tuple.remote.ip()).path;
        let mut seeded = path.interface(now, smoltcp_seed(open.isn));
        // The shard has checked that both ends are unicast addresses of one version with ports.
        let result =
            connection.socket_mut().connect(seeded.context(), tuple.remote, endpoint(tuple.local));
        debug_assert_eq!(result, Ok(()));
        connection
    }

    fn on_syn(&mut self, now: Instant, syn: &TcpSegment<'_>, open: &Open<'_>) -> SmoltcpConnection {
        let mut connection = self.take(syn.tuple, open);
        let listening = connection.socket_mut().listen(endpoint(syn.tuple.local));
        debug_assert_eq!(listening, Ok(()));
        let path = &self.family(open.interface, syn.tuple.remote.ip()).path;
        let mut seeded = path.interface(now, smoltcp_seed(open.isn));
        path.ingress(&mut seeded, now, &mut connection, syn, &mut phy::Nowhere);
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
        connection.socket_mut().set_ack_delay((!coalesced).then_some(ACK_DELAY));
        let family = self.family(connection.interface, connection.tuple.remote.ip());
        family.path.ingress(&mut family.interface, now, connection, segment, out);
    }

    fn emit(
        &mut self,
        now: Instant,
        connection: &mut SmoltcpConnection,
        budget: usize,
        out: &mut impl Output,
    ) -> Emitted {
        // There is nothing to send any more; but in ten seconds smoltcp would forget what has not been
        // read. How long TIME-WAIT lasts is the flow table's matter.
        if connection.state() == State::TimeWait {
            return Emitted::Until(None);
        }
        // smoltcp counts idle time towards this timeout, so it is on only while an answer is due.
        let waiting = connection.send_queue() > 0 || connection.state() == State::Closing;
        let user_timeout = connection.user_timeout;
        connection.socket_mut().set_timeout(waiting.then_some(user_timeout));
        let family = self.family(connection.interface, connection.tuple.remote.ip());
        family.path.egress(&mut family.interface, now, connection, budget, out)
    }

    fn on_path_mtu(
        &mut self,
        now: Instant,
        connection: &mut SmoltcpConnection,
        mtu: usize,
    ) -> bool {
        let before = connection.segment_size;
        connection.set_path_mtu(mtu);
        if connection.segment_size == before {
            return false;
        }
        let family = self.family(connection.interface, connection.tuple.remote.ip());
        family.path.rewind(&mut family.interface, now, connection);
        true
    }

    fn next_timer(&mut self, now: Instant, connection: &SmoltcpConnection) -> Option<Instant> {
        let family = self.family(connection.interface, connection.tuple.remote.ip());
        path::next_poll(&mut family.interface, now, &connection.set)
    }

    fn set_mtu(&mut self, interface: usize, mtu: usize) {
        let families = &mut self.families[interface];
        if families.caps.mtu != mtu {
            *families = Families::new(&Caps { mtu, ..families.caps.clone() });
        }
    }

    fn recycle(&mut self, connection: SmoltcpConnection) {
        let socket = connection.socket();
        let sizes = (socket.send_capacity(), socket.recv_capacity());
        if self.pool.len() < POOL && sizes == self.buffer_sizes() {
            self.pool.push(connection);
        }
    }
}

fn endpoint(address: SocketAddr) -> IpListenEndpoint {
    IpListenEndpoint { addr: Some(address.ip().into()), port: address.port() }
}

fn to_smol(now: Instant) -> SmolInstant {
    SmolInstant::from_micros(now.as_micros() as i64)
}
