//! Where protocols put what they send.

use crate::{Destination, Peer};

/// Lends transmit slots to a protocol, for the length of one call.
pub struct Outbox<'a>(&'a mut dyn Slots);

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no free slot, or the protocol has sent all that it may in one call. It is asked again soon
    /// ([`Protocol::poll_transmit`](crate::Protocol::poll_transmit)).
    #[error("the transmit queue is full")]
    Full,
    /// Longer than [`Outbox::max_len`] where frames are not cut, or than an IP packet can be.
    #[error("the frame is too long")]
    TooLong,
    /// There is no such interface, no route, or no address to send from.
    #[error("there is no way to the destination")]
    Unreachable,
    /// The destination is of another kind than the protocol's selector.
    #[error("a protocol reaches peers of the kind of its selector only")]
    WrongPeer,
}

/// What an [`Outbox`] stands for: the stack, or a [`Recorder`] in tests.
pub trait Slots {
    /// Lends `len` bytes, behind the headers for `to`, to `write`, which is called once if the result is
    /// `Ok` and not at all otherwise.
    fn send(
        &mut self,
        to: Destination,
        len: usize,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), SendError>;

    /// See [`Outbox::max_len`].
    fn max_len(&self, to: Peer) -> usize;

    /// See [`Outbox::notify`].
    fn notify(&mut self);
}

impl<'a> Outbox<'a> {
    /// An outbox with these slots.
    pub fn new(slots: &'a mut dyn Slots) -> Self {
        Self(slots)
    }

    /// Lends `len` bytes of a transmit slot to `write`, which must write all of them: they hold whatever
    /// was there. What is in front of them (Ethernet, IP and UDP header, checksums, the next hop's
    /// address) is filled in.
    ///
    /// IP packets above the path MTU are fragmented, and those whose next hop is not known yet wait for
    /// it: both are copied.
    ///
    /// # Errors
    /// The frame was not sent and `write` was not called.
    pub fn send<R>(
        &mut self,
        to: impl Into<Destination>,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        let (mut write, mut result) = (Some(write), None);
        self.0.send(to.into(), len, &mut |payload| {
            result = write.take().map(|write| write(payload));
        })?;
        result.ok_or(SendError::Full)
    }

    /// The longest payload that reaches `to` in one frame, as far as is known; 0 if there is no way.
    pub fn max_len(&self, to: Peer) -> usize {
        self.0.max_len(to)
    }

    /// Wakes whoever waits at the application's handle: there is news.
    pub fn notify(&mut self) {
        self.0.notify();
    }
}

/// Slots that keep what is sent, to test a protocol without a stack.
///
/// ```
/// use underpass_protocols::{Outbox, Peer, Recorder, SendError};
///
/// let mut recorder = Recorder { room: 1, ..Recorder::default() };
/// let mut out = Outbox::new(&mut recorder);
/// let peer = Peer::Host([192, 0, 2, 1].into());
/// out.send(peer, 3, |payload| payload.copy_from_slice(b"abc"))?;
/// assert_eq!(out.send(peer, 3, |_| ()), Err(SendError::Full));
/// assert_eq!(recorder.sent[0].1, b"abc");
/// # Ok::<(), SendError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorder {
    /// What was sent.
    pub sent: Vec<(Destination, Vec<u8>)>,
    /// Frames that still fit.
    pub room: usize,
    /// The longest one.
    pub max_len: usize,
    /// How often the application was woken.
    pub notified: usize,
}

impl Default for Recorder {
    /// Room for 256 frames of 1480 bytes.
    fn default() -> Self {
        Self { sent: Vec::new(), room: 256, max_len: 1480, notified: 0 }
    }
}

impl Slots for Recorder {
    fn send(
        &mut self,
        to: Destination,
        len: usize,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), SendError> {
        if len > self.max_len {
            return Err(SendError::TooLong);
        }
        self.room = self.room.checked_sub(1).ok_or(SendError::Full)?;
        let mut payload = vec![0; len];
        write(&mut payload);
        self.sent.push((to, payload));
        Ok(())
    }

    fn max_len(&self, _: Peer) -> usize {
        self.max_len
    }

    fn notify(&mut self) {
        self.notified += 1;
    }
}
