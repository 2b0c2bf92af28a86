//! What drivers that share an interface with the kernel are tried with: a veth pair with the kernel at
//! the other end, and what holds for all of them.

use std::io;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant as Clock};

use rustix::thread::{
    CapabilitySet, CpuSet, capabilities, sched_getcpu, sched_setaffinity, set_capabilities,
};
use underpass_devices::conformance::{self, Harness, Peer};
use underpass_devices::{Device, Instant, MacAddr, RxQueue, Selection, Selector};
use underpass_drivers::lab::{Namespace, veth_with_queues};
use underpass_drivers::{AnyDevice, OpenError, Spec};

use crate::kernel_peer::KernelPeer;

/// Our namespace and the peer's, joined by the veth pair `ours`, `theirs`, both silent.
pub(crate) struct Link {
    /// The kind of the specs.
    driver: &'static str,
    pub(crate) ours: Namespace,
    pub(crate) theirs: Namespace,
}

impl Link {
    pub(crate) fn new(driver: &'static str, queues: u32) -> Self {
        let (ours, theirs) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        for namespace in [&ours, &theirs] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        }
        veth_with_queues((&ours, "ours"), (&theirs, "theirs"), queues).unwrap();
        Self { driver, ours, theirs }
    }

    /// Opens our end; `options` begin with a comma.
    pub(crate) fn open(&self, options: &str) -> Result<AnyDevice, OpenError> {
        self.open_interface(&format!("ours{options}"))
    }

    /// Opens any interface of our namespace.
    pub(crate) fn open_interface(&self, target: &str) -> Result<AnyDevice, OpenError> {
        let spec: Spec = format!("{}:{target}", self.driver).parse().unwrap();
        self.ours.run(|| AnyDevice::open(&spec))
    }

    /// Opening fails, with one line.
    pub(crate) fn refusal(&self, options: &str) -> String {
        let error = self.open(options).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    pub(crate) fn peer(&self) -> KernelPeer {
        KernelPeer::open(&self.theirs, "theirs").unwrap()
    }

    /// The device passes the kit.
    pub(crate) fn conforms(self, options: &'static str) {
        on_one_cpu(|| {
            let peer = self.peer();
            let mut harness = Veth { link: self, options, device: None, peer };
            harness.reopen().unwrap();
            println!("{}", conformance::run(&mut harness).unwrap());
        });
    }

    /// Frames are delivered as long as they are asked for, to the device that is returned.
    pub(crate) fn what_is_selected_can_change(&self) -> AnyDevice {
        let (mut device, mut peer) = (self.open("").unwrap(), self.peer());
        let frame = experiment(device.caps().mac);
        let (wanted, nothing) = (experiments(), Selection::default());
        for (selection, frames) in [(&nothing, 0), (&wanted, 1), (&nothing, 0), (&wanted, 1)] {
            device.select(selection).unwrap();
            peer.send(&frame).unwrap();
            assert_eq!(received(&mut device), frames);
        }
        device
    }

    /// Frames with another tag, and those without one, are not delivered.
    pub(crate) fn a_tagged_link_gets_its_vlan_only(&self) {
        let (mut device, mut peer) = (self.open(",vlan=7").unwrap(), self.peer());
        device.select(&experiments()).unwrap();
        let plain = experiment(device.caps().mac);
        for (tag, frames) in [(7, 1), (8, 0)] {
            peer.send(&[&plain[..12], &[0x81, 0, 0, tag], &plain[12..]].concat()).unwrap();
            assert_eq!(received(&mut device), frames, "{tag}");
        }
        peer.send(&plain).unwrap();
        assert_eq!(received(&mut device), 0, "untagged");
    }

    /// The interface has an address of the kernel's and one of ours.
    pub(crate) fn the_kernel_goes_on_beside_a_device(&self) {
        self.ours.netlink(|n| n.add_address("ours", [10, 9, 0, 1].into(), 24)).unwrap();
        self.theirs.netlink(|n| n.add_address("theirs", [10, 9, 0, 2].into(), 24)).unwrap();
        let mut device = self.open("").unwrap();
        let selectors = vec![Selector::address([10, 9, 0, 3].into())];
        device.select(&Selection { vlan: None, selectors }).unwrap();
        let kernel = self.ours.run(|| UdpSocket::bind("10.9.0.1:9")).unwrap();
        kernel.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = self.theirs.run(|| UdpSocket::bind("10.9.0.2:9")).unwrap();
        sender.send_to(b"to the kernel", "10.9.0.1:9").unwrap();
        let mut buffer = [0; 64];
        let (len, _) = kernel.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"to the kernel");
        // The question for our address comes to us.
        sender.send_to(b"to the stack", "10.9.0.3:9").unwrap();
        assert!(received(&mut device) >= 1);
    }
}

struct Veth {
    link: Link,
    options: &'static str,
    device: Option<AnyDevice>,
    peer: KernelPeer,
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
        device.select(&experiments())?;
        self.device = Some(device);
        Ok(())
    }
}

/// Frames of the EtherType for experiments.
pub(crate) fn experiments() -> Selection {
    Selection { vlan: None, selectors: vec![Selector::EtherType(0x88b5)] }
}

/// One of them.
pub(crate) fn experiment(dst: MacAddr) -> Vec<u8> {
    let mut frame = [&dst.0[..], &[2, 0, 0, 0, 0, 9, 0x88, 0xb5]].concat();
    frame.resize(60, 7);
    frame
}

/// Frames that arrive within a fifth of a second.
pub(crate) fn received(device: &mut impl Device) -> usize {
    let deadline = Clock::now() + Duration::from_millis(200);
    let mut frames = 0;
    while Clock::now() < deadline {
        let (mut rx, _) = device.split();
        rx.fill(Instant::ZERO).unwrap();
        while rx.next().is_some() {
            frames += 1;
        }
        rx.release();
    }
    frames
}

/// Keeps frames in order: a veth has a queue per CPU, and whoever changes CPUs can overtake themselves.
pub(crate) fn on_one_cpu(then: impl FnOnce() + Send) {
    let work = || {
        let mut one = CpuSet::new();
        one.set(sched_getcpu());
        sched_setaffinity(None, &one).unwrap();
        then();
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap());
}

/// Runs `then` without a capability: on a thread of its own, for what is given up does not come back.
/// Threads that are made inherit what their maker has.
pub(crate) fn without<T: Send>(unwanted: CapabilitySet, then: impl FnOnce() -> T + Send) -> T {
    let work = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(unwanted);
        set_capabilities(None, sets).unwrap();
        then()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}
