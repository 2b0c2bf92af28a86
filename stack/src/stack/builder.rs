use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use underpass_devices::Device;

use super::{Inner, Stack};
use crate::config::Limits;
use crate::core::Core;
use crate::dhcp;
use crate::dns::{self, DnsConfig};
use crate::driver;
use crate::interface::{Config, Interface};
use crate::network::MAX_INTERFACES;
use crate::random::Random;
use crate::routes::Routes;
use crate::shard::Shard;
use crate::slaac;

/// Configures a [`Stack`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    /// Of the first interface.
    config: Config,
    dns_servers: Vec<IpAddr>,
    dns: DnsConfig,
    limits: Limits,
    busy_poll: Duration,
    seed: Option<u64>,
}

/// Why a stack was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No address was given.
    #[error("the stack has no address: give it one, such as 10.7.0.2/24, DHCP or SLAAC")]
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
    /// No interface, or more than a shard can serve.
    #[error("a stack has 1 to {MAX_INTERFACES} interfaces, not {0}")]
    Interfaces(usize),
    /// More or less than one queue pair of an interface.
    #[error("interface {interface} brings {queues} queue pairs; one is what a shard serves")]
    Queues {
        /// Counted from 0 in the order they were given.
        interface: usize,
        /// How many it brings.
        queues: usize,
    },
    /// Automatic configuration of a device that carries bare IP packets.
    #[error("DHCP and SLAAC on interface {0} need a device with Ethernet frames")]
    NoEthernet(usize),
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
        self.config.addresses.push(address);
        self
    }

    /// Sets where packets for other networks go, one gateway per IP version.
    #[must_use]
    pub fn gateway(mut self, gateway: IpAddr) -> Self {
        self.config.gateways.push(gateway);
        self
    }

    /// Asks a DHCP server for an IPv4 address, routes, DNS servers and MTU (RFC 2131), and gives the
    /// address back when the stack ends. [`Stack::configured`] waits for it.
    #[must_use]
    pub fn dhcp(mut self, on: bool) -> Self {
        self.config.dhcp = on;
        self
    }

    /// Takes IPv6 addresses, routes, DNS servers and MTU from what routers advertise (RFC 4862).
    /// Addresses are used once it is sure that nobody else has them.
    #[must_use]
    pub fn slaac(mut self, on: bool) -> Self {
        self.config.slaac = on;
        self
    }

    /// Adds a DNS server, which is asked when those before it do not answer.
    #[must_use]
    pub fn dns_server(mut self, server: IpAddr) -> Self {
        self.dns_servers.push(server);
        self
    }

    /// Sets how names are looked up.
    #[must_use]
    pub fn dns(mut self, config: DnsConfig) -> Self {
        self.dns = config;
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
        self.build_all([Interface::new(device)])
    }

    /// Makes the stack but leaves it to the caller to turn its [`Shard`].
    pub fn build_shard<D: Device>(self, device: D) -> Result<(Stack, Shard<D>), BuildError> {
        self.build_shard_all([Interface::new(device)])
    }

    /// Starts the stack on several interfaces, on a thread of its own. Addresses and gateways given
    /// to the builder itself are those of the first one.
    pub fn build_all<D: Device + Send + 'static>(
        self,
        interfaces: impl IntoIterator<Item = Interface<D>>,
    ) -> Result<Stack, BuildError> {
        let busy_poll = self.busy_poll;
        let (stack, shard) = self.build_shard_all(interfaces)?;
        let stop = Arc::clone(&stack.0.stop);
        let driver = thread::Builder::new()
            .name("underpass".into())
            .spawn(move || driver::run(shard, &stop, busy_poll))?;
        *stack.0.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        Ok(stack)
    }

    /// Makes the stack on several interfaces but leaves it to the caller to turn its [`Shard`].
    pub fn build_shard_all<D: Device>(
        self,
        interfaces: impl IntoIterator<Item = Interface<D>>,
    ) -> Result<(Stack, Shard<D>), BuildError> {
        let mut interfaces: Vec<Interface<D>> = interfaces.into_iter().collect();
        if interfaces.len() > MAX_INTERFACES {
            return Err(BuildError::Interfaces(interfaces.len()));
        }
        interfaces.first_mut().ok_or(BuildError::Interfaces(0))?.config.extend(self.config);
        check_limits(&self.limits)?;
        let mut routes = Routes::default();
        let (mut devices, mut caps, mut automatic) = (Vec::new(), Vec::new(), Vec::new());
        for (n, interface) in interfaces.into_iter().enumerate() {
            let Interface { queues, config } = interface;
            let [device] = <[D; 1]>::try_from(queues)
                .map_err(|queues| BuildError::Queues { interface: n, queues: queues.len() })?;
            config.apply(n, device.caps(), &mut routes)?;
            caps.push(device.caps().clone());
            devices.push(device);
            automatic.push((config.dhcp, config.slaac));
        }
        if routes.addresses().is_empty() && automatic.iter().all(|on| *on == (false, false)) {
            return Err(BuildError::NoAddress);
        }
        let mut random = match self.seed {
            Some(seed) => Random::Seeded(seed),
            None => Random::from_os()?,
        };
        let mut core = Core::new(caps, routes, &self.limits, &mut random);
        for (link, (dhcp, slaac)) in core.net.links.iter_mut().zip(automatic) {
            let mac = link.caps.mac;
            link.dhcp = dhcp.then(|| dhcp::Client::new(mac, random.fork()));
            link.slaac = slaac.then(|| slaac::Host::new(mac, random.fork()));
        }
        let shard = Shard::new(devices, core)?;
        let stack = Stack(Arc::new(Inner {
            shard: Arc::clone(shard.shared()),
            limits: self.limits,
            dns: dns::State::new(self.dns_servers, self.dns, random),
            stop: Arc::default(),
            driver: Mutex::default(),
        }));
        Ok((stack, shard))
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
