//! What arrives from the network.

use std::io;
use std::task::Waker;

use underpass_devices::Instant;

use super::{FlowRoute, Role, Tcp};
use crate::icmp::{IcmpError, IcmpErrorKind};
use crate::output::Output;
use crate::packet::{TcpSegment, Tuple};
use crate::stats::DropReason;
use crate::tcp::engine::{Connection, Engine, Open, State};
use crate::tcp::reset;
use crate::time_wait::TimeWaitAction;

/// The most one segment can hold.
const MAX_SEGMENT: u32 = 65_535;

impl<E: Engine> Tcp<E> {
    /// A checked segment to an address of ours.
    pub(crate) fn on_segment(
        &mut self,
        now: Instant,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        self.now = now;
        match self.find_recent(&segment.tuple) {
            Some(id) => self.on_flow_segment(id, segment, out, wakes),
            None => self.on_unknown_segment(segment, out),
        }
    }

    fn on_flow_segment(
        &mut self,
        id: u32,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        let flow = &mut self.flows[id as usize];
        // A full accept queue leaves the peer in the handshake, as Linux does: its acknowledgement
        // is not taken, the SYN-ACK is repeated.
        if let Role::HalfOpen(listener) = flow.role
            && !segment.flags.rst()
            && self.listeners.get_mut(listener).is_some_and(|l| l.is_full())
        {
            return Err(DropReason::AcceptQueueFull);
        }
        if segment.flags.rst() || segment.flags.syn() {
            self.check_blind(id, segment, out)?;
        }
        let flow = &mut self.flows[id as usize];
        flow.hear(self.now);
        let before = flow.connection.state();
        self.engine.on_segment(self.now, &mut flow.connection, segment, out);
        if segment.flags.rst() && flow.connection.state() == State::Closed {
            let refused = before == State::SynSent;
            flow.fail(if refused {
                io::ErrorKind::ConnectionRefused
            } else {
                io::ErrorKind::ConnectionReset
            });
            self.counters.failures += 1;
        }
        if let Role::HalfOpen(listener) = flow.role {
            self.leave_handshake(id, listener, wakes);
        }
        self.mark_dirty(id);
        Ok(())
    }

    fn on_unknown_segment(
        &mut self,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let flags = segment.flags;
        let previous = match self.time_wait.on_segment(self.now, segment) {
            Some(TimeWaitAction::Ack { seq, ack }) => {
                reset::acknowledge(segment, seq, ack, u16::MAX, out);
                return Ok(());
            }
            Some(TimeWaitAction::Ignore) => return Err(DropReason::TimeWait),
            Some(TimeWaitAction::Reopen { snd_nxt }) => Some(snd_nxt),
            None => None,
        };
        let is_syn = flags.syn() && !flags.ack() && !flags.rst() && !flags.fin();
        let listener = is_syn.then(|| self.listeners.find(segment.tuple.local)).flatten();
        if let Some(listener) = listener {
            let remote = segment.tuple.remote.ip();
            let interface = out.interface_to(remote).ok_or(DropReason::NoRoute)?;
            let path_mtu = out.path_mtu(remote);
            let route = FlowRoute { interface, path_mtu, tuple: segment.tuple };
            return self.on_syn(listener, &route, segment, previous);
        }
        reset::reset(segment, out);
        Err(if is_syn { DropReason::TcpClosedPort } else { DropReason::TcpNoFlow })
    }

    fn on_syn(
        &mut self,
        listener: u32,
        route: &FlowRoute,
        syn: &TcpSegment<'_>,
        previous: Option<u32>,
    ) -> Result<(), DropReason> {
        let Some(options) =
            self.listeners.get_mut(listener).filter(|l| !l.is_full()).map(|l| l.options.clone())
        else {
            return Err(DropReason::AcceptQueueFull);
        };
        if self.half_open >= self.limits.half_open {
            return Err(DropReason::HalfOpenFull);
        }
        if self.flows.len() >= self.limits.flows {
            return Err(DropReason::FlowsFull);
        }
        let isn = self.isn_after(previous, &syn.tuple);
        let FlowRoute { interface, path_mtu, .. } = *route;
        let open = Open { interface, isn, path_mtu, options: &options };
        let connection = self.engine.on_syn(self.now, syn, &open);
        if connection.state() == State::Closed {
            self.engine.recycle(connection);
            return Err(DropReason::MalformedTcp);
        }
        self.half_open += 1;
        let patience = self.limits.half_open_time;
        self.insert(connection, syn.tuple, Role::HalfOpen(listener), patience, &options);
        Ok(())
    }

    /// An initial sequence number; beyond what the `previous` incarnation may have sent (RFC 6191).
    pub(super) fn isn_after(&mut self, previous: Option<u32>, tuple: &Tuple) -> u32 {
        let isn = self.isn.isn(self.now, tuple.local, tuple.remote);
        match previous {
            Some(snd_nxt) if isn.wrapping_sub(snd_nxt) as i32 <= 0 => {
                snd_nxt.wrapping_add(MAX_SEGMENT)
            }
            _ => isn,
        }
    }

    /// A router reports that a segment of ours, which began at `seq`, is longer than the `mtu` of
    /// its next link. An error is only a reason to do something if that segment is in flight
    /// (RFC 5927 §7.2).
    pub(crate) fn on_too_big(
        &mut self,
        tuple: &Tuple,
        seq: Option<u32>,
        mtu: usize,
    ) -> Result<(), DropReason> {
        let id = self.find(tuple).ok_or(DropReason::IcmpNoFlow)?;
        let connection = &mut self.flows[id as usize].connection;
        if !seq.is_some_and(|seq| connection.is_in_flight(seq)) {
            return Err(DropReason::IcmpNotInFlight);
        }
        if !self.engine.on_path_mtu(self.now, connection, mtu) {
            return Err(DropReason::IcmpIgnored);
        }
        self.mark_dirty(id);
        Ok(())
    }

    /// An ICMP error that quotes a segment of ours. Only a connection attempt is ended by one, and
    /// only if the quoted sequence number is that of its SYN (RFC 5927 §4, §5.2).
    pub(crate) fn on_icmp_error(
        &mut self,
        tuple: &Tuple,
        error: &IcmpError<'_>,
    ) -> Result<(), DropReason> {
        let id = self.find(tuple).ok_or(DropReason::IcmpNoFlow)?;
        let flow = &mut self.flows[id as usize];
        let syn = flow.connection.sequence().snd_nxt.wrapping_sub(1);
        if flow.connection.state() != State::SynSent || error.quoted.tcp_seq != Some(syn) {
            return Err(DropReason::IcmpIgnored);
        }
        let kind = match error.kind {
            IcmpErrorKind::PortUnreachable | IcmpErrorKind::ProtocolUnreachable => {
                io::ErrorKind::ConnectionRefused
            }
            IcmpErrorKind::NetUnreachable => io::ErrorKind::NetworkUnreachable,
            IcmpErrorKind::HostUnreachable | IcmpErrorKind::AdminProhibited => {
                io::ErrorKind::HostUnreachable
            }
            _ => return Err(DropReason::IcmpIgnored),
        };
        self.give_up(id, kind);
        Ok(())
    }

    /// The next hop of a packet of this flow does not answer.
    pub(crate) fn on_unreachable(&mut self, tuple: &Tuple) {
        if let Some(id) = self.find(tuple)
            && self.flows[id as usize].connection.state() == State::SynSent
        {
            self.give_up(id, io::ErrorKind::HostUnreachable);
        }
    }
}
