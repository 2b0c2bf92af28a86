//! The AF_XDP driver on real veth pairs, with the kernel at the other end.

#![cfg(all(feature = "xdp", feature = "lab"))]

mod kernel_peer;

use std::io;

use kernel_peer::KernelPeer;
use underpass_devices::conformance::{self, Harness};
use underpass_devices::{Device, Selection, Selector};
use underpass_drivers::lab::{Namespace, veth};
use underpass_drivers::{AnyDevice, OpenError, Spec};

/// Our namespace and the peer's, joined by the veth pair `ours`, `theirs`, both silent.
struct Link {
    ours: Namespace,
    theirs: Namespace,
}

impl Link {
    fn new() -> Self {
        let link = Self { ours: Namespace::new().unwrap(), theirs: Namespace::new().unwrap() };
        for namespace in [&link.ours, &link.theirs] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        }
        veth((&link.ours, "ours"), (&link.theirs, "theirs")).unwrap();
        link
    }

    fn set_mtu(&self, mtu: usize) {
        self.ours.netlink(|n| n.set_mtu("ours", mtu)).unwrap();
        self.theirs.netlink(|n| n.set_mtu("theirs", mtu)).unwrap();
    }

    fn open(&self, options: &str) -> Result<AnyDevice, OpenError> {
        let spec: Spec = format!("xdp:ours{options}").parse().unwrap();
        self.ours.run(|| AnyDevice::open(&spec))
    }

    fn peer(&self) -> KernelPeer {
        KernelPeer::open(&self.theirs, "theirs").unwrap()
    }
}

struct Veth {
    link: Link,
    options: &'static str,
    device: Option<AnyDevice>,
    peer: KernelPeer,
}

impl Veth {
    fn new(link: Link, options: &'static str) -> Self {
        let peer = link.peer();
        let mut harness = Self { link, options, device: None, peer };
        harness.reopen().unwrap();
        harness
    }
}

impl Harness for Veth {
    type Device = AnyDevice;
    type Peer = KernelPeer;

    fn parts(&mut self) -> (&mut AnyDevice, &mut KernelPeer) {
        (self.device.as_mut().unwrap(), &mut self.peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.device = None;
        let mut device = self.link.open(self.options).map_err(io::Error::other)?;
        // The frames of the kit; with share=off they come without being asked for.
        let selectors = vec![Selector::EtherType(0x88b5)];
        device.select(&Selection { vlan: None, selectors })?;
        self.device = Some(device);
        Ok(())
    }
}

fn conforms(link: Link, options: &'static str) {
    println!("{}", conformance::run(&mut Veth::new(link, options)).unwrap());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_beside_the_kernel() {
    conforms(Link::new(), ",rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_alone() {
    conforms(Link::new(), ",share=off,mode=copy,rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_in_generic_mode() {
    conforms(Link::new(), ",mode=skb,rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_with_busy_polling() {
    conforms(Link::new(), ",busy-poll=on,rx-slots=64,tx-slots=64");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_with_frames_of_several_chunks() {
    let link = Link::new();
    link.set_mtu(9000);
    conforms(link, ",rx-slots=128,tx-slots=128");
}
