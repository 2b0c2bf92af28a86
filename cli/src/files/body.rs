//! The body of a response: memory, or a part of a file read in chunks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes read from a file at a time.
const CHUNK: u64 = 256 * 1024;

/// The body of a response.
pub(crate) enum Body {
    /// Bytes in memory; empty once they are sent.
    Memory(Bytes),
    /// Bytes of a file.
    File(FilePart),
}

/// Bytes of a file not sent yet. One chunk is read ahead while the one before is being sent, on a
/// thread of its own, for a disk may be slow.
pub(crate) struct FilePart {
    /// Bytes still to hand over.
    left: u64,
    reading: Option<JoinHandle<io::Result<(File, Bytes)>>>,
}

impl Body {
    /// The bytes `part` of `file`.
    pub(super) fn file(mut file: File, part: Range<u64>) -> Self {
        let left = part.end.saturating_sub(part.start);
        let reading = (left > 0).then(|| {
            spawn_blocking(move || {
                file.seek(SeekFrom::Start(part.start))?;
                read_chunk(file, left)
            })
        });
        Self::File(FilePart { left, reading })
    }

    fn left(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(part) => part.left,
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Memory(bytes.into())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Memory(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Memory(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::File(part) => part.poll_chunk(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

impl FilePart {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let done = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let (file, chunk) = match done.map_err(io::Error::other).flatten() {
            Ok(read) => read,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.left = self.left.saturating_sub(chunk.len() as u64);
        if self.left > 0 {
            let left = self.left;
            self.reading = Some(spawn_blocking(move || read_chunk(file, left)));
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}

impl Drop for FilePart {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

/// Reads the next chunk of the `left` bytes still wanted.
fn read_chunk(file: File, left: u64) -> io::Result<(File, Bytes)> {
    let len = left.min(CHUNK);
    let mut chunk = Vec::with_capacity(len as usize);
    (&file).take(len).read_to_end(&mut chunk)?;
    if (chunk.len() as u64) < len {
        let message = "the file became shorter while it was being sent";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok((file, chunk.into()))
}
