//! What a wire protocol is.

use std::any::Any;

use underpass_devices::Instant;

use crate::header::HeaderError;
use crate::{Incoming, Outbox, Undelivered};

/// A wire protocol as a state machine: it is handed frames and the time, and says what to send. It does
/// no I/O and reads no clock, so that it can be tested in virtual time and fuzzed without a network.
///
/// A stack runs it beside TCP (`Stack::attach` of crate `underpass`), on one shard, whose thread makes
/// all calls: they must not block. In one call a protocol may send at most 64 frames; the next one is
/// [`Full`](crate::SendError::Full).
///
/// What a protocol keeps must be bounded: what does not fit is refused.
pub trait Protocol: Any + Send {
    /// A frame that its selector matches. It is lent where the device wrote it, until this returns; an
    /// answer can be sent while it is.
    ///
    /// # Errors
    /// The frame is malformed, or there is no room for what it brings. It is dropped and counted.
    fn on_frame(
        &mut self,
        now: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused>;

    /// Sends what is ready, and does what is due at `now`.
    ///
    /// This is called once after frames have come, after the application has had its hands on the
    /// protocol, at the time of [`poll_timeout`](Self::poll_timeout), and again in the next turn when
    /// there was no room: a protocol keeps what it could not send.
    fn poll_transmit(&mut self, now: Instant, out: &mut Outbox<'_>);

    /// When [`poll_transmit`](Self::poll_transmit) is to be called if nothing happens before. It is asked
    /// after every call of one of the others. `None`: never.
    fn poll_timeout(&self) -> Option<Instant>;

    /// A packet did not arrive. Anybody can say so: the stack has made sure that this protocol has lately
    /// sent to that peer (one of the eight newest), the rest is for the protocol to check (RFC 5927). If
    /// it takes the report, the application is woken. Packets that were too long are not reported: the
    /// next ones will be cut.
    ///
    /// # Errors
    /// The report is not taken, as without this method.
    fn on_undelivered(&mut self, _now: Instant, _report: &Undelivered<'_>) -> Result<(), Refused> {
        Err(Refused)
    }
}

/// A protocol does not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the protocol does not take this frame")]
pub struct Refused;

impl From<HeaderError> for Refused {
    fn from(_: HeaderError) -> Self {
        Self
    }
}
