//! ICMP messages: pings answered and heard, errors brought to whom they concern, and our own.

use std::net::IpAddr;

use underpass_devices::TxQueue;

use super::{Arrival, Core};
use crate::icmp::{self, Echo, EchoKind, IcmpMessage, Unreachable};
use crate::link::Out;
use crate::output::{Outgoing, Output};
use crate::packet::Packet;
use crate::ping::EchoReply;
use crate::stats::DropReason;

impl Core {
    pub(super) fn on_icmp(
        &mut self,
        packet: &Packet<'_>,
        unicast: bool,
        arrival: Arrival,
        tx: &mut [impl TxQueue],
    ) -> Result<(), DropReason> {
        match icmp::receive(packet)? {
            IcmpMessage::EchoRequest(echo) => {
                // Pings of groups go unanswered, as Linux does for IPv4 by default.
                if !unicast || !icmp::may_answer_echo(packet) {
                    return Err(DropReason::IcmpIgnored);
                }
                let mut out = Out { now: self.now, net: &mut self.net, tx };
                send_echo(packet.dst, packet.src, EchoKind::Reply, &echo, &mut out);
                Ok(())
            }
            IcmpMessage::EchoReply(echo) => {
                let reply = EchoReply {
                    from: packet.src,
                    seq: echo.seq,
                    hop_limit: packet.hop_limit,
                    payload: echo.payload.to_vec(),
                };
                self.pings.on_reply(echo.ident, reply, &mut self.wakes)
            }
            IcmpMessage::Error(error) => self.on_icmp_error(&error),
            IcmpMessage::Other => {
                let mut out = Out { now: self.now, net: &mut self.net, tx };
                out.on_mld(arrival.interface, packet)
            }
        }
    }

    /// Tells the sender that nobody here takes its packet, if that is allowed.
    pub(super) fn refuse(
        &mut self,
        packet: &Packet<'_>,
        arrival: Arrival,
        why: Unreachable,
        tx: &mut [impl TxQueue],
    ) {
        if !self.net.routes.is_own(packet.dst)
            || !icmp::may_answer_error(packet, arrival.is_to_group())
        {
            return;
        }
        if !self.errors.allow(self.now) {
            return self.net.drop(DropReason::RateLimited);
        }
        let len = icmp::unreachable_len(packet);
        let outgoing =
            Outgoing { dst: packet.src, len, checksum: None, segment: None, dont_fragment: false };
        let mut out = Out { now: self.now, net: &mut self.net, tx };
        out.packet(outgoing, |bytes| {
            icmp::write_unreachable(bytes, packet, why);
        });
    }
}

pub(super) fn send_echo(
    src: IpAddr,
    dst: IpAddr,
    kind: EchoKind,
    echo: &Echo<'_>,
    out: &mut impl Output,
) {
    let len = icmp::echo_len(dst, echo.payload.len());
    let outgoing = Outgoing { dst, len, checksum: None, segment: None, dont_fragment: false };
    out.packet(outgoing, |bytes| {
        icmp::write_echo(bytes, src, dst, kind, echo);
    });
}
