use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, Socket};
use smoltcp::time::Duration as SmolDuration;

use super::meter::{Meter, is_before};
use super::{TCP_HEADER_LEN, USER_TIMEOUT};
use crate::ip_header::ip_header_len;
use crate::packet::Tuple;
use crate::path_mtu;
use crate::tcp::engine::{Connection, RecvEnd, SendClosed, Sequence, State};
use crate::tcp::info::{TcpInfo, TcpState};
use crate::tcp::options::TcpOptions;

/// One smoltcp socket in a set of its own.
pub(crate) struct SmoltcpConnection {
    pub(super) set: SocketSet<'static>,
    pub(super) handle: SocketHandle,
    pub(super) tuple: Tuple,
    /// The interface its packets leave by.
    pub(super) interface: usize,
    /// Payload per packet on the wire: the least of both ends' maximum segment sizes and what the
    /// path takes.
    pub(super) segment_size: u16,
    /// Most that `segment_size` may be on this path.
    pub(super) path_mss: u16,
    /// Packets are so small that any link takes them or has to cut them.
    pub(super) may_fragment: bool,
    pub(super) traffic_class: u8,
    pub(super) user_timeout: SmolDuration,
    pub(super) meter: Meter,
    /// Sequence number behind the peer's FIN.
    pub(super) fin_end: Option<u32>,
}

impl SmoltcpConnection {
    pub(super) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    /// First sequence number not acknowledged, the FIN's left aside.
    pub(super) fn una(&self) -> u32 {
        match self.socket().state() {
            tcp::State::SynSent | tcp::State::SynReceived => self.meter.written.wrapping_sub(1),
            _ => self.meter.written.wrapping_sub(self.send_queue() as u32),
        }
    }

    /// Lets packets have `mtu` bytes at most.
    pub(super) fn set_path_mtu(&mut self, mtu: usize) {
        let dst = self.tuple.remote.ip();
        let mss = mtu.saturating_sub(ip_header_len(dst) + TCP_HEADER_LEN);
        self.path_mss = u16::try_from(mss).unwrap_or(u16::MAX);
        self.segment_size = self.segment_size.min(self.path_mss);
        self.may_fragment = mtu <= path_mtu::minimum(dst);
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

impl Connection for SmoltcpConnection {
    fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    fn state(&self) -> State {
        let socket = self.socket();
        match socket.state() {
            tcp::State::SynSent => State::SynSent,
            tcp::State::SynReceived => State::SynReceived,
            tcp::State::Established | tcp::State::CloseWait => State::Open,
            tcp::State::FinWait2 => State::FinWait2,
            tcp::State::TimeWait if Some(self.meter.sent.rcv_nxt) == self.fin_end => {
                State::TimeWait
            }
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
        let mut taken = 0;
        let result = socket.recv(|bytes| {
            let (len, result) = read(bytes);
            taken = len as u32;
            (len, result)
        });
        self.meter.unread = self.meter.unread.wrapping_add(taken);
        match result {
            Ok(result) => Ok(Some(result)),
            Err(tcp::RecvError::Finished) => Err(RecvEnd::Finished),
            Err(tcp::RecvError::InvalidState) => match self.socket().state() {
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
            _ => {
                let mut written = 0;
                let result = socket.send(|space| {
                    let (len, result) = write(space);
                    written = len as u32;
                    (len, result)
                });
                self.meter.written = self.meter.written.wrapping_add(written);
                result.map(Some).map_err(|_| SendClosed)
            }
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
            && !matches!(socket.state(), tcp::State::SynSent | tcp::State::SynReceived)
    }

    fn shutdown(&mut self) {
        self.socket_mut().close();
    }

    fn abort(&mut self) {
        self.socket_mut().abort();
    }

    fn configure(&mut self, options: &TcpOptions) {
        self.traffic_class = options.traffic_class;
        self.user_timeout = options.user_timeout.map_or(USER_TIMEOUT, |timeout| {
            let micros = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
            // smoltcp adds it to the time, in signed microseconds.
            SmolDuration::from_micros(micros.clamp(1, i64::MAX as u64 / 4))
        });
        let socket = self.socket_mut();
        socket.set_nagle_enabled(!options.nodelay);
        socket.set_hop_limit(Some(options.hop_limit.max(1)));
    }

    fn probe(&mut self) {
        // Switching keep-alive on makes a probe due at once, and off lets it be the only one.
        let socket = self.socket_mut();
        socket.set_keep_alive(Some(SmolDuration::from_secs(1)));
        socket.set_keep_alive(None);
    }

    fn info(&self) -> TcpInfo {
        let socket = self.socket();
        let in_flight = self.meter.sent_max.wrapping_sub(self.una()) as usize;
        let rtt = self.meter.rtt();
        TcpInfo {
            state: match socket.state() {
                tcp::State::SynSent => TcpState::SynSent,
                tcp::State::SynReceived => TcpState::SynReceived,
                tcp::State::Established => TcpState::Established,
                tcp::State::FinWait1 => TcpState::FinWait1,
                tcp::State::FinWait2 => TcpState::FinWait2,
                tcp::State::CloseWait => TcpState::CloseWait,
                tcp::State::Closing => TcpState::Closing,
                tcp::State::LastAck => TcpState::LastAck,
                tcp::State::TimeWait => TcpState::TimeWait,
                tcp::State::Closed | tcp::State::Listen => TcpState::Closed,
            },
            rtt: rtt.map(|(smoothed, _)| smoothed),
            rtt_variation: rtt.map(|(_, variation)| variation),
            retransmissions: self.meter.retransmissions,
            mss: self.segment_size,
            // SYN and FIN are in flight as well, but are no bytes.
            in_flight: in_flight.min(socket.send_queue()),
            unsent: socket.send_queue().saturating_sub(in_flight),
            unread: socket.recv_queue(),
            send_window: self.meter.peer_window as usize,
            recv_window: socket.recv_capacity() - socket.recv_queue(),
            send_buffer: socket.send_capacity(),
            recv_buffer: socket.recv_capacity(),
        }
    }

    fn is_in_flight(&self, seq: u32) -> bool {
        let over = matches!(self.state(), State::FinWait2 | State::TimeWait);
        let over = over || self.state().has_ended();
        !over && !is_before(seq, self.una()) && is_before(seq, self.meter.sent_max)
    }

    fn recv_window(&self) -> (u32, u32) {
        let socket = self.socket();
        let unread = socket.recv_queue();
        let next = self.fin_end.unwrap_or(self.meter.unread.wrapping_add(unread as u32));
        (next, (socket.recv_capacity() - unread) as u32)
    }

    fn last_window(&self) -> u16 {
        self.meter.sent_window
    }

    fn sequence(&self) -> Sequence {
        self.meter.sent
    }
}
