//! Two network namespaces for one measurement, and a device between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use ipnet::{IpNet, Ipv4Net};
use underpass_drivers::lab::{Namespace, veth};
use underpass_drivers::{AnyDevice, Spec};

use crate::testpmd::Pmd;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PREFIX: u8 = 24;
const PORT: u16 = 5001;
/// The stack's end of a veth pair.
pub const OWN_INTERFACE: &str = "own";
/// The interface of a TAP.
const TAP: &str = "tap0";
/// Features of a veth that let superframes and partial checksums through, as `ethtool -K` calls them.
const OFFLOADS: [&str; 5] = ["tso", "gso", "gro", "tx", "sg"];

/// What is between the stack and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// A TAP interface.
    Tap,
    /// A veth pair, with an AF_PACKET socket on the stack's end.
    Packet,
    /// A veth pair, with an AF_XDP socket on the stack's end.
    Xdp,
    /// A TAP interface of DPDK's driver.
    DpdkTap,
    /// A veth pair, with DPDK's AF_PACKET driver on the stack's end.
    DpdkPacket,
    /// A veth pair, with DPDK's AF_XDP driver on the stack's end.
    DpdkXdp,
    /// A veth pair, with the ring of our kernel module on the stack's end.
    Kring,
}

impl Wire {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
            Self::Xdp => "xdp",
            Self::DpdkTap => "dpdk-tap",
            Self::DpdkPacket => "dpdk-packet",
            Self::DpdkXdp => "dpdk-xdp",
            Self::Kring => "kring",
        }
    }

    /// Whether the device can leave checksums and segmentation to the kernel. DPDK's TAP could, but for
    /// segments as long as the MTU.
    pub fn has_offloads(self) -> bool {
        matches!(self, Self::Tap | Self::Packet | Self::Kring)
    }

    /// The driver of DPDK, if it is one that `dpdk-testpmd` is measured with.
    pub fn pmd(self) -> Option<Pmd> {
        match self {
            Self::DpdkPacket => Some(Pmd::AfPacket),
            Self::DpdkXdp => Some(Pmd::AfXdp),
            Self::Tap | Self::Packet | Self::Xdp | Self::DpdkTap | Self::Kring => None,
        }
    }

    /// Whether the device makes the kernel's interface.
    fn is_tap(self) -> bool {
        matches!(self, Self::Tap | Self::DpdkTap)
    }

    fn spec(self, offload: bool) -> Result<Spec> {
        /// Devices of DPDK have names of their own in a process.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let offload = if offload { "on" } else { "off" };
        let text = match self {
            Self::Tap => format!("tap:{TAP},offload={offload},host={PEER}/{PREFIX}"),
            Self::Packet => format!("packet:{OWN_INTERFACE},offload={offload}"),
            // Every frame is for the stack: the kernel has no address on the interface.
            Self::Xdp => format!("xdp:{OWN_INTERFACE},share=off"),
            Self::DpdkTap => format!("dpdk:net_tap{number},iface={TAP},offload={offload}"),
            Self::DpdkPacket => format!("dpdk:net_af_packet{number},iface={OWN_INTERFACE}"),
            Self::DpdkXdp => format!("dpdk:net_af_xdp{number},iface={OWN_INTERFACE}"),
            Self::Kring => format!("kring:{OWN_INTERFACE},share=off,offload={offload}"),
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
        let namespace = if wire.is_tap() {
            &self.peer
        } else {
            self.veth(offload)?;
            &self.own
        };
        let device =
            namespace.run(|| AnyDevice::open(&spec)).with_context(|| format!("opening {spec}"))?;
        if wire == Wire::DpdkTap {
            self.peer.netlink(|netlink| {
                netlink.add_address(TAP, PEER.into(), PREFIX)?;
                netlink.set_up(TAP, true)
            })?;
        }
        Ok(device)
    }

    /// A link between the kernels of both namespaces.
    pub fn kernels(&self, offload: bool) -> Result<()> {
        self.veth(offload)?;
        self.own.netlink(|netlink| netlink.add_address(OWN_INTERFACE, OWN.into(), PREFIX))?;
        Ok(())
    }

    /// A link between both namespaces; the peer has its address.
    pub fn veth(&self, offload: bool) -> Result<()> {
        veth((&self.own, OWN_INTERFACE), (&self.peer, "peer"))?;
        self.peer.netlink(|netlink| netlink.add_address("peer", PEER.into(), PREFIX))?;
        if !offload {
            switch_offloads_off(&self.own, OWN_INTERFACE)?;
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
