//! Whom to ask next, and how long to wait.

use std::net::SocketAddr;
use std::time::Duration;

/// Longest wait for one answer.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// The tries of one question: every server once, with a timeout; then those again that kept silent,
/// with twice the timeout.
#[derive(Debug)]
pub(crate) struct Schedule {
    servers: Vec<Server>,
    timeout: Duration,
    rounds_left: u32,
    /// The next one in this round.
    next: usize,
}

#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    tries: u32,
    /// Why it is not asked again.
    failure: Option<String>,
}

impl Schedule {
    /// `first` is the index of the server to begin with.
    pub(crate) fn new(
        servers: &[SocketAddr],
        first: usize,
        timeout: Duration,
        rounds: u32,
    ) -> Self {
        let mut servers: Vec<Server> =
            servers.iter().map(|addr| Server { addr: *addr, tries: 0, failure: None }).collect();
        if first < servers.len() {
            servers.rotate_left(first);
        }
        Self { servers, timeout, rounds_left: rounds, next: 0 }
    }

    /// The next try. `None`: there is no use in going on.
    pub(crate) fn next(&mut self) -> Option<(SocketAddr, Duration)> {
        while self.rounds_left > 0 {
            while let Some(server) = self.servers.get_mut(self.next) {
                self.next += 1;
                if server.failure.is_none() {
                    server.tries += 1;
                    return Some((server.addr, self.timeout));
                }
            }
            self.next = 0;
            self.rounds_left -= 1;
            self.timeout = (self.timeout * 2).min(MAX_TIMEOUT);
            if self.servers.iter().all(|server| server.failure.is_some()) {
                return None;
            }
        }
        None
    }

    /// The server last asked need not be asked again.
    pub(crate) fn fail(&mut self, why: String) {
        if let Some(server) = self.next.checked_sub(1).and_then(|n| self.servers.get_mut(n)) {
            server.failure = Some(why);
        }
    }

    /// No server has sent anything.
    pub(crate) fn is_silence(&self) -> bool {
        self.servers.iter().all(|server| server.failure.is_none())
    }

    /// Each server, and what came of asking it.
    pub(crate) fn report(&self) -> String {
        let tried = self.servers.iter().map(|Server { addr, tries, failure }| {
            let ip = addr.ip();
            match failure {
                Some(failure) => format!("{ip} {failure}"),
                None => format!("{ip} did not answer in {tries} tries"),
            }
        });
        tried.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_servers_are_asked_again_and_failed_ones_are_not() {
        let servers: Vec<SocketAddr> =
            ["10.0.0.1:53", "10.0.0.2:53"].map(|text| text.parse().unwrap()).into();
        let mut schedule = Schedule::new(&servers, 1, Duration::from_secs(1), 3);
        let mut asked = Vec::new();
        while let Some((server, timeout)) = schedule.next() {
            asked.push((server, timeout.as_secs()));
            if server == servers[1] {
                schedule.fail("answered SERVFAIL".to_owned());
            }
        }
        assert_eq!(asked, [(servers[1], 1), (servers[0], 1), (servers[0], 2), (servers[0], 4)],);
        assert!(!schedule.is_silence());
        assert_eq!(
            schedule.report(),
            "10.0.0.2 answered SERVFAIL, 10.0.0.1 did not answer in 3 tries"
        );
    }
}
