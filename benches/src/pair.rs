//! Two stacks on the two ends of a link in memory, turned by one thread.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use underpass::devices::{Device, Instant, MemoryConfig, MemoryDevice};
use underpass::{Limits, Shard, Stack, TcpListener, TcpStream};

/// Address of the first station.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Address of the second station.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// First port that the server listens on.
pub const FIRST_PORT: u16 = 7000;
/// Connections to one server port; fewer than there are ephemeral ports.
pub const FLOWS_PER_PORT: usize = 20_000;

/// Handshakes under way at the same time while [`Pair::connect`] works.
const CONNECTING: usize = 256;
/// After this long a connection attempt is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns of each end in which an echo must have come.
const TURNS: usize = 100_000;

/// A client and a server that share a thread.
pub struct Pair<D: Device = MemoryDevice> {
    /// The client's stack.
    pub client: Stack,
    /// The server's stack.
    pub server: Stack,
    client_shard: Shard<D>,
    server_shard: Shard<D>,
    clock: Clock,
}

/// Both ends of one connection.
pub struct Flow {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that accepted.
    pub server: TcpStream,
}

impl Pair {
    /// Two stacks with the same limits.
    pub fn new(link: MemoryConfig, limits: &Limits) -> Result<Self> {
        let (left, right) = MemoryDevice::pair(link);
        Self::on(left, right, limits)
    }
}

impl<D: Device> Pair<D> {
    /// Two stacks on devices that reach each other.
    pub fn on(left: D, right: D, limits: &Limits) -> Result<Self> {
        let station = |address: Ipv4Addr, device| {
            Stack::builder()
                .address(IpNet::V4(Ipv4Net::new(address, 24)?))
                .limits(limits.clone())
                .build_shard(device)
                .context("building a stack")
        };
        let (client, client_shard) = station(CLIENT, left)?;
        let (server, server_shard) = station(SERVER, right)?;
        Ok(Self { client, server, client_shard, server_shard, clock: Clock::now() })
    }

    /// Turns the client once. True: it received or sent something.
    pub fn turn_client(&mut self) -> io::Result<bool> {
        self.client_shard.turn(self.now()).map(|turn| turn.busy)
    }

    /// Turns the server once. True: it received or sent something.
    pub fn turn_server(&mut self) -> io::Result<bool> {
        self.server_shard.turn(self.now()).map(|turn| turn.busy)
    }

    /// Opens `count` connections. All of their ends are nonblocking and send without delay.
    pub fn connect(&mut self, count: usize) -> Result<Vec<Flow>> {
        let mut flows = Vec::with_capacity(count);
        for (n, port) in (0..count.div_ceil(FLOWS_PER_PORT)).zip(FIRST_PORT..) {
            let address = SocketAddr::new(IpAddr::V4(SERVER), port);
            let listener = TcpListener::bind(&self.server, address)?;
            listener.set_nonblocking(true);
            let end = count.min((n + 1) * FLOWS_PER_PORT);
            while flows.len() < end {
                // The first one goes alone: a queue for a neighbour holds fewer SYNs than a batch.
                let most = if flows.is_empty() { 1 } else { CONNECTING };
                let batch = most.min(end - flows.len());
                self.connect_batch(&listener, batch, &mut flows)?;
            }
        }
        // Both, whatever the first one says.
        while self.turn_client()? | self.turn_server()? {}
        Ok(flows)
    }

    fn connect_batch(
        &mut self,
        listener: &TcpListener,
        batch: usize,
        flows: &mut Vec<Flow>,
    ) -> Result<()> {
        let mut waiting = std::collections::HashMap::new();
        for _ in 0..batch {
            let client = TcpStream::start(&self.client, listener.local_addr())?;
            waiting.insert(client.local_addr(), client);
        }
        let start = Clock::now();
        while start.elapsed() < PATIENCE {
            self.turn_client()?;
            self.turn_server()?;
            while let Some((server, peer)) = ready(listener.accept())? {
                let client = waiting.remove(&peer).context("a connection nobody has opened")?;
                for end in [&client, &server] {
                    end.set_nonblocking(true);
                    end.set_nodelay(true);
                }
                flows.push(Flow { client, server });
            }
            if waiting.is_empty() {
                return Ok(());
            }
        }
        let (client, server) = (self.client.stats(), self.server.stats());
        bail!(
            "{} of {batch} connections were not accepted; client: {client:?}; server: {server:?}",
            waiting.len()
        )
    }

    /// Sends `message` from the client to the server and back; `buffer` is as long as it.
    ///
    /// Four turns, unless delayed acknowledgements of other connections fill a turn.
    pub fn echo(&mut self, flow: &Flow, message: &[u8], buffer: &mut [u8]) -> Result<()> {
        (&flow.client).write_all(message)?;
        for _ in 0..TURNS {
            self.turn_client()?;
            self.turn_server()?;
            if ready((&flow.server).read_exact(buffer))?.is_some() {
                break;
            }
        }
        (&flow.server).write_all(buffer)?;
        for _ in 0..TURNS {
            self.turn_server()?;
            self.turn_client()?;
            if ready((&flow.client).read_exact(buffer))?.is_some() {
                return Ok(());
            }
        }
        bail!("no echo within {TURNS} turns")
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.elapsed().as_nanos() as u64)
    }
}

/// The result of a nonblocking call; `None` if it would have to wait.
pub fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_echoes_its_own_bytes() {
        let mut pair = Pair::new(MemoryConfig::default(), &Limits::default()).unwrap();
        let flows = pair.connect(300).unwrap();
        for (n, flow) in flows.iter().enumerate() {
            assert_eq!(flow.client.local_addr(), flow.server.peer_addr());
            let message = [n as u8; 64];
            let mut buffer = [0; 64];
            pair.echo(flow, &message, &mut buffer).unwrap();
            assert_eq!(buffer, message);
        }
    }
}
