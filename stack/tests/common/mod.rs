//! Two stacks on a simulated link, in virtual time.

#![allow(dead_code, reason = "each test binary uses a part of this")]

pub(crate) mod net;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use self::net::Net;
use underpass::devices::{Instant, LinkConfig, SimLink};
use underpass::{Builder, Limits, Stack, TcpListener, TcpStream};

/// Addresses of the right stack; the left one has 1 where it has 2.
pub(crate) const RIGHT: &str = "10.0.0.2";
pub(crate) const RIGHT_V6: &str = "fd00::2";

/// Two stacks, their link, and the time.
pub(crate) struct World {
    pub(crate) left: Stack,
    pub(crate) right: Stack,
    net: Net,
}

impl Deref for World {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.net
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Net {
        &mut self.net
    }
}

impl World {
    pub(crate) fn new(link: LinkConfig, limits: &Limits) -> Self {
        Self::with(link, limits, |left| left)
    }

    /// The same, with the left stack configured further.
    pub(crate) fn with(
        link: LinkConfig,
        limits: &Limits,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let seed = link.seed;
        let (a, b, link) = SimLink::pair(link);
        let builder = |n: u64| {
            Stack::builder()
                .address(format!("10.0.0.{n}/24").parse().unwrap())
                .address(format!("fd00::{n}/64").parse().unwrap())
                .limits(limits.clone())
                .seed(seed.wrapping_mul(2).wrapping_add(n))
        };
        let (left, left_shard) = configure(builder(1)).build_shard(a).unwrap();
        let (right, right_shard) = builder(2).build_shard(b).unwrap();
        let (shards, links) = (vec![left_shard, right_shard], vec![link]);
        Self { left, right, net: Net { now: Instant::ZERO, shards, links } }
    }

    /// A connection from left to right, both ends non-blocking.
    pub(crate) fn connect(&mut self, to: &str) -> io::Result<(TcpStream, TcpStream, TcpListener)> {
        let address = SocketAddr::new(to.parse().unwrap(), 80);
        let listener = TcpListener::bind(&self.right, address)?;
        listener.set_nonblocking(true);
        let near = TcpStream::start(&self.left, address)?;
        near.set_nonblocking(true);
        let mut result = None;
        self.run_until("accept", Duration::from_secs(600), || {
            result = match listener.accept() {
                Ok((far, _)) => Some(Ok(far)),
                Err(_) => connect_error(&near).map(Err),
            };
            result.is_some()
        });
        let far = result.unwrap()?;
        far.set_nonblocking(true);
        Ok((near, far, listener))
    }
}

fn connect_error(stream: &TcpStream) -> Option<io::Error> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match stream.poll_connected(&mut cx) {
        std::task::Poll::Ready(Err(error)) => Some(error),
        _ => None,
    }
}

/// Sends a pattern, and checks that exactly it comes out of the other end.
pub(crate) struct Flow<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    len: usize,
    salt: u64,
    sent: usize,
    pub(crate) received: usize,
    pub(crate) error: Option<io::Error>,
    pub(crate) finished: bool,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(from: &'a TcpStream, to: &'a TcpStream, len: usize, salt: u64) -> Self {
        let (sent, received, error, finished) = (0, 0, None, false);
        Self { from, to, len, salt, sent, received, error, finished }
    }

    /// Writes and reads what is possible. True: the end was read, or there was an error.
    pub(crate) fn pump(&mut self) -> bool {
        if let Err(error) = self.write().and_then(|()| self.read()) {
            self.error = Some(error);
        }
        self.finished || self.error.is_some()
    }

    fn write(&mut self) -> io::Result<()> {
        while self.sent < self.len {
            let chunk: Vec<u8> =
                (self.sent..self.len.min(self.sent + 5000)).map(|at| self.byte(at)).collect();
            match (&mut &*self.from).write(&chunk) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.sent == self.len {
                self.from.shutdown(Shutdown::Write)?;
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while !self.finished {
            match (&mut &*self.to).read(&mut buffer) {
                Ok(0) => self.finished = true,
                Ok(read) => {
                    for byte in &buffer[..read] {
                        assert_eq!(*byte, self.byte(self.received), "byte {}", self.received);
                        self.received += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        assert_eq!(self.received, self.len, "the end came early");
        Ok(())
    }

    fn byte(&self, at: usize) -> u8 {
        let mixed = (at as u64).wrapping_add(self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as u8
    }
}
