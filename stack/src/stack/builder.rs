use std::io;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant as Clock};

use ipnet::IpNet;
use underpass_devices::{Device, Steering};

use super::{Inner, Stack};
use crate::bell::Bell;
use crate::config::Limits;
use crate::core::Core;
use crate::dhcp;
use crate::dns::{self, DnsConfig};
use crate::driver::{self, Drive};
use crate::handover::siblings;
use crate::interface::{Config, Interface};
use crate::network::{MAX_INTERFACES, share_routes};
use crate::random::Random;
use crate::routes::Routes;
use crate::runtime::Mailbox;
use crate::shard::Shard;
use crate::slaac;

/// Shards of one stack; the port table holds their numbers in bytes.
const MAX_SHARDS: usize = 64;

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
    /// A shard serves one queue pair of each interface.
    #[error(
        "interface {interface} brings {queues} queue pairs, and there are to be {shards} shards"
    )]
    Queues {
        /// Counted from 0 in the order they were given.
        interface: usize,
        /// How many it brings.
        queues: usize,
        /// How many it should bring: as many as the first one, at least 1 and at most 64.
        shards: usize,
    },
    /// Automatic configuration of a device that carries bare IP packets.
    #[error("DHCP and SLAAC on interface {0} need a device with Ethernet frames")]
    NoEthernet(usize),
    /// A limit is zero or too large.
    #[error("the limit {0}")]
    BadLimit(&'static str),
    /// A device cannot select the frames of the stack.
    #[error("telling the device which frames are wanted: {0}")]
    Select(#[source] io::Error),
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

    /// Starts the stack on several interfaces, on a thread of its own for each shard. Addresses and
    /// gateways given to the builder itself are those of the first one. There are as many shards as
    /// each of the interfaces has queues.
    pub fn build_all<D: Device + Send + 'static>(
        self,
        interfaces: impl IntoIterator<Item = Interface<D>>,
    ) -> Result<Stack, BuildError> {
        let busy_poll = self.busy_poll;
        let (stack, shards) = self.build_shards(interfaces)?;
        let clock = Clock::now();
        for (index, shard) in shards.into_iter().enumerate() {
            let drive = Drive::new(&shard, clock, busy_poll);
            let (stop, all) = (Arc::clone(&stack.inner.stop), stack.inner.shards.clone());
            let driver = thread::Builder::new()
                .name(format!("underpass-{index}"))
                .spawn(move || driver::run(shard, drive, &stop, &all))?;
            stack.inner.drivers.lock().unwrap_or_else(PoisonError::into_inner).push(driver);
        }
        Ok(stack)
    }

    /// Makes the stack on several interfaces with one queue each, but leaves it to the caller to turn
    /// its [`Shard`].
    pub fn build_shard_all<D: Device>(
        self,
        interfaces: impl IntoIterator<Item = Interface<D>>,
    ) -> Result<(Stack, Shard<D>), BuildError> {
        let (stack, shards) = self.build_shards(interfaces)?;
        let [shard] = <[Shard<D>; 1]>::try_from(shards).map_err(|shards| BuildError::Queues {
            interface: 0,
            queues: shards.len(),
            shards: 1,
        })?;
        Ok((stack, shard))
    }

    /// Makes the stack on several interfaces, but leaves it to the caller to turn its [`Shard`]s:
    /// shard *i* serves queue *i* of every interface.
    pub fn build_shards<D: Device>(
        self,
        interfaces: impl IntoIterator<Item = Interface<D>>,
    ) -> Result<(Stack, Vec<Shard<D>>), BuildError> {
        let mut interfaces: Vec<Interface<D>> = interfaces.into_iter().collect();
        if interfaces.len() > MAX_INTERFACES {
            return Err(BuildError::Interfaces(interfaces.len()));
        }
        interfaces.first_mut().ok_or(BuildError::Interfaces(0))?.config.extend(self.config);
        check_limits(&self.limits)?;
        let count = interfaces.first().map_or(0, |first| first.queues.len());
        let mut routes = Routes::default();
        let mut devices: Vec<Vec<D>> = (0..count).map(|_| Vec::new()).collect();
        let mut automatic = Vec::new();
        for (n, interface) in interfaces.into_iter().enumerate() {
            let Interface { queues, config } = interface;
            if queues.len() != count || !(1..=MAX_SHARDS).contains(&count) {
                let (queues, shards) = (queues.len(), count.clamp(1, MAX_SHARDS));
                return Err(BuildError::Queues { interface: n, queues, shards });
            }
            if let Some(device) = queues.first() {
                config.apply(n, device.caps(), &mut routes)?;
            }
            automatic.push((config.dhcp, config.slaac));
            for (of_shard, device) in devices.iter_mut().zip(queues) {
                of_shard.push(device);
            }
        }
        if routes.addresses().is_empty() && automatic.iter().all(|on| *on == (false, false)) {
            return Err(BuildError::NoAddress);
        }
        let mut random = match self.seed {
            Some(seed) => Random::Seeded(seed),
            None => Random::from_os()?,
        };
        let bells =
            (0..count).map(|_| Bell::new().map(Arc::new)).collect::<io::Result<Vec<_>>>()?;
        let mut cores: Vec<Core> = devices
            .iter()
            .map(|devices| {
                let caps = devices.iter().map(|device| device.caps().clone()).collect();
                Core::new(caps, routes.clone(), &self.limits, &mut random)
            })
            .collect();
        // The first shard configures the interfaces of all.
        for (link, (dhcp, slaac)) in
            cores.iter_mut().flat_map(|core| &mut core.net.links).zip(automatic)
        {
            let mac = link.caps.mac;
            link.dhcp = dhcp.then(|| dhcp::Client::new(mac, random.fork()));
            link.slaac = slaac.then(|| slaac::Host::new(&link.caps, random.fork()));
        }
        let (mut ports, steering) = (None, steering(&devices, count));
        if count > 1 {
            let len = devices.iter().flatten().map(|d| d.caps().max_frame()).max().unwrap_or(0);
            let secret = random.bytes();
            let siblings = siblings(&bells, steering, self.limits.handed_over, len);
            ports = siblings.first().map(|first| first.ports.clone());
            for (core, siblings) in cores.iter_mut().zip(siblings) {
                core.join(siblings, secret);
            }
            share_routes(cores.iter_mut().map(|core| &mut core.net));
        }
        let parts = devices.into_iter().zip(cores).zip(bells);
        let mailbox = || Mailbox::new(self.limits.mailbox);
        let mut shards: Vec<_> = parts
            .map(|((devices, core), bell)| Shard::new(devices, core, bell, mailbox()))
            .collect();
        if let Some(first) = shards.first_mut() {
            first.start().map_err(BuildError::Select)?;
        }
        let inner = Inner {
            shards: shards.iter().map(|shard| Arc::clone(shard.shared())).collect(),
            steering,
            ports,
            next: AtomicUsize::new(0),
            limits: self.limits,
            busy_poll: self.busy_poll,
            dns: dns::State::new(self.dns_servers, self.dns, random),
            stop: Arc::default(),
            drivers: Mutex::default(),
        };
        Ok((Stack { inner: Arc::new(inner), home: None }, shards))
    }
}

/// The owner of a flow is told by the hash that the first device that has one uses, so that most
/// frames arrive where they belong; otherwise by our own.
fn steering<D: Device>(devices: &[Vec<D>], shards: usize) -> Steering {
    let hash = devices.iter().flatten().find_map(|device| device.caps().steering);
    Steering::new(hash.unwrap_or_default(), shards)
}

fn check_limits(limits: &Limits) -> Result<(), BuildError> {
    let Limits {
        flows,
        send_buffer,
        recv_buffer,
        udp_datagrams,
        neighbors,
        handed_over,
        mailbox,
        ..
    } = limits;
    if *recv_buffer > 1 << 30 || *send_buffer > 1 << 30 {
        return Err(BuildError::BadLimit("of a TCP buffer is 1 GiB"));
    }
    let all = [flows, send_buffer, recv_buffer, udp_datagrams, neighbors, handed_over, mailbox];
    if all.into_iter().any(|limit| *limit == 0) {
        return Err(BuildError::BadLimit(
            "on flows, buffers, datagrams, neighbours, frames handed over and mailboxes is at least 1",
        ));
    }
    if *flows > u32::MAX as usize {
        return Err(BuildError::BadLimit("on flows is at most 4294967295"));
    }
    Ok(())
}
