//! Messages between stations on any device: see [`protocols::transport`] for what is promised.
//!
//! [`StackTransport`] is over TCP, on a stack with a thread of its own; [`ShardTransport`] owns the shard
//! and turns it, so that stack and application share one thread. [`CourierTransport`] is over
//! [`courier`](underpass_protocols::courier).
//!
//! ```
//! use std::time::Duration;
//! use underpass::Stack;
//! use underpass::devices::MemoryDevice;
//! use underpass::transport::{Limits, StackTransport, Transport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (left, right) = MemoryDevice::pair(Default::default());
//! let left = Stack::builder().address("10.0.0.1/24".parse()?).build(left)?;
//! let right = Stack::builder().address("10.0.0.2/24".parse()?).build(right)?;
//!
//! let mut near = StackTransport::bind(&left, "10.0.0.1:7".parse()?, Limits::default())?;
//! let mut far = StackTransport::bind(&right, "10.0.0.2:7".parse()?, Limits::default())?;
//! near.send(far.local_addr(), b"under the kernel")?;
//! let (message, from) = loop {
//!     near.progress(Duration::ZERO)?;
//!     far.progress(Duration::from_millis(1))?;
//!     if let Some(received) = far.recv() {
//!         break received;
//!     }
//! };
//! assert_eq!((&message[..], from), (&b"under the kernel"[..], near.local_addr()));
//! # Ok(())
//! # }
//! ```
//!
//! [`protocols::transport`]: underpass_protocols::transport

mod calls;
mod courier;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use underpass_devices::{Device, Instant};

use self::sockets::Sockets;
use crate::driver::sleep;
use crate::{Shard, Stack};

pub use self::courier::CourierTransport;
pub use underpass_protocols::transport::*;

/// A [`Transport`] over the sockets of a [`Stack`].
pub struct StackTransport {
    sockets: Sockets,
}

/// A [`Transport`] that owns the [`Shard`] it runs on: `progress` turns it.
pub struct ShardTransport<D, C> {
    sockets: Sockets,
    shard: Shard<D>,
    clock: C,
}

impl StackTransport {
    /// Listens at `local`, an address of the stack with a port.
    ///
    /// # Errors
    /// Those of [`TcpListener::bind`](crate::TcpListener::bind).
    pub fn bind(stack: &Stack, local: SocketAddr, limits: Limits) -> io::Result<Self> {
        Ok(Self { sockets: Sockets::bind(stack, local, limits)? })
    }
}

impl<D: Device, C: FnMut() -> Instant> ShardTransport<D, C> {
    /// Listens at `local`, an address of the stack with a port. `shard` is the stack's, from
    /// [`Builder::build_shard`](crate::Builder::build_shard); `clock` tells the time, which never
    /// goes back. With a simulated clock, only a `progress` with a timeout of zero returns.
    ///
    /// # Errors
    /// Those of [`TcpListener::bind`](crate::TcpListener::bind).
    pub fn bind(
        stack: &Stack,
        shard: Shard<D>,
        clock: C,
        local: SocketAddr,
        limits: Limits,
    ) -> io::Result<Self> {
        Ok(Self { sockets: Sockets::bind(stack, local, limits)?, shard, clock })
    }

    /// The shard.
    pub fn shard(&self) -> &Shard<D> {
        &self.shard
    }
}

impl Transport for StackTransport {
    fn local_addr(&self) -> SocketAddr {
        self.sockets.endpoint.local_addr()
    }

    fn send(&mut self, to: SocketAddr, message: &[u8]) -> Result<(), SendError> {
        self.sockets.endpoint.send(to, message)
    }

    fn recv(&mut self) -> Option<(Bytes, SocketAddr)> {
        self.sockets.endpoint.recv()
    }

    fn progress(&mut self, timeout: Duration) -> io::Result<bool> {
        // A timeout that has no end on the clock is none.
        let deadline = std::time::Instant::now().checked_add(timeout);
        loop {
            if self.sockets.serve()? {
                return Ok(true);
            }
            if timeout.is_zero() || !self.sockets.wait_until(deadline) {
                return Ok(false);
            }
        }
    }

    fn lost(&mut self) -> Option<Lost> {
        self.sockets.endpoint.lost()
    }

    fn queued(&self) -> usize {
        self.sockets.endpoint.queued()
    }

    fn counters(&self) -> Counters {
        self.sockets.endpoint.counters()
    }
}

impl<D: Device, C: FnMut() -> Instant> Transport for ShardTransport<D, C> {
    fn local_addr(&self) -> SocketAddr {
        self.sockets.endpoint.local_addr()
    }

    fn send(&mut self, to: SocketAddr, message: &[u8]) -> Result<(), SendError> {
        self.sockets.endpoint.send(to, message)
    }

    fn recv(&mut self) -> Option<(Bytes, SocketAddr)> {
        self.sockets.endpoint.recv()
    }

    fn progress(&mut self, timeout: Duration) -> io::Result<bool> {
        let start = (self.clock)();
        let mut now = start;
        loop {
            let turn = self.shard.turn(now)?;
            if self.sockets.serve()? {
                // What was written leaves at once.
                self.shard.turn((self.clock)())?;
                return Ok(true);
            }
            if timeout.is_zero() {
                return Ok(turn.busy);
            }
            let Some(left) = timeout.checked_sub(now - start).filter(|left| !left.is_zero()) else {
                return Ok(false);
            };
            if !turn.busy {
                let timer = turn.next.map(|at| at - now);
                sleep(&mut self.shard, Some(timer.map_or(left, |timer| timer.min(left))))?;
            }
            now = (self.clock)();
        }
    }

    fn lost(&mut self) -> Option<Lost> {
        self.sockets.endpoint.lost()
    }

    fn queued(&self) -> usize {
        self.sockets.endpoint.queued()
    }

    fn counters(&self) -> Counters {
        self.sockets.endpoint.counters()
    }
}
