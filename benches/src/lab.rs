//! Two network namespaces for one measurement, and a device between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv4Net};
use underpass_drivers::lab::{Namespace, veth};
use underpass_drivers::{AnyDevice, Spec};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PREFIX: u8 = 24;
const PORT: u16 = 5001;
/// Features of a veth that let superframes and partial checksums through, as `ethtool -K` calls them.
const OFFLOADS: [&str; 5] = ["tso", "gso", "gro", "tx", "sg"];

/// What is between the stack and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A TAP interface.
    Tap,
    /// A veth pair, with an AF_PACKET socket on the stack's end.
    Packet,
    /// A veth pair, with an AF_XDP socket on the stack's end.
    Xdp,
    /// A veth pair, with the ring of our kernel module on the stack's end.
    Kring,
}

impl Wire {
    /// As the spec of its device begins.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
            Self::Xdp => "xdp",
            Self::Kring => "kring",
        }
    }

    /// Whether the device can leave checksums and segmentation to the kernel.
    pub fn has_offloads(self) -> bool {
        self != Self::Xdp
    }

    fn spec(self, offload: bool) -> Result<Spec> {
        let offload = if offload { "on" } else { "off" };
        let text = match self {
            Self::Tap => format!("tap:tap0,offload={offload},host={PEER}/{PREFIX}"),
            Self::Packet => format!("packet:own,offload={offload}"),
            // Every frame is for the stack: the kernel has no address on the interface.
            Self::Xdp => "xdp:own,share=off".to_owned(),
            Self::Kring => format!("kring:own,share=off,offload={offload}"),
        };
        Ok(text.parse()?)
    }
}

/// The stack's namespace and that of the kernel it talks to.
pub struct Lab {
    /// Where the stack's end of the link is.
    pub own: Namespace,
    /// Where the kernel is that has [`peer_address`].
    pub peer: Namespace,
}

impl Lab {
    /// Two namespaces without a link.
    pub fn new() -> Result<Self> {
        Ok(Self { own: Namespace::new()?, peer: Namespace::new()? })
    }

    /// A device whose other end is the kernel in `peer`.
    pub fn device(&self, wire: Wire, offload: bool) -> Result<AnyDevice> {
        let spec = wire.spec(offload)?;
        let namespace = if wire == Wire::Tap {
            &self.peer
        } else {
            self.veth(offload)?;
            &self.own
        };
        namespace.run(|| AnyDevice::open(&spec)).with_context(|| format!("opening {spec}"))
    }

    /// A link between the kernels of both namespaces.
    pub fn kernels(&self, offload: bool) -> Result<()> {
        self.veth(offload)?;
        self.own.netlink(|netlink| netlink.add_address("own", OWN.into(), PREFIX))?;
        Ok(())
    }

    /// A link between both namespaces; the peer has its address.
    fn veth(&self, offload: bool) -> Result<()> {
        veth((&self.own, "own"), (&self.peer, "peer"))?;
        self.peer.netlink(|netlink| netlink.add_address("peer", PEER.into(), PREFIX))?;
        if !offload {
            switch_offloads_off(&self.own, "own")?;
            switch_offloads_off(&self.peer, "peer")?;
        }
        Ok(())
    }
}

/// Where the kernel in [`Lab::peer`] listens.
pub fn peer_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(PEER), PORT)
}

/// The address that the stack should have.
pub fn own_net() -> Result<IpNet> {
    Ok(Ipv4Net::new(OWN, PREFIX)?.into())
}

fn switch_offloads_off(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-K", interface]);
    for feature in OFFLOADS {
        ethtool.args([feature, "off"]);
    }
    let output = namespace
        .run(|| ethtool.output())
        .context("running ethtool, which switches a veth's offloads off (Debian: ethtool)")?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ethtool -K {interface}: {message}");
    Ok(())
}
