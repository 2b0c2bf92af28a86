//! ICMP errors brought to whom they concern. Anybody can send one: each is checked against what was
//! really sent (RFC 5927) before it changes anything.

use std::net::SocketAddr;

use crate::core::Core;
use crate::icmp::{IcmpError, IcmpErrorKind};
use crate::packet::{Tuple, protocol};
use crate::path_mtu;
use crate::stats::DropReason;

impl Core {
    /// An error that quotes a packet from an address of ours.
    pub(crate) fn on_icmp_error(&mut self, error: &IcmpError) -> Result<(), DropReason> {
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
                protocol::UDP => self.udp.check_sent(&tuple).or_else(|_| {
                    let port = Some(quoted.src_port);
                    self.attachments.check_sent(protocol::UDP, port, tuple.remote)
                })?,
                protocol::ICMP | protocol::ICMPV6 => self.pings.check_sent(quoted)?,
                number => self.raw.check_sent(number, quoted.dst).or_else(|_| {
                    let dst = SocketAddr::new(quoted.dst, 0);
                    self.attachments.check_sent(number, None, dst)
                })?,
            }
            self.net.path_mtus.lower(self.now, quoted.dst, mtu);
            return Ok(());
        }
        match quoted.protocol {
            protocol::TCP => self.tcp.on_icmp_error(&tuple, error),
            protocol::UDP => self.udp.on_icmp_error(&tuple, error.kind, &mut self.wakes),
            _ => Err(DropReason::IcmpIgnored),
        }
    }
}
