//! The links that are measured, each between our end and the kernel's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use underpass::Stack;
use underpass_drivers::AnyDevice;
use underpass_drivers::lab::{LabError, Namespace, veth};

/// Address of our end.
pub(super) const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 2));
/// Address of the kernel's end.
pub(super) const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1));

const PREFIX: u8 = 24;

/// What connects both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Our stack on a TAP device, the kernel on its other side.
    Tap,
    /// Our stack on AF_PACKET at one end of a veth pair, the kernel at the other.
    Packet,
    /// Our stack on AF_XDP at one end of a veth pair, the kernel at the other.
    #[cfg(feature = "xdp")]
    Xdp,
    /// The kernel at both ends of a veth pair, to compare with.
    Kernel,
}

impl Link {
    pub(super) const ALL: &[Self] = &[
        Self::Tap,
        Self::Packet,
        #[cfg(feature = "xdp")]
        Self::Xdp,
        Self::Kernel,
    ];
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
            #[cfg(feature = "xdp")]
            Self::Xdp => "xdp",
            Self::Kernel => "kernel",
        })
    }
}

/// Our stack on a TAP device in `namespace`; or why there is none here.
pub(super) fn attach_tap(namespace: &Namespace) -> Result<Result<Stack, String>> {
    attach(namespace, &format!("tap:tap0,host={PEER}/{PREFIX}"))
}

/// Our stack at the `ours` end of a new veth pair, called `veth0`; or why it cannot be there.
pub(super) fn attach_veth(
    ours: &Namespace,
    peer: &Namespace,
    spec: &str,
) -> Result<Result<Stack, String>> {
    lay(ours, peer)?;
    attach(ours, spec)
}

/// A veth pair with an address at each end.
pub(super) fn lay_kernel(ours: &Namespace, peer: &Namespace) -> Result<(), LabError> {
    lay(ours, peer)?;
    ours.netlink(|netlink| netlink.add_address("veth0", OURS, PREFIX))
}

fn lay(ours: &Namespace, peer: &Namespace) -> Result<(), LabError> {
    veth((ours, "veth0"), (peer, "veth1"))?;
    peer.netlink(|netlink| netlink.add_address("veth1", PEER, PREFIX))
}

fn attach(namespace: &Namespace, spec: &str) -> Result<Result<Stack, String>> {
    let spec = spec.parse()?;
    let device = match namespace.run(|| AnyDevice::open(&spec)) {
        Ok(device) => device,
        Err(error) => return Ok(Err(error.to_string())),
    };

    let stack = Stack::builder()
        .address(IpNet::new(OURS, PREFIX)?)
        .build(device)
        .with_context(|| format!("starting the stack on {spec}"))?;
    Ok(Ok(stack))
}
