//! `std::io` and `futures` traits of a stream.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};

use super::TcpStream;
use crate::block::wait;

impl TcpStream {
    pub(crate) fn poll_read_slice(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut total = 0;
        // The ring may wrap: a second piece is there for the taking.
        loop {
            let rest = &mut buffer[total..];
            let copied = self.poll_read_with(
                cx,
                &mut Some(|bytes: &[u8]| {
                    let len = bytes.len().min(rest.len());
                    rest[..len].copy_from_slice(&bytes[..len]);
                    (len, len)
                }),
            );
            match copied {
                Poll::Ready(Ok(len)) if len > 0 && total + len < buffer.len() => total += len,
                Poll::Ready(Ok(len)) => return Poll::Ready(Ok(total + len)),
                _ if total > 0 => return Poll::Ready(Ok(total)),
                other => return other,
            }
        }
    }

    pub(crate) fn poll_write_slice(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_write_with(
            cx,
            &mut Some(|space: &mut [u8]| {
                let len = bytes.len().min(space.len());
                space[..len].copy_from_slice(&bytes[..len]);
                (len, len)
            }),
        )
    }

    /// Fills the buffers in order, with what is there.
    pub(crate) fn poll_read_slices(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        for buffer in buffers.iter_mut().filter(|buffer| !buffer.is_empty()) {
            match self.poll_read_slice(cx, buffer) {
                Poll::Ready(Ok(len)) => {
                    total += len;
                    if len < buffer.len() {
                        break;
                    }
                }
                // What was read first is told first; an error comes again.
                _ if total > 0 => break,
                result => return result,
            }
        }
        Poll::Ready(Ok(total))
    }

    /// Writes the buffers in order, as far as there is room.
    pub(crate) fn poll_write_slices(
        &self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        for buffer in buffers.iter().filter(|buffer| !buffer.is_empty()) {
            match self.poll_write_slice(cx, buffer) {
                Poll::Ready(Ok(len)) => {
                    total += len;
                    if len < buffer.len() {
                        break;
                    }
                }
                _ if total > 0 => break,
                result => return result,
            }
        }
        Poll::Ready(Ok(total))
    }

    pub(crate) fn poll_close_write(&self) -> Poll<io::Result<()>> {
        match self.shutdown(Shutdown::Write) {
            // Closed already, by whomever: that is what was asked for.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        wait(self.modes().read(), |cx| self.poll_read_slice(cx, buffer))
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        wait(self.modes().read(), |cx| self.poll_read_slices(cx, buffers))
    }
}

impl Write for &TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        wait(self.modes().write(), |cx| self.poll_write_slice(cx, bytes))
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        wait(self.modes().write(), |cx| self.poll_write_slices(cx, buffers))
    }

    /// Nothing to do: what is written is sent as soon as the window allows.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(buffers)
    }
}

impl Write for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_slice(cx, buffer)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_slices(cx, buffers)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slice(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, buffers)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_close_write()
    }
}
