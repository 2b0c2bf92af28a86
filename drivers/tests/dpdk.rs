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
    open: Box<dyn Fn() -> io::Result<(AnyDevice, Option<P>)>>,
    /// Both, until they are opened again.
    parts: Option<(AnyDevice, P)>,
    sees_wire: bool,
}

impl<P: Peer> Rig<P> {
    /// `open` makes the device and, at least the first time, the peer.
    fn new(open: impl Fn() -> io::Result<(AnyDevice, Option<P>)> + 'static) -> Self {
        let (device, peer) = open().unwrap();
        let parts = Some((device, peer.unwrap()));
        Self { open: Box::new(open), parts, sees_wire: false }
    }
}

impl<P: Peer + Send> Harness for Rig<P> {
    type Device = AnyDevice;
    type Peer = P;

    fn parts(&mut self) -> (&mut AnyDevice, &mut P) {
        let (device, peer) = self.parts.as_mut().unwrap();
        (device, peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let (device, peer) = self.parts.take().unwrap();
        drop(device);
        // A peer that is opened anew takes the place of this one.
        let mut old = Some(peer);
        let (device, peer) = match (self.open)() {
            Ok((device, None)) => (device, old.take().unwrap()),
            Ok((device, Some(peer))) => (device, peer),
            Err(error) => return Err(error),
        };
        self.parts = Some((device, peer));
        Ok(())
    }

    fn sees_wire(&self) -> bool {
        self.sees_wire
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
    let peer = KernelPeer::open(&link.theirs, "theirs").unwrap();
    let peer = std::cell::Cell::new(Some(peer));
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
