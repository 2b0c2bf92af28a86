//! Segments that a stranger may have sent without seeing the connection (RFC 5961).

use super::Tcp;
use crate::output::Output;
use crate::packet::TcpSegment;
use crate::stats::DropReason;
use crate::tcp::engine::{Connection, Engine, State};
use crate::tcp::reset;

impl<E: Engine> Tcp<E> {
    /// Refuses a reset that is not exactly at the sequence number expected next, and a SYN for a
    /// connection that is there. The peer, if it was the peer, answers the acknowledgement it gets
    /// for it with a reset that is exact (RFC 5961 §3.2, §4.2).
    pub(super) fn check_blind(
        &mut self,
        id: u32,
        segment: &TcpSegment<'_>,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let flow = &mut self.flows[id as usize];
        let state = flow.connection.state();
        let opening = matches!(state, State::SynSent)
            || (state == State::SynReceived && !segment.flags.rst());
        if opening || state.has_ended() {
            return Ok(());
        }
        let reason = if segment.flags.rst() {
            let (next, window) = flow.connection.recv_window();
            match segment.seq.wrapping_sub(next) {
                0 => return Ok(()),
                ahead if ahead < window => DropReason::TcpReset,
                _ => return Err(DropReason::TcpReset),
            }
        } else {
            DropReason::TcpSyn
        };
        if !flow.may_challenge(self.now) {
            return Err(DropReason::RateLimited);
        }
        let sent = flow.connection.sequence();
        let window = flow.connection.last_window();
        reset::acknowledge(segment, sent.snd_nxt, sent.rcv_nxt, window, out);
        Err(reason)
    }
}
