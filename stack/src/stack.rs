use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use underpass_devices::{Device, Medium};

use crate::config::Limits;
use crate::core::Core;
use crate::driver;
use crate::random::Random;
use crate::routes::{Routes, link_local};
use crate::shard::{Shard, Shared};
use crate::stats::Stats;

/// Smallest MTU IPv6 works over (RFC 8200 §5); also enough for every header we write.
const MIN_MTU: usize = 1280;

/// A TCP/IP stack on one packet device. A handle: cheap to clone, and the stack lives as long as any
/// handle or socket of it does.
#[derive(Clone)]
pub struct Stack(Arc<Inner>);

struct Inner {
    shard: Arc<Shared>,
    routes: Routes,
    limits: Limits,
    stop: Arc<AtomicBool>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

/// Configures a [`Stack`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    addresses: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    limits: Limits,
    busy_poll: Duration,
    seed: Option<u64>,
}

/// Why a stack was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No address was given.
    #[error("the stack has no address: give it one, such as 10.7.0.2/24")]
    NoAddress,
    /// Multicast, unspecified, loopback, or the broadcast address of its own network.
    #[error("{0} is not an address a station can have")]
    BadAddress(IpNet),
    /// The same address twice.
    #[error("{0} is given twice")]
    DuplicateAddress(IpAddr),
    /// No address of ours is on the gateway's network.
    #[error("the gateway {0} is on no network of the stack's addresses, so it cannot be reached")]
    GatewayNotOnLink(IpAddr),
    /// Two gateways of one IP version.
    #[error("{0} is a second gateway for the same IP version")]
    SecondGateway(IpAddr),
    /// Under 1280 bytes.
    #[error("the device's MTU of {0} bytes is below the 1280 that IPv6 needs (RFC 8200 section 5)")]
    SmallMtu(usize),
    /// A limit is zero or too large.
    #[error("the limit {0}")]
    BadLimit(&'static str),
    /// The operating system gave no randomness, thread or descriptor.
    #[error("the operating system refused what the stack needs: {0}")]
    Os(#[from] io::Error),
}

impl Builder {
    /// Adds an address with the length of its network's prefix. IPv6 link-local addresses are made
    /// from the device's MAC as soon as there is any IPv6 address.
    #[must_use]
    pub fn address(mut self, address: IpNet) -> Self {
        self.addresses.push(address);
        self
    }

    /// Sets where packets for other networks go, one gateway per IP version.
    #[must_use]
    pub fn gateway(mut self, gateway: IpAddr) -> Self {
        self.gateways.push(gateway);
        self
    }

    /// Sets every limit.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long the stack's thread polls the device after the last work before it sleeps. Zero, the
    /// default, costs a wake-up per quiet moment; a few hundred microseconds cost a core and save
    /// it.
    #[must_use]
    pub fn busy_poll(mut self, spin: Duration) -> Self {
        self.busy_poll = spin;
        self
    }

    /// Derives everything random from `seed`, so that a simulation repeats. Never for a network:
    /// sequence numbers and hash keys become guessable.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts the stack on `device`, on a thread of its own.
    pub fn build<D: Device + Send + 'static>(self, device: D) -> Result<Stack, BuildError> {
        let busy_poll = self.busy_poll;
        let (stack, shard) = self.build_shard(device)?;
        let stop = Arc::clone(&stack.0.stop);
        let driver = thread::Builder::new()
            .name("underpass".into())
            .spawn(move || driver::run(shard, &stop, busy_poll))?;
        *stack.0.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        Ok(stack)
    }

    /// Makes the stack but leaves it to the caller to turn its [`Shard`].
    pub fn build_shard<D: Device>(self, device: D) -> Result<(Stack, Shard<D>), BuildError> {
        let caps = device.caps().clone();
        if caps.mtu < MIN_MTU {
            return Err(BuildError::SmallMtu(caps.mtu));
        }
        check_limits(&self.limits)?;
        let mut addresses = self.addresses;
        check_addresses(&addresses)?;
        if caps.medium == Medium::Ethernet && addresses.iter().any(|net| net.addr().is_ipv6()) {
            let own = link_local(caps.mac);
            if !addresses.iter().any(|net| net.addr() == own) {
                addresses.push(Ipv6Net::new_assert(own, 64).into());
            }
        }
        check_gateways(&self.gateways, &addresses)?;
        let routes = Routes::new(addresses, self.gateways);
        let mut random = match self.seed {
            Some(seed) => Random::Seeded(seed),
            None => Random::from_os()?,
        };
        let core = Core::new(caps, routes.clone(), &self.limits, &mut random);
        let shard = Shard::new(device, core)?;
        let stack = Stack(Arc::new(Inner {
            shard: Arc::clone(shard.shared()),
            routes,
            limits: self.limits,
            stop: Arc::default(),
            driver: Mutex::default(),
        }));
        Ok((stack, shard))
    }
}

impl Stack {
    /// A stack to be configured.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The stack's addresses, those made by itself included.
    pub fn addresses(&self) -> &[IpNet] {
        self.0.routes.addresses()
    }

    /// The limits it was built with.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What it has done and what it holds.
    pub fn stats(&self) -> Stats {
        self.shard().with(|core| core.stats())
    }

    pub(crate) fn shard(&self) -> &Shared {
        &self.0.shard
    }

    /// An address sockets may bind to: one of ours, or the unspecified one.
    pub(crate) fn check_local(&self, address: SocketAddr) -> io::Result<()> {
        if address.ip().is_unspecified() || self.0.routes.is_own(address.ip()) {
            return Ok(());
        }
        let own: Vec<String> = self.addresses().iter().map(|net| net.addr().to_string()).collect();
        Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("{} is not an address of this stack (it has {})", address.ip(), own.join(", ")),
        ))
    }

    /// The address to talk to `remote` from.
    pub(crate) fn source_for(&self, remote: IpAddr) -> io::Result<IpAddr> {
        if !self.0.routes.is_peer(remote) {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{remote} is not the address of another station"),
            ));
        }
        self.0.routes.source_for(remote).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NetworkUnreachable,
                format!(
                    "no route to {remote}: it is on no connected network and there is no gateway"
                ),
            )
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.shard.ring();
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a task that the driver itself has woken.
        if let Some(driver) = driver.filter(|driver| driver.thread().id() != thread::current().id())
        {
            let _panicked = driver.join();
        }
    }
}

fn check_limits(limits: &Limits) -> Result<(), BuildError> {
    let Limits { flows, send_buffer, recv_buffer, udp_datagrams, neighbors, .. } = limits;
    if *recv_buffer > 1 << 30 || *send_buffer > 1 << 30 {
        return Err(BuildError::BadLimit("of a TCP buffer is 1 GiB"));
    }
    if [flows, send_buffer, recv_buffer, udp_datagrams, neighbors].into_iter().any(|l| *l == 0) {
        return Err(BuildError::BadLimit(
            "on flows, buffers, datagrams and neighbours is at least 1",
        ));
    }
    if *flows > u32::MAX as usize {
        return Err(BuildError::BadLimit("on flows is at most 4294967295"));
    }
    Ok(())
}

fn check_addresses(addresses: &[IpNet]) -> Result<(), BuildError> {
    if addresses.is_empty() {
        return Err(BuildError::NoAddress);
    }
    for (n, net) in addresses.iter().enumerate() {
        let ip = net.addr();
        let broadcast = ip.is_ipv4() && net.prefix_len() < 31 && ip == net.broadcast();
        if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || broadcast {
            return Err(BuildError::BadAddress(*net));
        }
        if addresses[..n].iter().any(|other| other.addr() == ip) {
            return Err(BuildError::DuplicateAddress(ip));
        }
    }
    Ok(())
}

fn check_gateways(gateways: &[IpAddr], addresses: &[IpNet]) -> Result<(), BuildError> {
    for (n, gateway) in gateways.iter().enumerate() {
        if gateways[..n].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            return Err(BuildError::SecondGateway(*gateway));
        }
        if !addresses.iter().any(|net| net.contains(gateway)) {
            return Err(BuildError::GatewayNotOnLink(*gateway));
        }
    }
    Ok(())
}
