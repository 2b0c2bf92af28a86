//! ICMP errors brought to whom they concern. Anybody can send one: each is checked against what was
//! really sent (RFC 5927) before it changes anything.

use std::net::SocketAddr;

use underpass_protocols::{Peer, Reason, Undelivered};

use crate::core::Core;
use crate::icmp::{IcmpError, IcmpErrorKind};
use crate::packet::{Tuple, protocol};
use crate::path_mtu;
use crate::stats::DropReason;
use crate::udp;

impl Core {
    /// An error that quotes a packet from an address of ours.
    pub(crate) fn on_icmp_error(&mut self, error: &IcmpError<'_>) -> Result<(), DropReason> {
        let quoted = &error.quoted;
        let tuple = Tuple {
            local: SocketAddr::new(quoted.src, quoted.src_port),
            remote: SocketAddr::new(quoted.dst, quoted.dst_port),
        };
        if let IcmpErrorKind::PacketTooBig { mtu } = error.kind {
            let mtu = path_mtu::reported(quoted.dst, mtu, quoted.len);
            let mtu = mtu.ok_or(DropReason::IcmpIgnored)?;
            match quoted.protocol {
                protocol::TCP => self.tcp.on_too_big(&tuple, quoted.tcp_seq, mtu)?,
                protocol::UDP => self.udp.check_sent(&tuple).or_else(|reason| {
                    let port = Some(quoted.src_port);
                    let sender = self.attachments.find_sender(protocol::UDP, port, tuple.remote);
                    sender.map(drop).ok_or(reason)
                })?,
                protocol::ICMP | protocol::ICMPV6 => self.pings.check_sent(quoted)?,
                number => self.raw.check_sent(number, quoted.dst).or_else(|reason| {
                    let dst = SocketAddr::new(quoted.dst, 0);
                    self.attachments.find_sender(number, None, dst).map(drop).ok_or(reason)
                })?,
            }
            self.net.path_mtus.lower(self.now, quoted.dst, mtu);
            return Ok(());
        }
        match quoted.protocol {
            protocol::TCP => self.tcp.on_icmp_error(&tuple, error),
            protocol::UDP => {
                let port = Some(quoted.src_port);
                match self.attachments.find_sender(protocol::UDP, port, tuple.remote) {
                    Some(id) => {
                        let payload = quoted.transport.get(udp::HEADER_LEN..).unwrap_or_default();
                        self.tell(id, error, Peer::Port(tuple.remote), payload)
                    }
                    None => self.udp.on_icmp_error(&tuple, error.kind, &mut self.wakes),
                }
            }
            number => {
                let dst = SocketAddr::new(quoted.dst, 0);
                let id = self.attachments.find_sender(number, None, dst);
                let id = id.ok_or(DropReason::IcmpIgnored)?;
                self.tell(id, error, Peer::Host(quoted.dst), quoted.transport)
            }
        }
    }

    /// Tells a custom protocol.
    fn tell(
        &mut self,
        id: u32,
        error: &IcmpError<'_>,
        to: Peer,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let why = match error.kind {
            IcmpErrorKind::PortUnreachable | IcmpErrorKind::ProtocolUnreachable => Reason::Refused,
            IcmpErrorKind::HostUnreachable | IcmpErrorKind::NetUnreachable => Reason::Unreachable,
            IcmpErrorKind::AdminProhibited => Reason::Prohibited,
            IcmpErrorKind::TimeExceeded => Reason::HopLimit,
            IcmpErrorKind::ParameterProblem => Reason::BadHeader,
            IcmpErrorKind::PacketTooBig { .. } => return Err(DropReason::IcmpIgnored),
        };
        let report = Undelivered { by: error.from, to, why, payload };
        self.attachments.on_undelivered(id, self.now, &report, &mut self.wakes)
    }
}
