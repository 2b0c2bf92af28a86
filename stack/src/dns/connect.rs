//! Connecting to a name: addresses in turn, without waiting long for any (RFC 8305).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::block::{Mode, wait};
use crate::{Sleep, Stack, TcpStream};

/// Head start of one attempt before the next (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

impl TcpStream {
    /// Looks up `name` and connects to the first of its addresses that answers. The next address is
    /// tried when one fails, or has not answered in 250 ms; IPv6 and IPv4 take turns (RFC 8305).
    ///
    /// # Errors
    /// Those of [`Stack::lookup_host`], or what became of each address.
    pub fn connect_host(stack: &Stack, name: &str, port: u16) -> io::Result<Self> {
        let mut connect = pin!(Self::connect_host_async(stack, name, port));
        wait(Mode::Blocking(None), |cx| connect.as_mut().poll(cx))
    }

    /// The same, without holding the thread.
    pub async fn connect_host_async(stack: &Stack, name: &str, port: u16) -> io::Result<Self> {
        let addresses = stack.lookup_host(name, port).await?;
        let mut race = Race {
            stack,
            waiting: alternate(addresses),
            running: Vec::new(),
            delay: None,
            failures: Vec::new(),
        };
        poll_fn(|cx| race.poll(cx)).await.map_err(|error| {
            // One address needs no list.
            if race.failures.len() > 1 { race.failure(name) } else { error }
        })
    }
}

struct Race<'a> {
    stack: &'a Stack,
    waiting: VecDeque<SocketAddr>,
    running: Vec<TcpStream>,
    /// How long the latest attempt is still given.
    delay: Option<Sleep>,
    failures: Vec<(SocketAddr, io::ErrorKind, String)>,
}

impl Race<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        loop {
            let mut failed = None;
            for n in (0..self.running.len()).rev() {
                match self.running[n].poll_connected(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok(self.running.swap_remove(n))),
                    Poll::Ready(Err(error)) => {
                        let remote = self.running.swap_remove(n).peer_addr();
                        failed = Some(self.note(remote, error));
                        self.delay = None;
                    }
                    Poll::Pending => {}
                }
            }
            if let Some(delay) = &mut self.delay
                && !self.waiting.is_empty()
                && Pin::new(delay).poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            let Some(next) = self.waiting.pop_front() else {
                return match failed {
                    Some(error) if self.running.is_empty() => Poll::Ready(Err(error)),
                    _ => Poll::Pending,
                };
            };
            match TcpStream::start(self.stack, next) {
                Ok(stream) => {
                    self.running.push(stream);
                    self.delay = Some(self.stack.sleep(ATTEMPT_DELAY));
                }
                Err(error) => {
                    let error = self.note(next, error);
                    if self.running.is_empty() && self.waiting.is_empty() {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }

    /// Keeps an error for the report.
    fn note(&mut self, remote: SocketAddr, error: io::Error) -> io::Error {
        self.failures.push((remote, error.kind(), error.to_string()));
        error
    }

    /// What became of all addresses.
    fn failure(&self, name: &str) -> io::Error {
        let kind = self.failures.first().map_or(io::ErrorKind::Other, |(_, kind, _)| *kind);
        let each = self.failures.iter().map(|(remote, _, error)| format!("{remote}: {error}"));
        io::Error::new(kind, format!("{name}: {}", each.collect::<Vec<_>>().join("; ")))
    }
}

/// The versions of IP in turn, beginning with that of the first (RFC 8305 §4).
fn alternate(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else {
        return VecDeque::new();
    };
    let (ours, others): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|addr| addr.is_ipv6() == first);
    let mut others = others.into_iter();
    let mut order: VecDeque<SocketAddr> =
        ours.into_iter().flat_map(|addr| [Some(addr), others.next()]).flatten().collect();
    order.extend(others);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_take_turns() {
        let list = |text: &str| -> Vec<SocketAddr> {
            text.split_whitespace().map(|addr| addr.parse().unwrap()).collect()
        };
        let mixed = list("[fd00::1]:1 [fd00::2]:1 10.0.0.1:1 10.0.0.2:1 10.0.0.3:1");
        let wanted = list("[fd00::1]:1 10.0.0.1:1 [fd00::2]:1 10.0.0.2:1 10.0.0.3:1");
        assert_eq!(alternate(mixed), wanted);
        assert!(alternate(Vec::new()).is_empty());
    }
}
