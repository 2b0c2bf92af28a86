//! The options that say where a stack is attached.

use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use underpass::devices::Pcap;
use underpass::{Interface, Stack};
use underpass_drivers::{AnyDevice, Spec};

/// A device, and what the stack is called on its link.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Attachment {
    /// Packet device, such as packet:eth1 or tap:tap0,host=10.7.0.1/24; `underpass doctor` lists
    /// what works here
    #[arg(long, value_name = "SPEC")]
    pub(crate) device: Spec,
    /// Address and prefix length of this stack on the link; repeat it for several
    #[arg(long, value_name = "CIDR", required = true)]
    pub(crate) addr: Vec<IpNet>,
    /// Router to everything beyond the link; at most one per IP version
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// Also write every frame to this pcapng file; with several shards to one for each, FILE.0, FILE.1
    /// and so on
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

impl Attachment {
    /// Opens the device and starts a stack on it.
    pub(crate) fn stack(&self) -> Result<Stack> {
        self.stack_of(1)
    }

    /// The same with several shards, each on a queue of the device and a thread of its own.
    pub(crate) fn stack_of(&self, shards: usize) -> Result<Stack> {
        let mut builder = Stack::builder();
        for addr in &self.addr {
            builder = builder.address(*addr);
        }
        for gateway in &self.gateway {
            builder = builder.gateway(*gateway);
        }
        let devices = AnyDevice::open_queues(&self.device, shards)?;
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

    fn capture(&self, device: AnyDevice, path: &Path) -> Result<Pcap<AnyDevice, BufWriter<File>>> {
        let file = File::create(path).map(BufWriter::new);
        let capture = file
            .and_then(|file| Pcap::new(device, &self.device.to_string(), file, SystemTime::now()));
        capture.with_context(|| format!("--pcap {}", path.display()))
    }

    /// Fails, with the remedy, if there is no way to `ip`.
    pub(crate) fn check_route(&self, ip: IpAddr) -> Result<()> {
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
