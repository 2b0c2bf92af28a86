//! The AF_XDP driver on real veth pairs, with the kernel at the other end.

#![cfg(all(feature = "xdp", feature = "lab"))]

mod kernel_peer;

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant as Clock};

use kernel_peer::KernelPeer;
use underpass_devices::conformance::Peer;
use underpass_devices::conformance::{self, Harness};
use underpass_devices::{Action, Device, Instant, MacAddr, Rule, RxQueue, Selection, Selector};
use underpass_drivers::lab::{Namespace, veth_with_queues};
use underpass_drivers::xdp::{XdpConfig, XdpControl, XdpDevice, XdpMode};
use underpass_drivers::{AnyDevice, OpenError, Spec};

/// Our namespace and the peer's, joined by the veth pair `ours`, `theirs`, both silent.
struct Link {
    ours: Namespace,
    theirs: Namespace,
}

impl Link {
    fn new() -> Self {
        Self::with_queues(1)
    }

    fn with_queues(queues: u32) -> Self {
        let link = Self { ours: Namespace::new().unwrap(), theirs: Namespace::new().unwrap() };
        for namespace in [&link.ours, &link.theirs] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        }
        veth_with_queues((&link.ours, "ours"), (&link.theirs, "theirs"), queues).unwrap();
        link
    }

    fn control(&self) -> XdpControl {
        self.ours.run(|| XdpControl::of_interface("ours")).unwrap()
    }

    fn program(&self) -> Option<u32> {
        self.ours.netlink(|n| n.link("ours")).unwrap().xdp_program
    }

    /// Opening fails, with one line.
    fn refusal(&self, options: &str) -> String {
        let error = self.open(options).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
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

/// A frame of the EtherType for experiments.
fn experiment(dst: MacAddr) -> Vec<u8> {
    let mut frame = [&dst.0[..], &[2, 0, 0, 0, 0, 9, 0x88, 0xb5]].concat();
    frame.resize(60, 7);
    frame
}

/// Frames that arrive within a fifth of a second.
fn received(device: &mut impl Device) -> usize {
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

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_selected_can_change() {
    let link = Link::new();
    let (mut device, mut peer) = (link.open("").unwrap(), link.peer());
    let frame = experiment(device.caps().mac);
    let wanted = vec![Selector::EtherType(0x88b5)];
    for (selectors, frames) in [(vec![], 0), (wanted.clone(), 1), (vec![], 0), (wanted, 1)] {
        device.select(&Selection { vlan: None, selectors }).unwrap();
        peer.send(&frame).unwrap();
        assert_eq!(received(&mut device), frames);
    }
    let totals = link.control().totals().unwrap();
    assert_eq!((totals.redirect.packets, totals.pass.packets), (2, 2));
    assert_eq!(totals.redirect.bytes, 120);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_tagged_link_gets_its_vlan_only() {
    let link = Link::new();
    let (mut device, mut peer) = (link.open(",vlan=7").unwrap(), link.peer());
    let selectors = vec![Selector::EtherType(0x88b5)];
    device.select(&Selection { vlan: None, selectors }).unwrap();
    let plain = experiment(device.caps().mac);
    for (tag, frames) in [(7, 1), (8, 0)] {
        peer.send(&[&plain[..12], &[0x81, 0, 0, tag], &plain[12..]].concat()).unwrap();
        assert_eq!(received(&mut device), frames, "{tag}");
    }
    peer.send(&plain).unwrap();
    assert_eq!(received(&mut device), 0, "untagged");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_best_mode_of_a_veth_is_copy() {
    let link = Link::new();
    let open = |mode| {
        let config = XdpConfig { mode, ..XdpConfig::default() };
        link.ours.run(|| XdpDevice::open("ours", &config)).map(|device| device.mode())
    };
    assert_eq!(open(XdpMode::Auto).unwrap(), XdpMode::Copy);
    assert_eq!(open(XdpMode::Skb).unwrap(), XdpMode::Skb);
    let refusal = open(XdpMode::ZeroCopy).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "xdp:ours: the interface's driver has no zero-copy mode; mode=auto takes the best it has"
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_without_xdp_works_in_generic_mode() {
    let link = Link::new();
    let open = |options: &str| {
        let spec: Spec = format!("xdp:lo{options}").parse().unwrap();
        link.ours.run(|| AnyDevice::open(&spec))
    };
    let refusal = open(",mac=02:00:00:00:00:01,mode=copy").unwrap_err().to_string();
    let expected =
        "xdp:lo: the interface's driver has no XDP; mode=skb does without, a little slower";
    assert_eq!(refusal, expected);
    assert!(open("").unwrap_err().to_string().contains("no MAC address; give one with mac="));
    open(",mac=02:00:00:00:00:01").unwrap();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn queues_are_opened_together_or_by_name() {
    let link = Link::with_queues(2);
    let refusal = link.refusal("");
    assert!(refusal.starts_with("xdp:ours: it has 2 receive queues, and a flow may"), "{refusal}");
    let refusal = link.refusal(",queue=2");
    assert_eq!(refusal, "xdp:ours: the interface has no queue 2 (ethtool -l)");
    let config = XdpConfig { rx_slots: 64, tx_slots: 64, ..XdpConfig::default() };
    let open = || link.ours.run(|| XdpDevice::open_queues("ours", &config, 2));
    let mut devices = open().unwrap();
    let selectors = vec![Selector::EtherType(0x88b5)];
    devices[1].select(&Selection { vlan: None, selectors }).unwrap();
    let frame = experiment(devices[0].caps().mac);
    let mut peer = link.peer();
    peer.send(&frame).unwrap();
    let sum: usize = devices.iter_mut().map(received).sum();
    assert_eq!(sum, 1, "one program serves both");
    // The first to close does not take the program away from the other.
    devices.pop();
    assert!(link.program().is_some());
    devices.pop();
    assert_eq!(link.program(), None);
    link.open(",queue=1").unwrap();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_taken_is_told() {
    let link = Link::with_queues(2);
    let _device = link.open(",queue=0").unwrap();
    let refusal = link.refusal(",queue=0");
    assert_eq!(
        refusal,
        "xdp:ours: queue 0: in use by another process or thread; take another one with queue="
    );
    let refusal = link.refusal(",queue=1");
    assert!(
        refusal.starts_with("xdp:ours: in use by another process or thread; an XDP program is"),
        "{refusal}"
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn rules_are_limited_and_checked() {
    let link = Link::new();
    let _device = link.open("").unwrap();
    let mut control = link.control();
    let rule = |n: u32| {
        let source = std::net::Ipv4Addr::from_bits(0x0a00_0000 | n);
        Rule { matches: source.to_string().parse().unwrap(), action: Action::Deny }
    };
    for n in 0..1024 {
        control.insert(rule(n)).unwrap();
    }
    let full = control.insert(rule(1024)).unwrap_err().to_string();
    assert_eq!(full, "the limit of 1024 rules is reached");
    control.insert(Rule { action: Action::Allow, ..rule(7) }).unwrap();
    control.remove(&rule(0).matches).unwrap();
    control.insert(rule(1024)).unwrap();
    let rules = control.rules().unwrap();
    assert_eq!(rules.len(), 1024);
    assert!(
        rules.iter().all(|report| (report.rule.action == Action::Allow)
            == (report.rule.matches == rule(7).matches))
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_that_goes_ends_the_device() {
    let link = Link::new();
    let mut device = link.open("").unwrap();
    link.ours.netlink(|n| n.delete_link("ours")).unwrap();
    let start = Clock::now();
    while device.split().0.fill(Instant::ZERO).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(device.wake().is_err());
}

/// On a thread of its own, for what is given up here does not come back.
fn without<T: Send>(give_up: impl FnOnce() + Send, then: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let work = || {
            give_up();
            then()
        };
        scope.spawn(work).join().unwrap()
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_the_kernel_refuses_is_told_with_the_remedy() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    let link = Link::new();
    let drop_capability = |unwanted: CapabilitySet| {
        move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(unwanted);
            set_capabilities(None, sets).unwrap();
        }
    };
    // Threads that are made inherit what their maker has.
    let refusal = without(drop_capability(CapabilitySet::NET_RAW), || link.refusal(""));
    assert!(refusal.contains("not permitted; it needs CAP_NET_ADMIN, CAP_NET_RAW"), "{refusal}");

    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let small = rustix::process::Rlimit { current: Some(65_536), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Memlock, small).unwrap();
    let refusal = without(drop_capability(CapabilitySet::IPC_LOCK), || link.refusal(""));
    rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).unwrap();
    assert!(
        refusal.starts_with(
            "xdp:ours: 8.0 MiB of locked memory are needed and RLIMIT_MEMLOCK allows 65536 bytes; \
             raise it (ulimit -l)"
        ),
        "{refusal}"
    );

    let refusal = link.refusal(",huge-pages=on");
    assert!(refusal.ends_with("reserve them with: sysctl vm.nr_hugepages=4"), "{refusal}");

    let refusal = without(seccomp::refuse_af_xdp, || link.refusal(""));
    assert_eq!(refusal, "xdp:ours: the kernel lacks AF_XDP sockets (CONFIG_XDP_SOCKETS)");
    assert_eq!(link.program(), None);
}

/// Makes a kernel without AF_XDP of one that has it.
mod seccomp {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

    /// `socket(AF_XDP, …)` fails on this thread and those it makes (seccomp(2)).
    pub(super) fn refuse_af_xdp() {
        let instruction =
            |code: u32, k: u32, jf: u8| sock_filter { code: code as u16, jt: 0, jf, k };
        let offset_of_number = 0;
        let offset_of_first_argument = 16;
        let refuse = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
        let mut program = [
            instruction(BPF_LD | BPF_W | BPF_ABS, offset_of_number, 0),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_socket as u32, 3),
            instruction(BPF_LD | BPF_W | BPF_ABS, offset_of_first_argument, 0),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, libc::AF_XDP as u32, 1),
            instruction(BPF_RET | BPF_K, refuse, 0),
            instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
        ];
        let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: both calls take integers and, the second, a pointer to a live program that the
        // kernel copies.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            ]
        };
        assert_eq!(results, [0, 0]);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_kernel_goes_on_beside_a_device() {
    let link = Link::new();
    link.ours.netlink(|n| n.add_address("ours", [10, 9, 0, 1].into(), 24)).unwrap();
    link.theirs.netlink(|n| n.add_address("theirs", [10, 9, 0, 2].into(), 24)).unwrap();
    let mut device = link.open("").unwrap();
    let selectors = vec![Selector::address([10, 9, 0, 3].into())];
    device.select(&Selection { vlan: None, selectors }).unwrap();
    let kernel = link.ours.run(|| UdpSocket::bind("10.9.0.1:9")).unwrap();
    kernel.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = link.theirs.run(|| UdpSocket::bind("10.9.0.2:9")).unwrap();
    sender.send_to(b"to the kernel", "10.9.0.1:9").unwrap();
    let mut buffer = [0; 64];
    let (len, _) = kernel.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"to the kernel");
    // The question for our address comes to us.
    sender.send_to(b"to the stack", "10.9.0.3:9").unwrap();
    assert!(received(&mut device) >= 1);
}
