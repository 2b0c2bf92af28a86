//! Poll-mode drivers of DPDK that need no NIC, with the kernel or another port at the other end.

#![cfg(all(feature = "dpdk", feature = "lab"))]

mod kernel_peer;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock};

use kernel_peer::KernelPeer;
use underpass_devices::conformance::{self, DevicePeer, Harness, Peer};
use underpass_devices::{Device, Instant, MacAddr, RxQueue, TxMeta, TxQueue};
use underpass_drivers::dpdk::{DpdkConfig, DpdkDevice, mbufs_lost};
use underpass_drivers::lab::{Namespace, veth_with_queues};
use underpass_drivers::{AnyDevice, OpenError, Spec};

/// The name of a device that this process has not had yet.
fn fresh(driver: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{driver}{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn open(spec: &str) -> Result<AnyDevice, OpenError> {
    AnyDevice::open(&spec.parse::<Spec>().unwrap())
}

/// Our namespace and the peer's, joined by the veth pair `ours`, `theirs`, both silent.
struct Link {
    ours: Namespace,
    theirs: Namespace,
}

impl Link {
    fn new() -> Self {
        let link = Self { ours: silent(), theirs: silent() };
        veth_with_queues((&link.ours, "ours"), (&link.theirs, "theirs"), 2).unwrap();
        for (namespace, name) in [(&link.ours, "ours"), (&link.theirs, "theirs")] {
            namespace.set_queues(name, 1).unwrap();
        }
        link
    }

    fn open(&self, driver: &str, options: &str) -> Result<AnyDevice, OpenError> {
        let spec = format!("dpdk:{},iface=ours{options}", fresh(driver));
        self.ours.run(|| open(&spec))
    }
}

/// A namespace in which the kernel sends nothing by itself.
fn silent() -> Namespace {
    let namespace = Namespace::new().unwrap();
    namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    namespace
}

/// A device that `open` makes anew, and the other end of its link.
struct Rig<P> {
    open: Box<dyn FnMut() -> io::Result<(AnyDevice, Option<P>)>>,
    /// `None` while it is opened.
    device: Option<AnyDevice>,
    peer: Option<P>,
}

impl<P: Peer> Rig<P> {
    /// `open` makes the device and, at least the first time, the peer.
    fn new(open: impl FnMut() -> io::Result<(AnyDevice, Option<P>)> + 'static) -> Self {
        let mut rig = Self { open: Box::new(open), device: None, peer: None };
        rig.open_again().unwrap();
        rig
    }

    fn open_again(&mut self) -> io::Result<()> {
        self.device = None;
        let (device, peer) = (self.open)()?;
        self.device = Some(device);
        if peer.is_some() {
            self.peer = peer;
        }
        Ok(())
    }
}

impl<P: Peer + Send> Harness for Rig<P> {
    type Device = AnyDevice;
    type Peer = P;

    fn parts(&mut self) -> (&mut AnyDevice, &mut P) {
        (self.device.as_mut().unwrap(), self.peer.as_mut().unwrap())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.open_again()
    }
}

/// Runs the kit; afterwards no mbuf is missing.
fn conforms<P: Peer + Send>(mut rig: Rig<P>) {
    println!("{}", conformance::run(&mut rig).unwrap());
    drop(rig);
    assert_eq!(mbufs_lost(), 0);
}

fn on_veth(driver: &'static str, options: &'static str) {
    let link = Link::new();
    let mut peer = Some(KernelPeer::open(&link.theirs, "theirs").unwrap());
    conforms(Rig::new(move || {
        let device = link.open(driver, options).map_err(io::Error::other)?;
        Ok((device, peer.take()))
    }));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn af_packet_conforms() {
    on_veth("net_af_packet", ",rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn af_xdp_conforms() {
    on_veth("net_af_xdp", ",rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pcap_on_an_interface_conforms() {
    on_veth("net_pcap", ",rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tap_conforms() {
    let namespace = silent();
    conforms(Rig::new(move || {
        let (spec, interface) = (fresh("dpdk:net_tap"), fresh("dtap"));
        let spec = format!("{spec},iface={interface},rx-slots=64,tx-slots=32");
        let device = namespace.run(|| open(&spec)).map_err(io::Error::other)?;
        let peer = KernelPeer::open(&namespace, &interface)?;
        Ok((device, Some(peer)))
    }));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pair_of_rings_conforms() {
    conforms(Rig::new(|| {
        let config = DpdkConfig { rx_slots: 64, tx_slots: 32, ..DpdkConfig::default() };
        let (a, b) = DpdkDevice::ring_pair(&config).map_err(io::Error::other)?;
        Ok((a.into(), Some(DevicePeer::new(AnyDevice::from(b)))))
    }));
}
