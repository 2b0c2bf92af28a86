//! What goes wrong, and what is said of it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use underpass_devices::{Device, MacAddr, RxQueue, SendError, TxMeta, TxQueue, Wake};
use underpass_drivers::rdma::verbs::{
    Access, AddressHandle, Completion, CompletionQueue, Context, Destination, Gid, Kind, Memory,
    ProtectionDomain, QueuePair, QueuePairConfig, Route, SendBatch, devices,
};
use underpass_drivers::rdma::{Peer, RdmaConfig, RdmaDevice};
use underpass_drivers::{AnyDevice, Spec};

use super::stations::{PATIENCE, frame, introduce, now, open, received, run, send, small, until};

/// Somebody who sends datagrams of any kind.
struct Stranger {
    pair: Arc<QueuePair>,
    sent: Arc<CompletionQueue>,
    memory: Memory,
    handle: AddressHandle,
}

/// The key that devices take.
const Q_KEY: u32 = 0x5550_4153;

impl Stranger {
    /// At rxe1, with a way to rxe0.
    fn open() -> Self {
        let context = Context::open("rxe1").unwrap();
        let domain = ProtectionDomain::new(&context).unwrap();
        let sent = CompletionQueue::new(&context, 4, None).unwrap();
        let config = QueuePairConfig {
            kind: Kind::Datagram,
            send_requests: 4,
            receive_requests: 1,
            inline: 0,
        };
        let pair = QueuePair::new(&domain, &config, &sent, &sent).unwrap();
        pair.start_datagrams(1, Q_KEY).unwrap();
        let memory = Memory::new(&domain, 4096, Access::READ).unwrap();
        let destination = Gid::of_ipv4(Ipv4Addr::new(10, 9, 0, 1));
        let route = Route { port: 1, gid_index: 1, destination, hop_limit: 1 };
        let handle = AddressHandle::new(&domain, &route).unwrap();
        Self { pair, sent, memory, handle }
    }

    fn send(&self, to: &Peer, len: usize, q_key: u32) {
        let mut batch = SendBatch::with_capacity(1);
        let to = Destination { handle: &self.handle, queue_pair: to.queue_pair, q_key };
        batch.push_datagram(1, &self.memory, &(0..len), to, false);
        batch.signal_last();
        // SAFETY: memory and handle live as long as the pair, and nobody writes.
        unsafe { self.pair.post_send(&mut batch) }.unwrap();
        let mut completions = [Completion::default(); 4];
        until("the datagram is sent", || !self.sent.poll(&mut completions).unwrap().is_empty());
        completions[0].result().unwrap();
    }
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn datagrams_of_strangers_are_dropped_and_counted_unless_they_are_frames() {
    let mut device = open("rxe0", &small());
    let (stranger, station) = (Stranger::open(), device.station());
    for len in [0, 1, 13] {
        stranger.send(&station, len, Q_KEY);
    }
    assert!(received(&mut device).is_empty());
    assert_eq!(device.counters().rx_errors, 3, "they are shorter than a header");
    stranger.send(&station, 60, 5);
    assert!(received(&mut device).is_empty(), "another key");
    stranger.send(&station, 4096, Q_KEY);
    stranger.send(&station, 14, Q_KEY);
    let lens: Vec<_> = received(&mut device).iter().map(Vec::len).collect();
    assert_eq!(lens, [4096, 14]);
    assert!(device.buffers().add_up());
    assert_eq!(device.buffers().rx_total, device.buffers().rx_free);
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_port_whose_mtu_is_small_has_room_for_what_larger_ones_send() {
    run("ip link set rdma0 mtu 1500");
    let mut device = open("rxe0", &small());
    run("ip link set rdma0 mtu 4200");
    assert_eq!(device.caps().mtu, 1024 - 14);
    let too_long = frame(MacAddr::BROADCAST, 1).repeat(20);
    assert_eq!(send(&mut device, &too_long), Err(SendError::Unsupported));
    assert_eq!(device.counters().tx_unsupported, 1);
    Stranger::open().send(&device.station(), 4096, Q_KEY);
    assert_eq!(received(&mut device)[0].len(), 4096);
}

/// The next error that `fill` gives, and that the descriptor calls before.
fn failure(device: &mut RdmaDevice) -> io::Error {
    let deadline = Clock::now() + PATIENCE;
    loop {
        assert!(Clock::now() < deadline, "no error");
        if let Err(error) = device.split().0.fill(now()) {
            return error;
        }
        match device.wake() {
            Ok(Wake::Fd(fd)) => {
                let fd = fd.as_fd();
                let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
                let woken = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
                assert_eq!(woken, Ok(1), "it sleeps over the failure");
            }
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_port_that_loses_its_link_ends_the_device() {
    let mut device = open("rxe1", &small());
    assert!(received(&mut device).is_empty());
    run("ip link set rdma1 down");
    let error = failure(&mut device);
    let spec: Spec = "rdma:rxe1".parse().unwrap();
    let refusal = AnyDevice::open(&spec).unwrap_err().to_string();
    run("ip link set rdma1 up");
    assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN), "{error}");
    assert!(refusal.starts_with("rdma:rxe1: "), "{refusal}");
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
    drop(device);
    until("the link is back", || AnyDevice::open(&spec).is_ok());
}

/// Soft-RoCE of Linux 6.1 cannot take a device away from a process: whoever removes it waits.
#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_device_that_is_to_be_removed_goes_when_it_is_closed() {
    let device = open("rxe1", &small());
    let mut removal = Command::new("rdma").args(["link", "delete", "rxe1"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(device);
    let mut status = None;
    until("it is removed", || {
        status = removal.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    run("rdma link add rxe1 type rxe netdev rdma1");
    open("rxe1", &small());
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn an_interface_that_goes_ends_the_device() {
    run("ip link add gone0 type veth peer name gone1");
    run("ip address add 10.10.0.1/24 dev gone0");
    run("ip link set gone1 up");
    run("ip link set gone0 up");
    run("rdma link add gone type rxe netdev gone0");
    let mut device = open("gone", &small());
    let mut removal = Command::new("ip").args(["link", "delete", "gone0"]).spawn().unwrap();
    let error = failure(&mut device);
    println!("{error}");
    drop(device);
    assert!(removal.wait().unwrap().success());
    until("the device is gone", || devices().unwrap() == ["rxe0", "rxe1"]);
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_queue_pair_that_failed_is_an_error_and_hangs_nobody() {
    let mut device = open("rxe0", &small());
    device.queue_pair().stop().unwrap();
    let error = failure(&mut device);
    assert!(error.to_string().contains("the queue pair is in the error state"), "{error}");
    let (_, tx) = device.split();
    let deadline = Clock::now() + PATIENCE;
    let error = loop {
        assert!(Clock::now() < deadline, "sending goes on");
        let _ = tx.send(60, TxMeta::default(), |slot| slot.fill(0xff));
        if let Err(error) = tx.flush(now()) {
            break error;
        }
    };
    println!("sending: {error}");
    assert!(device.buffers().add_up());
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_peer_that_is_gone_costs_its_frames_only() {
    let mut a = open("rxe0", &small());
    let mut b = open("rxe1", &small());
    introduce(&mut a, &mut b);
    let mac = b.caps().mac;
    drop(b);
    for number in 0..200 {
        // There is room as soon as the device is done, whoever hears it.
        until("room", || send(&mut a, &frame(mac, number)).is_ok());
    }
    until("all are sent", || {
        a.split().1.flush(now()).unwrap();
        a.buffers().tx_free == a.buffers().tx_total
    });
    assert_eq!(a.counters().tx_errors, 0);
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_peer_to_which_there_is_no_way_yet_is_tried_again() {
    let nobody: Peer = "10.9.0.77/17".parse().unwrap();
    let config = RdmaConfig { peers: vec![nobody], multicast: false, ..small() };
    let device = open("rxe0", &config);
    until("a try", || device.peer_counters().unreachable > 0);
    assert_eq!((device.peer_counters().known, device.peer_counters().reachable), (1, 0));
    run("ip address add 10.9.0.77/24 dev rdma1");
    until("the way", || device.peer_counters().reachable == 1);
    run("ip address delete 10.9.0.77/24 dev rdma1");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn an_address_that_goes_ends_the_device() {
    run("ip address add 10.9.0.66/24 dev rdma0");
    let context = Context::open("rxe0").unwrap();
    let gid = Gid::of_ipv4(Ipv4Addr::new(10, 9, 0, 66));
    let index = || context.gids(1).unwrap().iter().find(|e| e.gid == gid).map(|e| e.index);
    until("the address", || index().is_some());
    let mut device = open("rxe0", &RdmaConfig { gid: index(), ..small() });
    run("ip address delete 10.9.0.66/24 dev rdma0");
    let error = failure(&mut device);
    let expected = "rxe0 does not have the address ::ffff:10.9.0.66 any more";
    assert_eq!(error.to_string(), expected);
}

/// On a thread of its own, for what is given up here does not come back.
fn without_privilege<T: Send>(then: impl FnOnce() -> T + Send) -> T {
    let work = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).unwrap();
        then()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn too_little_memory_to_lock_is_said_with_the_remedy() {
    let before = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(1 << 20), ..before }).unwrap();
    let refusal = without_privilege(|| RdmaDevice::open("rxe0", &RdmaConfig::default()));
    setrlimit(Resource::Memlock, before).unwrap();
    let refusal = refusal.unwrap_err().to_string();
    let expected = "goes beyond the memory that this process may lock (1048576 bytes); use fewer";
    assert!(refusal.starts_with("rdma:rxe0: registering "), "{refusal}");
    assert!(refusal.contains(expected), "{refusal}");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn what_is_refused_is_told_with_the_remedy() {
    let refusal = |spec: &str| {
        let error = AnyDevice::open(&spec.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    assert_eq!(refusal("rdma:rxe7"), "rdma:rxe7: no such RDMA device (have: rxe0, rxe1)");
    assert_eq!(refusal("rdma:rxe0,port=2"), "rdma:rxe0: it has no port 2 (ports: 1 to 1)");
    let gids = refusal("rdma:rxe0,gid=9");
    assert!(gids.starts_with("rdma:rxe0: port 1 has no GID 9 (GIDs: 0 fe80::"), "{gids}");
    assert!(refusal("rdma:rxe0,rx-slots=0").contains("a queue has 1 to 16384 slots"));
    assert!(refusal("rdma:rxe0,max-peers=0").contains("max-peers is 1 to 4096"));
    let peers = "rdma:rxe0,max-peers=1,peer=10.9.0.2/17,peer=10.9.0.2/18";
    assert!(refusal(peers).contains("more peers than the 1 that are known"));
    let spec: Spec = "rdma:rxe0".parse().unwrap();
    let queues = AnyDevice::open_queues(&spec, 2).unwrap_err().to_string();
    assert!(queues.contains("every queue pair is a station of its own"), "{queues}");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn devices_that_are_closed_leave_nothing_behind() {
    for _ in 0..20 {
        let (mut a, mut b) = (open("rxe0", &small()), open("rxe1", &small()));
        introduce(&mut a, &mut b);
        send(&mut a, &frame(b.caps().mac, 1)).unwrap();
    }
    until("all objects are gone", || {
        let left = Command::new("rdma").args(["resource", "show"]).output().unwrap();
        let left = String::from_utf8(left.stdout).unwrap();
        // GSI's queue pair stays.
        left.lines().all(|line| line.contains("mr 0") && line.contains("qp 1 "))
    });
}
