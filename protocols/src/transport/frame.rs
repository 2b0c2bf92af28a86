//! A length in front of each message, as the [module](super) draws it.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in front of a message.
pub const HEADER_LEN: usize = 4;

/// Bytes the receive buffer grows by at least: many short messages share one allocation.
const CHUNK: usize = 16 * 1024;

/// A message longer than the limit, to be sent or announced by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes; the limit is {max}")]
pub struct TooLong {
    /// Its bytes.
    pub len: usize,
    /// The limit.
    pub max: u32,
}

/// Appends `message` and its length to `stream`.
///
/// # Errors
/// It is longer than `max`; nothing was appended.
pub fn encode(message: &[u8], max: u32, stream: &mut Vec<u8>) -> Result<(), TooLong> {
    let too_long = TooLong { len: message.len(), max };
    let len = u32::try_from(message.len()).ok().filter(|len| *len <= max).ok_or(too_long)?;
    stream.reserve(HEADER_LEN + message.len());
    stream.extend_from_slice(&len.to_be_bytes());
    stream.extend_from_slice(message);
    Ok(())
}

/// Cuts a stream of bytes, which comes in any pieces, into messages.
///
/// ```
/// use underpass_protocols::transport::{Decoder, encode};
///
/// let mut stream = Vec::new();
/// encode(b"one", 100, &mut stream)?;
/// encode(b"", 100, &mut stream)?;
/// let mut decoder = Decoder::new(100);
/// decoder.push(&stream[..5]);
/// assert_eq!(decoder.next_message()?, None);
/// decoder.push(&stream[5..]);
/// assert_eq!(decoder.next_message()?.unwrap(), "one");
/// assert_eq!(decoder.next_message()?.unwrap(), "");
/// # Ok::<(), underpass_protocols::transport::TooLong>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    max: u32,
}

/// What a [`Decoder`] holds in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Nothing, or a part of a message.
    Part,
    /// A whole message.
    Whole,
}

impl Decoder {
    /// A decoder for messages of up to `max` bytes.
    pub fn new(max: u32) -> Self {
        Self { buffer: BytesMut::new(), max }
    }

    /// Changes the limit, from the next message on.
    pub fn set_max(&mut self, max: u32) {
        self.max = max;
    }

    /// Takes the next bytes of the stream. Memory grows with what has come, not with what a length
    /// announces.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve(bytes.len().max(CHUNK));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, without a copy; `None`: it is not complete.
    ///
    /// # Errors
    /// Its length is above the limit. There is no way to go on with this stream.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(len) = self.announced()? else { return Ok(None) };
        if self.buffer.len() < HEADER_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Looks whether [`next_message`](Self::next_message) would return a message.
    ///
    /// # Errors
    /// Those of `next_message`.
    pub fn front(&self) -> Result<Front, TooLong> {
        let len = self.announced()?;
        let whole = len.is_some_and(|len| self.buffer.len() >= HEADER_LEN + len);
        Ok(if whole { Front::Whole } else { Front::Part })
    }

    /// Bytes held, those of whole messages included.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The length of the message in front.
    fn announced(&self) -> Result<Option<usize>, TooLong> {
        let Some(header) = self.buffer.first_chunk() else { return Ok(None) };
        let len = u32::from_be_bytes(*header);
        if len > self.max {
            return Err(TooLong { len: len as usize, max: self.max });
        }
        Ok(Some(len as usize))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_above_the_limit_is_refused_as_soon_as_it_is_known() {
        let mut decoder = Decoder::new(1000);
        decoder.push(&[0, 0, 3]);
        assert_eq!(decoder.front(), Ok(Front::Part));
        decoder.push(&[0xe9]);
        assert_eq!(decoder.next_message(), Err(TooLong { len: 1001, max: 1000 }));
        assert_eq!(decoder.front(), Err(TooLong { len: 1001, max: 1000 }));
        let mut decoder = Decoder::new(u32::MAX);
        decoder.push(&[0xff; 8]);
        assert_eq!(decoder.next_message(), Ok(None));
        assert!(decoder.buffer.capacity() <= 2 * CHUNK, "memory for what has not come");
    }

    #[test]
    fn nothing_is_appended_for_a_message_that_is_too_long() {
        let mut stream = vec![7];
        assert_eq!(encode(&[0; 11], 10, &mut stream), Err(TooLong { len: 11, max: 10 }));
        assert_eq!(stream, [7]);
        encode(&[0; 10], 10, &mut stream).unwrap();
        assert_eq!(stream.len(), 15);
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300), 0..20),
            cuts in proptest::collection::vec(1usize..400, 1..50),
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                encode(message, 300, &mut stream).unwrap();
            }
            let mut decoder = Decoder::new(300);
            let mut received = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                decoder.push(piece);
                rest = after;
                while let Some(message) = decoder.next_message().unwrap() {
                    received.push(message.to_vec());
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, messages);
            prop_assert_eq!(decoder.buffered(), 0);
        }

        #[test]
        fn no_stream_yields_a_message_above_the_limit(
            stream in proptest::collection::vec(any::<u8>(), 0..400), max in 0u32..40,
        ) {
            let mut decoder = Decoder::new(max);
            decoder.push(&stream);
            while let Ok(Some(message)) = decoder.next_message() {
                prop_assert!(message.len() <= max as usize);
            }
        }
    }
}
