//! The options that say where a stack is attached.

use std::fs::{self, File};
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use tokio::time::timeout;
use underpass::devices::{Filter, FilterHandle, Pcap, RuleReport};
use underpass::{Address, DnsConfig, Hosts, Interface, Origin, Stack};
#[cfg(feature = "xdp")]
use underpass_drivers::xdp::{ControlError, XdpControl};
use underpass_drivers::{AnyDevice, Spec};

use crate::rules::Rules;

/// How long the network may take to give addresses.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device, and what the stack is called on its link.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Attachment {
    /// Packet device, such as packet:eth1 or tap:tap0,host=10.7.0.1/24; `underpass doctor` lists
    /// what works here
    #[arg(long, value_name = "SPEC")]
    pub(crate) device: Spec,
    /// Address and prefix length of this stack on the link; repeat it for several
    #[arg(long, value_name = "CIDR", required_unless_present_any = ["dhcp", "slaac"])]
    addr: Vec<IpNet>,
    /// Get an IPv4 address, routes and DNS servers from a DHCP server, and give them back at the end
    #[arg(long)]
    dhcp: bool,
    /// Take IPv6 addresses, routes and DNS servers from what routers advertise
    #[arg(long)]
    slaac: bool,
    /// Router to everything beyond the link; at most one per IP version
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// DNS server; repeat it for several, which are asked in turn
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<IpAddr>,
    /// Domain to complete short names with; repeat it for several
    #[arg(long, value_name = "DOMAIN")]
    search: Vec<String>,
    /// Names with fixed addresses, in the format of /etc/hosts
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// Also write every frame, but those that a rule drops, to this pcapng file; with several shards to one for each, FILE.0, FILE.1
    /// and so on
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    #[command(flatten)]
    rules: Rules,
    /// Those at work in software.
    #[arg(skip)]
    filter: FilterHandle,
}

/// A queue of the device behind the rules.
type Filtered = Filter<AnyDevice>;

impl Attachment {
    /// Opens the device and starts a stack on it.
    pub(crate) fn stack(&self) -> Result<Stack> {
        self.stack_of(1)
    }

    /// The same with several shards, each on a queue of the device and a thread of its own.
    pub(crate) fn stack_of(&self, shards: usize) -> Result<Stack> {
        let mut builder = Stack::builder().dhcp(self.dhcp).slaac(self.slaac);
        for addr in &self.addr {
            builder = builder.address(*addr);
        }
        for gateway in &self.gateway {
            builder = builder.gateway(*gateway);
        }
        for server in &self.dns {
            builder = builder.dns_server(*server);
        }
        builder = builder.dns(self.names()?);
        let devices = self.open(shards)?;
        let stack = match &self.pcap {
            None => builder.build_all([Interface::with_queues(devices)]),
            Some(path) => {
                let captures: Vec<_> = devices
                    .into_iter()
                    .enumerate()
                    .map(|(n, device)| {
                        let mut path = path.clone().into_os_string();
                        if shards > 1 {
                            path.push(format!(".{n}"));
                        }
                        self.capture(device, Path::new(&path))
                    })
                    .collect::<Result<_>>()?;
                builder.build_all([Interface::with_queues(captures)])
            }
        };
        stack.with_context(|| format!("starting the stack on {}", self.device))
    }

    /// Opens the device, with the rules in front of it: in its XDP program if it has one, otherwise
    /// in software.
    fn open(&self, shards: usize) -> Result<Vec<Filtered>> {
        let rules = self.rules.all()?;
        let devices = AnyDevice::open_queues(&self.device, shards)?;
        #[cfg(feature = "xdp")]
        if let Some(control) = self.xdp_control() {
            let mut control = control?;
            rules.iter().try_for_each(|rule| control.insert(*rule))?;
            return Ok(self.filtered(devices));
        }
        rules.iter().try_for_each(|rule| self.filter.insert(*rule))?;
        Ok(self.filtered(devices))
    }

    fn filtered(&self, devices: Vec<AnyDevice>) -> Vec<Filtered> {
        let filtered = |device| Filter::new(device, self.filter.clone());
        devices.into_iter().map(filtered).collect()
    }

    /// The rules and what became of the packets that they match, as long as the device is open.
    pub(crate) fn rules(&self) -> Vec<RuleReport> {
        #[cfg(feature = "xdp")]
        if let Some(control) = self.xdp_control() {
            // Someone has taken the program off the interface.
            return control.and_then(|control| control.rules()).unwrap_or_default();
        }
        self.filter.rules()
    }

    #[cfg(feature = "xdp")]
    fn xdp_control(&self) -> Option<Result<XdpControl, ControlError>> {
        match &self.device {
            Spec::Xdp { name, .. } => Some(XdpControl::of_interface(name)),
            _ => None,
        }
    }

    fn capture(&self, device: Filtered, path: &Path) -> Result<Pcap<Filtered, BufWriter<File>>> {
        let file = File::create(path).map(BufWriter::new);
        let capture = file
            .and_then(|file| Pcap::new(device, &self.device.to_string(), file, SystemTime::now()));
        capture.with_context(|| format!("--pcap {}", path.display()))
    }

    /// Waits for the addresses that the network is to give.
    pub(crate) async fn configured(&self, stack: &Stack) -> Result<()> {
        for (wanted, origin, giver) in
            [(self.dhcp, Origin::Dhcp, "DHCP server"), (self.slaac, Origin::Router, "IPv6 router")]
        {
            let usable = |a: &Address| a.origin == origin && a.is_usable();
            let given = stack.wait_addresses(|all| !wanted || all.iter().any(usable));
            match timeout(PATIENCE, given).await {
                Ok(result) => result.with_context(|| format!("waiting for a {giver}"))?,
                Err(_) => bail!(
                    "no {giver} has given an address on {} within {} seconds; check that there is \
                     one on that link, or use --addr",
                    self.device,
                    PATIENCE.as_secs()
                ),
            }
        }
        Ok(())
    }

    /// Fails, with the remedy, if `host` is an address to which there is no way.
    pub(crate) fn check_host(&self, host: &str) -> Result<()> {
        host.parse().map_or(Ok(()), |ip| self.check_route(ip))
    }

    fn names(&self) -> Result<DnsConfig> {
        let mut config = DnsConfig::default();
        config.search.clone_from(&self.search);
        if let Some(path) = &self.hosts {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("--hosts {}", path.display()))?;
            config.hosts = Hosts::parse(&text);
        }
        Ok(config)
    }

    fn check_route(&self, ip: IpAddr) -> Result<()> {
        if self.dhcp || self.slaac {
            return Ok(());
        }
        let mut same = self.addr.iter().filter(|a| a.addr().is_ipv4() == ip.is_ipv4()).peekable();
        if same.peek().is_none() {
            bail!("no way to {ip}: this stack has no address of that IP version; add --addr");
        }
        let on_link = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let routed = self.gateway.iter().any(|g| g.is_ipv4() == ip.is_ipv4());
        if !on_link && !routed && !same.any(|net| net.contains(&ip)) {
            let nets: Vec<_> = self.addr.iter().map(ToString::to_string).collect();
            bail!("no way to {ip}: it is not on the link ({}); add --gateway", nets.join(", "));
        }
        Ok(())
    }
}
