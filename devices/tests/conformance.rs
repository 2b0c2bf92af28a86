//! The conformance kit over the devices of this crate.

use std::io;
use std::time::{Duration, SystemTime};

use underpass_devices::conformance::{self, Case, DevicePeer, Harness, Peer, Report};
use underpass_devices::{
    Action, Device, Fault, FaultConfig, Filter, FilterHandle, LinkConfig, MemoryConfig,
    MemoryDevice, Pcap, Rule, SimDevice, SimLink, Trace, Vlan, VlanId,
};

/// A device made from one end of a memory link, and the other end.
struct Memory<F, D> {
    config: MemoryConfig,
    wrap: F,
    device: D,
    peer: DevicePeer<MemoryDevice>,
}

impl<F: FnMut(MemoryDevice) -> D, D: Device> Memory<F, D> {
    fn new(config: MemoryConfig, mut wrap: F) -> Self {
        let (device, peer) = MemoryDevice::pair(config);
        Self { config, device: wrap(device), wrap, peer: DevicePeer::new(peer) }
    }
}

impl<F: FnMut(MemoryDevice) -> D, D: Device> Harness for Memory<F, D> {
    type Device = D;
    type Peer = DevicePeer<MemoryDevice>;

    fn parts(&mut self) -> (&mut D, &mut Self::Peer) {
        (&mut self.device, &mut self.peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let (device, peer) = MemoryDevice::pair(self.config);
        self.device = (self.wrap)(device);
        self.peer = DevicePeer::new(peer);
        Ok(())
    }
}

fn all_pass<D: Device>(config: MemoryConfig, wrap: impl FnMut(MemoryDevice) -> D) -> Report {
    let report = conformance::run(&mut Memory::new(config, wrap)).unwrap();
    println!("{report}");
    report
}

const PLAIN: fn() -> MemoryConfig = MemoryConfig::default;

fn offloads() -> MemoryConfig {
    MemoryConfig { slots: 64, offloads: true, ..MemoryConfig::default() }
}

#[test]
fn memory() {
    for slots in [1, 2, 7, 256] {
        let report = all_pass(MemoryConfig { slots, ..PLAIN() }, |device| device);
        assert!(report.skipped.iter().all(|(case, _)| *case == Case::Offloads));
    }
}

#[test]
fn memory_with_offloads() {
    let report = all_pass(offloads(), |device| device);
    assert_eq!(report.passed, Case::ALL);
}

#[test]
fn wrappers() {
    for config in [MemoryConfig { slots: 32, ..PLAIN() }, offloads()] {
        all_pass(config, |device| Fault::new(device, FaultConfig::default()));
        all_pass(config, |device| {
            Pcap::new(device, "memory", io::sink(), SystemTime::now()).unwrap()
        });
        all_pass(config, |device| Trace::new(device, "memory"));
        all_pass(config, |device| Trace::new(Fault::new(device, FaultConfig::default()), "two"));
    }
}

#[test]
fn filters() {
    let rules = FilterHandle::default();
    for config in [MemoryConfig { slots: 32, ..PLAIN() }, offloads()] {
        all_pass(config, |device| Filter::new(device, rules.clone()));
    }
    for text in ["0.0.0.0/0", "::/0,tcp", "10.0.0.0/8,udp/53"] {
        let matches = text.parse().unwrap();
        rules.insert(Rule { matches, action: Action::Allow }).unwrap();
    }
    for config in [MemoryConfig { slots: 32, ..PLAIN() }, offloads()] {
        all_pass(config, |device| Filter::new(device, rules.clone()));
    }
    let totals = rules.totals();
    assert!(totals.redirect.packets > 1000 && totals.drop.packets == 0, "{totals:?}");
}

#[test]
fn a_lossy_device_passes_as_long_as_it_counts() {
    let config = FaultConfig { rx_drop: 0.1, tx_drop: 0.1, ..FaultConfig::default() };
    let mut harness = Memory::new(PLAIN(), |device| Fault::new(device, config));
    let cases = [Case::Bursts, Case::RingWrap, Case::TxFull, Case::RxOverrun];
    let report = conformance::run_cases(&mut harness, &cases).unwrap();
    assert_eq!(report.passed, cases);
    let stats = harness.device.stats();
    assert!(stats.rx_dropped > 0 && stats.tx_dropped > 0);
}

struct Sim {
    config: LinkConfig,
    device: SimDevice,
    peer: DevicePeer<SimDevice>,
}

impl Sim {
    fn new(config: LinkConfig) -> Self {
        let (device, peer, _link) = SimLink::pair(config);
        Self { config, device, peer: DevicePeer::new(peer) }
    }
}

impl Harness for Sim {
    type Device = SimDevice;
    type Peer = DevicePeer<SimDevice>;

    fn parts(&mut self) -> (&mut SimDevice, &mut Self::Peer) {
        (&mut self.device, &mut self.peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::new(self.config);
        Ok(())
    }

    fn sees_wire(&self) -> bool {
        true
    }
}

#[test]
fn simulated_link() {
    let plain = LinkConfig::default();
    let offloads = LinkConfig { offloads: true, ..plain };
    let slow = LinkConfig { delay: Duration::from_micros(200), ..plain };
    for config in [plain, offloads, slow] {
        let report = conformance::run(&mut Sim::new(config)).unwrap();
        println!("{report}");
        assert_eq!(report.passed.contains(&Case::Offloads), config.offloads);
        assert!(report.skipped.iter().any(|(case, _)| *case == Case::WakeAfterIdle));
    }
}

/// The first of three queues, which receives from a chosen queue of the other end: probes belong to
/// no flow, so they all go to the first queue.
struct Queue {
    sender: usize,
    near: Vec<MemoryDevice>,
    far: Far,
}

/// All queues of the other end.
struct Far {
    sender: usize,
    queues: Vec<DevicePeer<MemoryDevice>>,
}

impl Queue {
    fn new(sender: usize) -> Self {
        let config = MemoryConfig { slots: 16, ..PLAIN() };
        let (near, far) = MemoryDevice::pair_queues(config, 3);
        let queues = far.into_iter().map(DevicePeer::new).collect();
        Self { sender, near, far: Far { sender, queues } }
    }
}

impl Peer for Far {
    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        self.queues[self.sender].send(frame)
    }

    fn recv(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        self.queues[0].recv(timeout)
    }
}

impl Harness for Queue {
    type Device = MemoryDevice;
    type Peer = Far;

    fn parts(&mut self) -> (&mut MemoryDevice, &mut Far) {
        (&mut self.near[0], &mut self.far)
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::new(self.sender);
        Ok(())
    }
}

#[test]
fn memory_queues() {
    for sender in 0..3 {
        println!("{}", conformance::run(&mut Queue::new(sender)).unwrap());
    }
}

/// Both ends of a memory link on one VLAN.
struct OnVlan {
    config: MemoryConfig,
    device: Vlan<MemoryDevice>,
    peer: DevicePeer<Vlan<MemoryDevice>>,
}

impl OnVlan {
    fn new(config: MemoryConfig) -> Self {
        let (device, peer) = MemoryDevice::pair(config);
        let on_vlan = |device| Vlan::new(device, VlanId::new(42).unwrap());
        Self { config, device: on_vlan(device), peer: DevicePeer::new(on_vlan(peer)) }
    }
}

impl Harness for OnVlan {
    type Device = Vlan<MemoryDevice>;
    type Peer = DevicePeer<Vlan<MemoryDevice>>;

    fn parts(&mut self) -> (&mut Self::Device, &mut Self::Peer) {
        (&mut self.device, &mut self.peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::new(self.config);
        Ok(())
    }
}

#[test]
fn vlan() {
    for config in [MemoryConfig { slots: 32, ..PLAIN() }, offloads()] {
        let report = conformance::run(&mut OnVlan::new(config)).unwrap();
        println!("{report}");
        assert_eq!(report.passed.contains(&Case::Offloads), config.offloads);
    }
}
