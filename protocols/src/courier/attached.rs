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
    /// Bytes under way when a body was refused for want of room.
    full_at: Option<usize>,
}

impl Attached {
    /// As [`Courier::new`].
    pub fn new(config: Config, secret: [u8; 16]) -> Self {
        Self { courier: Courier::new(config, secret), undated: false, full_at: None }
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
        let sent = self.courier.send(self.courier.clock, to, body);
        if matches!(&sent, Err(refused) if refused.why == super::SendError::Full) {
            self.full_at = Some(self.courier.send_bytes());
        }
        sent
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

/// When a message is worth another try.
impl Attached {
    /// A message was refused as [`Full`](super::SendError::Full), and less is under way since then. True
    /// once for each such refusal; the application is woken for it.
    pub fn take_room(&mut self) -> bool {
        let has_room = self.has_room_again();
        if has_room {
            self.full_at = None;
        }
        has_room
    }

    fn has_room_again(&self) -> bool {
        self.full_at.is_some_and(|bytes| self.courier.send_bytes() < bytes)
    }

    fn has_news(&self) -> bool {
        self.courier.has_events() || self.has_room_again()
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
        if self.has_news() {
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
        if self.has_news() {
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
