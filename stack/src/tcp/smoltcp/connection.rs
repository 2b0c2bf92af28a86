use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, Socket};

use crate::packet::Tuple;
use crate::tcp::engine::{Connection, RecvEnd, SendClosed, Sequence, State};

/// One smoltcp socket in a set of its own.
pub(crate) struct SmoltcpConnection {
    pub(super) set: SocketSet<'static>,
    pub(super) handle: SocketHandle,
    pub(super) tuple: Tuple,
    /// The interface its packets leave by.
    pub(super) interface: usize,
    /// Payload per packet on the wire: the smaller of both ends' maximum segment sizes.
    pub(super) segment_size: u16,
    pub(super) sent: Sequence,
    /// Sequence number behind the peer's FIN.
    pub(super) fin_end: Option<u32>,
}

impl SmoltcpConnection {
    pub(super) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
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
            && !matches!(socket.state(), tcp::State::SynSent | tcp::State::SynReceived)
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
