//! A protocol without a header: it sends what it is told to, and keeps what comes.

use std::collections::VecDeque;

use underpass::devices::Instant;
use underpass::protocols::{
    Destination, Incoming, Outbox, Peer, Protocol, Refused, SendError, Stations,
};

#[derive(Debug, Default)]
pub(crate) struct Chatter {
    pub(crate) outgoing: VecDeque<(Destination, Vec<u8>)>,
    pub(crate) received: VecDeque<Received>,
    /// What could not be sent, but for lack of room.
    pub(crate) errors: Vec<SendError>,
    /// Answers with what it gets.
    pub(crate) echoes: bool,
    /// Takes no more than this.
    pub(crate) room: Option<usize>,
    /// When to be asked.
    pub(crate) alarms: VecDeque<Instant>,
    /// When it was asked.
    pub(crate) asked: Vec<Instant>,
    /// The longest payload to the sender of the last frame.
    pub(crate) max_len: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) from: Peer,
    pub(crate) to: Peer,
    pub(crate) link: Option<Stations>,
    pub(crate) hop_limit: Option<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Chatter {
    pub(crate) fn echo() -> Self {
        Self { echoes: true, ..Self::default() }
    }

    pub(crate) fn say(&mut self, to: impl Into<Destination>, payload: &[u8]) {
        self.outgoing.push_back((to.into(), payload.to_vec()));
    }
}

impl Protocol for Chatter {
    fn on_frame(
        &mut self,
        _: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused> {
        self.max_len = out.max_len(frame.from);
        if self.room.is_some_and(|room| self.received.len() >= room) {
            return Err(Refused);
        }
        if self.echoes {
            let len = frame.payload.len();
            let sent = out.send(frame.reply(), len, |bytes| bytes.copy_from_slice(frame.payload));
            self.errors.extend(sent.err());
        }
        self.received.push_back(Received {
            from: frame.from,
            to: frame.to,
            link: frame.link,
            hop_limit: frame.hop_limit,
            payload: frame.payload.to_vec(),
        });
        out.notify();
        Ok(())
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Outbox<'_>) {
        self.asked.push(now);
        while self.alarms.front().is_some_and(|at| *at <= now) {
            self.alarms.pop_front();
            out.notify();
        }
        while let Some((to, payload)) = self.outgoing.front() {
            match out.send(*to, payload.len(), |bytes| bytes.copy_from_slice(payload)) {
                Ok(()) => {}
                Err(SendError::Full) => return,
                Err(error) => self.errors.push(error),
            }
            self.outgoing.pop_front();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.alarms.front().copied()
    }
}
