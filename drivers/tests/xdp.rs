//! The AF_XDP driver on real veth pairs, with the kernel at the other end.

#![cfg(all(feature = "xdp", feature = "lab"))]

mod kernel_peer;
mod shared_interface;

use std::thread;
use std::time::{Duration, Instant as Clock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use shared_interface::{Link, experiment, experiments, received, without};
use underpass_devices::conformance::Peer;
use underpass_devices::{Action, Device, Instant, Rule, RxQueue};
use underpass_drivers::xdp::{XdpConfig, XdpControl, XdpDevice, XdpMode};

fn link() -> Link {
    Link::new("xdp", 1)
}

/// From outside.
fn control(link: &Link) -> XdpControl {
    link.ours.run(|| XdpControl::of_interface("ours")).unwrap()
}

/// The number of the program on our end.
fn program(link: &Link) -> Option<u32> {
    link.ours.netlink(|n| n.link("ours")).unwrap().xdp_program
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_beside_the_kernel() {
    link().conforms(",rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_alone() {
    link().conforms(",share=off,mode=copy,rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_in_generic_mode() {
    link().conforms(",mode=skb,rx-slots=64,tx-slots=32");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_with_busy_polling() {
    link().conforms(",busy-poll=on,rx-slots=64,tx-slots=64");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_with_frames_of_several_chunks() {
    let link = link();
    link.ours.netlink(|n| n.set_mtu("ours", 9000)).unwrap();
    link.theirs.netlink(|n| n.set_mtu("theirs", 9000)).unwrap();
    link.conforms(",rx-slots=128,tx-slots=128");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_selected_can_change() {
    let link = link();
    let _device = link.what_is_selected_can_change();
    let totals = control(&link).totals().unwrap();
    assert_eq!((totals.redirect.packets, totals.pass.packets), (2, 2));
    assert_eq!(totals.redirect.bytes, 120);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_tagged_link_gets_its_vlan_only() {
    link().a_tagged_link_gets_its_vlan_only();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_best_mode_of_a_veth_is_copy() {
    let link = link();
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
    let link = link();
    let open = |options: &str| link.open_interface(&format!("lo{options}"));
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
    let link = Link::new("xdp", 2);
    let refusal = link.refusal("");
    assert!(refusal.starts_with("xdp:ours: it has 2 receive queues, and a flow may"), "{refusal}");
    let refusal = link.refusal(",queue=2");
    assert_eq!(refusal, "xdp:ours: the interface has no queue 2 (ethtool -l)");
    let config = XdpConfig { rx_slots: 64, tx_slots: 64, ..XdpConfig::default() };
    let open = || link.ours.run(|| XdpDevice::open_queues("ours", &config, 2));
    let mut devices = open().unwrap();
    devices[1].select(&experiments()).unwrap();
    let frame = experiment(devices[0].caps().mac);
    let mut peer = link.peer();
    peer.send(&frame).unwrap();
    let sum: usize = devices.iter_mut().map(received).sum();
    assert_eq!(sum, 1, "one program serves both");
    // The first to close does not take the program away from the other.
    devices.pop();
    assert!(program(&link).is_some());
    devices.pop();
    assert_eq!(program(&link), None);
    link.open(",queue=1").unwrap();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_taken_is_told() {
    let link = Link::new("xdp", 2);
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
    let link = link();
    let _device = link.open("").unwrap();
    let mut control = control(&link);
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
    let link = link();
    let mut device = link.open("").unwrap();
    link.ours.netlink(|n| n.delete_link("ours")).unwrap();
    let start = Clock::now();
    while device.split().0.fill(Instant::ZERO).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(device.wake().is_err());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_the_kernel_refuses_is_told_with_the_remedy() {
    let link = link();
    let refusal = without(CapabilitySet::NET_RAW, || link.refusal(""));
    assert!(refusal.contains("not permitted; it needs CAP_NET_ADMIN, CAP_NET_RAW"), "{refusal}");

    let limit = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(65_536), ..limit }).unwrap();
    let refusal = without(CapabilitySet::IPC_LOCK, || link.refusal(""));
    setrlimit(Resource::Memlock, limit).unwrap();
    assert!(
        refusal.starts_with(
            "xdp:ours: 8.0 MiB of locked memory are needed and RLIMIT_MEMLOCK allows 65536 bytes; \
             raise it (ulimit -l)"
        ),
        "{refusal}"
    );

    let refusal = link.refusal(",huge-pages=on");
    assert!(refusal.ends_with("reserve them with: sysctl vm.nr_hugepages=4"), "{refusal}");

    // On a thread of its own, for it does not come back.
    let refuse = || {
        seccomp::refuse_af_xdp();
        link.refusal("")
    };
    let refusal = thread::scope(|scope| scope.spawn(refuse).join().unwrap());
    assert_eq!(refusal, "xdp:ours: the kernel lacks AF_XDP sockets (CONFIG_XDP_SOCKETS)");
    assert_eq!(program(&link), None);
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
    link().the_kernel_goes_on_beside_a_device();
}
