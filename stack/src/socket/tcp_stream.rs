use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use super::mode::Modes;
use crate::Stack;
use crate::block::{Mode, wait};
use crate::core::Core;
use crate::network::Network;
use crate::packet::Tuple;
use crate::tcp::{Connection, RecvEnd, Route, State, TcpOptions};

/// A TCP connection. Clones are the same connection; it is closed when the last one is dropped (with
/// a FIN, or with a RST if received data was not read).
#[derive(Clone)]
pub struct TcpStream(Arc<Inner>);

struct Inner {
    stack: Stack,
    id: u32,
    tuple: Tuple,
    modes: Modes,
    /// `shutdown(Read)` was called: reads return 0.
    read_closed: AtomicBool,
}

/// How to connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Address and port of this end, each unspecified (0) if the stack is to choose. A port may be
    /// used again while its last connection to the same peer is in TIME-WAIT.
    pub local: Option<SocketAddr>,
    /// Limits how long a blocking `connect` waits.
    pub timeout: Option<Duration>,
    /// Options of the connection.
    pub tcp: TcpOptions,
}

impl TcpStream {
    /// Connects to `remote` and waits until the connection is there.
    ///
    /// # Errors
    /// `ConnectionRefused`, `HostUnreachable`, `NetworkUnreachable`, `TimedOut` as the peer and the
    /// network answer; `AddrNotAvailable` if `remote` is ours or every ephemeral port is in use.
    pub fn connect(stack: &Stack, remote: SocketAddr) -> io::Result<Self> {
        Self::connect_with(stack, remote, &ConnectOptions::default())
    }

    /// The same, with a limit on the waiting.
    pub fn connect_timeout(
        stack: &Stack,
        remote: SocketAddr,
        timeout: Duration,
    ) -> io::Result<Self> {
        let timeout = Some(timeout);
        Self::connect_with(stack, remote, &ConnectOptions { timeout, ..Default::default() })
    }

    /// The same, with options.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); and `AddrInUse` if the local port asked for is taken towards
    /// `remote`, `InvalidInput` for a buffer size that cannot be.
    pub fn connect_with(
        stack: &Stack,
        remote: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<Self> {
        let stream = Self::start_with(stack, remote, options)?;
        wait(Mode::Blocking(options.timeout), |cx| stream.poll_connected(cx))?;
        Ok(stream)
    }

    /// The same, without holding the thread.
    pub async fn connect_async(stack: &Stack, remote: SocketAddr) -> io::Result<Self> {
        let stream = Self::start(stack, remote)?;
        poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok(stream)
    }

    /// Sends the SYN and returns at once. [`poll_connected`](Self::poll_connected) tells the end of
    /// the attempt; reads and writes wait for it.
    pub fn start(stack: &Stack, remote: SocketAddr) -> io::Result<Self> {
        Self::start_with(stack, remote, &ConnectOptions::default())
    }

    /// The same, with options.
    pub fn start_with(
        stack: &Stack,
        remote: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<Self> {
        if remote.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "nobody listens on port 0"));
        }
        options.tcp.check()?;
        let (id, tuple) = stack.shard().with(|core| {
            core.check_running()?;
            let (interface, source) = core.net.source_for(remote.ip())?;
            let route = Route {
                interface,
                path_mtu: core.net.path_mtus.get(core.now, remote.ip()),
                tuple: Tuple {
                    local: local_end(&core.net, source, remote, options.local)?,
                    remote,
                },
            };
            let id = core.tcp.connect(&route, &options.tcp)?;
            io::Result::Ok((id, *core.tcp.flow(id).connection.tuple()))
        })?;
        Ok(Self::new(stack.clone(), id, tuple))
    }

    pub(crate) fn new(stack: Stack, id: u32, tuple: Tuple) -> Self {
        let read_closed = AtomicBool::new(false);
        Self(Arc::new(Inner { stack, id, tuple, modes: Modes::default(), read_closed }))
    }

    /// Ready when the attempt to connect has ended.
    pub fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|core, id| {
            let flow = core.tcp.flow(id);
            match flow.connection.state() {
                State::SynSent | State::SynReceived => {
                    flow.writers.add(cx.waker());
                    Poll::Pending
                }
                State::Aborting | State::Closed => {
                    Poll::Ready(Err(flow.error().unwrap_or(io::ErrorKind::NotConnected.into())))
                }
                State::Open | State::Closing | State::FinWait2 | State::TimeWait => {
                    Poll::Ready(Ok(()))
                }
            }
        })
    }

    /// Lends received bytes to `read`, which returns how many of them it took and a result; they lie
    /// where TCP put them. Waits until there are some. An empty slice means that the peer has sent
    /// everything it will.
    pub fn read_with<R>(&self, read: impl FnOnce(&[u8]) -> (usize, R)) -> io::Result<R> {
        let mut read = Some(read);
        wait(self.0.modes.read(), |cx| self.poll_read_with(cx, &mut read))
    }

    /// Lends free space of the send buffer to `write`, which returns how many bytes it put there and
    /// a result. Waits until there is some.
    pub fn write_with<R>(&self, write: impl FnOnce(&mut [u8]) -> (usize, R)) -> io::Result<R> {
        let mut write = Some(write);
        wait(self.0.modes.write(), |cx| self.poll_write_with(cx, &mut write))
    }

    pub(crate) fn poll_read_with<R, F: FnOnce(&[u8]) -> (usize, R)>(
        &self,
        cx: &mut Context<'_>,
        read: &mut Option<F>,
    ) -> Poll<io::Result<R>> {
        let mut call = |bytes: &[u8]| match read.take() {
            Some(read) => read(bytes),
            None => unreachable!("a poll function is not polled again once it was ready"),
        };
        if self.0.read_closed.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(call(&[]).1));
        }
        self.with(|core, id| {
            let flow = core.tcp.flow(id);
            let result = match flow.connection.recv(&mut call) {
                Ok(Some(result)) => {
                    core.tcp.has_read(id);
                    Ok(result)
                }
                Ok(None) => {
                    flow.readers.add(cx.waker());
                    return Poll::Pending;
                }
                Err(RecvEnd::Finished) => Ok(call(&[]).1),
                Err(RecvEnd::Dead) => Err(flow.error()),
            };
            Poll::Ready(match result {
                Ok(result) => Ok(result),
                Err(Some(error)) => Err(error),
                // Closed by ourselves: there is nothing to read and nothing wrong.
                Err(None) => Ok(call(&[]).1),
            })
        })
    }

    pub(crate) fn poll_write_with<R, F: FnOnce(&mut [u8]) -> (usize, R)>(
        &self,
        cx: &mut Context<'_>,
        write: &mut Option<F>,
    ) -> Poll<io::Result<R>> {
        self.with(|core, id| {
            let flow = core.tcp.flow(id);
            let sent = flow.connection.send(|space| match write.take() {
                Some(write) => write(space),
                None => unreachable!("a poll function is not polled again once it was ready"),
            });
            match sent {
                Ok(Some(result)) => {
                    core.tcp.has_written(id);
                    Poll::Ready(Ok(result))
                }
                Ok(None) => {
                    flow.writers.add(cx.waker());
                    Poll::Pending
                }
                Err(closed) => Poll::Ready(Err(flow.error().unwrap_or_else(|| closed.into()))),
            }
        })
    }

    pub(crate) fn modes(&self) -> &Modes {
        &self.0.modes
    }

    /// Closes one half or both. After `Write` the peer reads everything sent before, then the end;
    /// after `Read` this end reads nothing any more (nothing is told to the peer).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.0.read_closed.store(true, Ordering::Relaxed);
            self.with(|core, id| {
                let Core { tcp, wakes, .. } = core;
                tcp.flow(id).readers.wake(wakes);
            });
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.with(|core, id| {
                let Core { tcp, wakes, .. } = core;
                let flow = tcp.flow(id);
                if flow.connection.state().has_ended() {
                    return Err(flow.error().unwrap_or(io::ErrorKind::NotConnected.into()));
                }
                flow.connection.shutdown();
                flow.writers.wake(wakes);
                tcp.has_written(id);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends the connection at once with a RST; what was not sent is lost.
    pub fn abort(&self) {
        self.with(|core, id| core.tcp.abort(id));
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.tuple.remote
    }

    /// This end.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.tuple.local
    }

    /// Makes reads and writes return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.0.modes.set_nonblocking(nonblocking);
    }

    /// Limits how long a read waits; it then fails with `TimedOut`.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_read_timeout(timeout);
    }

    /// Limits how long a write waits; it then fails with `TimedOut`.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.0.modes.set_write_timeout(timeout);
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Core, u32) -> R) -> R {
        self.0.stack.shard().with(|core| f(core, self.0.id))
    }
}

/// The address and port to connect from.
fn local_end(
    net: &Network,
    source: IpAddr,
    remote: SocketAddr,
    wanted: Option<SocketAddr>,
) -> io::Result<SocketAddr> {
    match wanted {
        None => Ok(SocketAddr::new(source, 0)),
        Some(local) if local.ip().is_unspecified() => Ok(SocketAddr::new(source, local.port())),
        Some(local) if local.is_ipv4() == remote.is_ipv4() => {
            net.check_local(local).map(|()| local)
        }
        Some(local) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{local} and {remote} are of different IP versions"),
        )),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.linger();
        self.stack.shard().with(|core| core.tcp.release(self.id));
    }
}

impl Inner {
    /// What the linger option asks for before the connection is let go.
    fn linger(&self) {
        let shard = self.stack.shard();
        let limit = shard.with(|core| {
            let limit = core.tcp.options(self.id).linger?;
            if limit.is_zero() {
                core.tcp.abort(self.id);
                return None;
            }
            let flow = core.tcp.flow(self.id);
            // Unread data makes the end a reset: there is nothing to wait for.
            let over = flow.connection.state().has_ended() || flow.connection.recv_queue() > 0;
            if over || self.modes.is_nonblocking() {
                return None;
            }
            flow.connection.shutdown();
            core.tcp.has_written(self.id);
            Some(limit)
        });
        let Some(limit) = limit else {
            return;
        };
        let _timed_out = wait(Mode::Blocking(Some(limit)), |cx| {
            shard.with(|core| {
                let stopped = core.check_running().is_err();
                let flow = core.tcp.flow(self.id);
                let state = flow.connection.state();
                if stopped || state.has_ended() {
                    return Poll::Ready(Ok(()));
                }
                match state {
                    State::FinWait2 | State::TimeWait => Poll::Ready(Ok(())),
                    _ => {
                        flow.writers.add(cx.waker());
                        Poll::Pending
                    }
                }
            })
        });
    }
}
