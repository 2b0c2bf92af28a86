//! A connection whose reads and writes turn the stack themselves: no thread but the application's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as Clock};

use underpass::devices::{Device, Instant};
use underpass::{Shard, Stack, TcpStream};

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing must happen until everything has been sent.
const QUIET: Duration = Duration::from_millis(100);

/// A nonblocking connection and the shard it lives on. It spins while it waits.
pub struct Turned<D> {
    stream: TcpStream,
    shard: Shard<D>,
    clock: Clock,
}

impl<D: Device> Turned<D> {
    /// Connects, for at most five seconds.
    pub fn connect(stack: &Stack, shard: Shard<D>, address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::start(stack, address)?;
        stream.set_nonblocking(true);
        let mut turned = Self { stream, shard, clock: Clock::now() };
        let mut context = Context::from_waker(Waker::noop());
        while turned.clock.elapsed() < PATIENCE {
            if let Poll::Ready(result) = turned.stream.poll_connected(&mut context) {
                return result.map(|()| turned);
            }
            turned.turn()?;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Ends the sending half, and turns until the peer has taken everything.
    pub fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let mut last = Clock::now();
        while last.elapsed() < QUIET {
            if self.turn()? {
                last = Clock::now();
            }
        }
        Ok(())
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn turn(&mut self) -> io::Result<bool> {
        let now = Instant::from_nanos(self.clock.elapsed().as_nanos() as u64);
        self.shard.turn(now).map(|turn| turn.busy)
    }

    /// Turns until `call` has not to wait.
    fn waiting<T>(
        &mut self,
        mut call: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            self.turn()?;
            match call(&mut self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

impl<D: Device> Read for Turned<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.waiting(|stream| stream.read(buffer))
    }
}

impl<D: Device> Write for Turned<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
