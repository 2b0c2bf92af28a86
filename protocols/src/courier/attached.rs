use std::ops::{Deref, DerefMut};

use underpass_devices::Instant;

use super::{Call, Config, Courier, Refused, RequestId, Unanswered};
use crate::{Incoming, Outbox, Peer, Protocol, SendError};

/// Packets of one call of [`Protocol::poll_transmit`].
const BURST: usize = 64;

/// A [`Courier`] as a [`Protocol`], to be attached to a UDP port, an IP protocol or an EtherType: the
/// methods of the courier, without the time where the application does not know it.
///
/// [`Config::packet_bytes`] must fit into the frames of the link: a packet that is too long for its way
/// is lost.
#[derive(Debug)]
pub struct Attached {
    courier: Courier<Peer>,
    /// Something was queued since the stack told the time.
    undated: bool,
}

impl Attached {
    /// As [`Courier::new`].
    pub fn new(config: Config, secret: [u8; 16]) -> Self {
        Self { courier: Courier::new(config, secret), undated: false }
    }

    /// As [`Courier::send_request`], now.
    ///
    /// # Errors
    /// Nothing was sent; the body comes back.
    pub fn send_request(&mut self, to: Peer, body: Vec<u8>) -> Result<RequestId, Refused> {
        self.undated = true;
        self.courier.send_request(self.courier.clock, to, body)
    }

    /// As [`Courier::send`], now.
    ///
    /// # Errors
    /// Nothing was sent; the body comes back.
    pub fn send(&mut self, to: Peer, body: Vec<u8>) -> Result<(), Refused> {
        self.undated = true;
        self.courier.send(self.courier.clock, to, body)
    }

    /// As [`Courier::respond`], now.
    ///
    /// # Errors
    /// Nothing was sent; call and body come back.
    pub fn respond(&mut self, call: Call, body: Vec<u8>) -> Result<(), Unanswered> {
        self.undated = true;
        self.courier.respond(self.courier.clock, call, body)
    }
}

/// What needs no time.
impl Deref for Attached {
    type Target = Courier<Peer>;

    fn deref(&self) -> &Courier<Peer> {
        &self.courier
    }
}

impl DerefMut for Attached {
    fn deref_mut(&mut self) -> &mut Courier<Peer> {
        &mut self.courier
    }
}

impl Protocol for Attached {
    /// What is wrong with a packet is counted by the courier ([`Courier::counters`]).
    fn on_frame(
        &mut self,
        now: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), crate::Refused> {
        self.date(now);
        self.courier.on_packet(now, frame.from, frame.payload);
        if self.courier.has_events() {
            out.notify();
        }
        Ok(())
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Outbox<'_>) {
        self.date(now);
        self.courier.on_timer(now);
        self.courier.poll_transmit(now, BURST, |packet| {
            let sent = out.send(packet.to, packet.len(), |slot| packet.write(slot));
            // What has no way is lost, as it may be on the way.
            !matches!(sent, Err(SendError::Full))
        });
        if self.courier.has_events() {
            out.notify();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.courier.next_timer()
    }
}

impl Attached {
    fn date(&mut self, now: Instant) {
        if std::mem::take(&mut self.undated) {
            self.courier.redate(now);
        }
    }
}
