//! The AF_PACKET driver on real veth pairs, with the kernel at the other end.

#![cfg(all(feature = "packet", feature = "lab"))]

mod kernel_peer;

use std::io;
use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant as Clock};

use kernel_peer::KernelPeer;
use underpass_devices::conformance::{self, Harness, Peer};
use underpass_devices::{
    Device, FlowHash, Instant, MacAddr, Medium, RxQueue, Steering, TxMeta, TxQueue,
};
use underpass_drivers::lab::{Namespace, veth};
use underpass_drivers::packet::{PacketConfig, PacketDevice};
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

    fn open(&self, config: &PacketConfig) -> Result<PacketDevice, OpenError> {
        self.ours.run(|| PacketDevice::open("ours", config))
    }

    fn peer(&self) -> KernelPeer {
        KernelPeer::open(&self.theirs, "theirs").unwrap()
    }
}

fn small_rings() -> PacketConfig {
    PacketConfig { rx_slots: 60, tx_slots: 32, ..PacketConfig::default() }
}

fn frame(dst: MacAddr, src: MacAddr, rest: &[u8]) -> Vec<u8> {
    [&dst.0, &src.0, rest].concat()
}

/// The frames that contain `part`, until `enough` of them have arrived, or for half a second.
fn receive(device: &mut PacketDevice, enough: usize, part: &[u8]) -> Vec<Vec<u8>> {
    let deadline = Clock::now() + Duration::from_millis(500);
    let mut frames = Vec::new();
    while frames.len() < enough && Clock::now() < deadline {
        let (rx, _) = device.split();
        rx.fill(Instant::ZERO).unwrap();
        while let Some(frame) = rx.next() {
            let mut bytes = &frame.bytes[..];
            while !bytes.starts_with(part) && !bytes.is_empty() {
                bytes = &bytes[1..];
            }
            if bytes.starts_with(part) {
                frames.push(frame.bytes.to_vec());
            }
        }
        rx.release();
    }
    frames
}

fn receive_all(device: &mut PacketDevice) -> Vec<Vec<u8>> {
    receive(device, usize::MAX, &[])
}

fn send(device: &mut PacketDevice, frame: &[u8]) {
    let (_, tx) = device.split();
    tx.send(frame.len(), TxMeta::default(), |slot| {
        slot.copy_from_slice(frame);
    })
    .unwrap();
    tx.flush(Instant::ZERO).unwrap();
}

/// The device under test is opened by its spec, as programs do.
struct Veth {
    link: Link,
    spec: Spec,
    device: Option<AnyDevice>,
    peer: KernelPeer,
}

impl Veth {
    fn new(options: &str) -> Self {
        let link = Link::new();
        let spec = format!("packet:ours,rx-slots=60,tx-slots=32,{options}").parse().unwrap();
        let device = Some(link.ours.run(|| AnyDevice::open(&spec)).unwrap());
        let peer = link.peer();
        Self { link, spec, device, peer }
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
        let device = self.link.ours.run(|| AnyDevice::open(&self.spec));
        self.device = Some(device.map_err(io::Error::other)?);
        Ok(())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_with_offloads() {
    println!("{}", conformance::run(&mut Veth::new("offload=on")).unwrap());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_without_offloads() {
    println!("{}", conformance::run(&mut Veth::new("offload=off")).unwrap());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_around_traffic_control() {
    println!("{}", conformance::run(&mut Veth::new("qdisc-bypass=1")).unwrap());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_this_machine_sends_is_not_received() {
    let link = Link::new();
    link.ours.netlink(|n| n.add_address("ours", [10, 9, 0, 1].into(), 24)).unwrap();
    let (mut device, mut peer) = (link.open(&small_rings()).unwrap(), link.peer());
    let kernel = link.ours.run(|| UdpSocket::bind("10.9.0.1:9")).unwrap();
    kernel.set_broadcast(true).unwrap();

    // A broadcast needs no ARP answer.
    link.ours.run(|| {
        let _ = kernel.send_to(b"from the kernel", "255.255.255.255:9");
        kernel.connect("10.9.0.2:9").unwrap();
        let _ = kernel.send(b"needs ARP");
    });
    let own = frame(MacAddr::BROADCAST, device.caps().mac, b"\x88\xb5from the device");
    send(&mut device, &own);
    let theirs = frame(device.caps().mac, MacAddr::local(5), b"\x88\xb5from the peer");
    peer.send(&theirs).unwrap();

    assert_eq!(receive_all(&mut device), [theirs]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_vlan_tag_arrives_where_it_was_sent() {
    let link = Link::new();
    let (mut device, mut peer) = (link.open(&small_rings()).unwrap(), link.peer());
    let tagged = frame(
        device.caps().mac,
        MacAddr::local(5),
        b"\x81\x00\x20\x2a\x88\xb5behind the tag, with enough bytes for an Ethernet frame",
    );
    peer.send(&tagged).unwrap();
    assert_eq!(receive(&mut device, 1, b"behind the tag"), [tagged]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_station_address_of_its_own_reaches_the_device() {
    let link = Link::new();
    let mac = MacAddr::local(4711);
    let config = PacketConfig { mac: Some(mac), ..small_rings() };
    let (mut device, mut peer) = (link.open(&config).unwrap(), link.peer());
    assert_eq!(device.caps().mac, mac);
    let hello = frame(mac, MacAddr::local(5), b"\x88\xb5hello");
    peer.send(&hello).unwrap();
    assert_eq!(receive(&mut device, 1, b"hello"), [hello]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_fanout_group_shares_the_frames_by_flow() {
    let link = Link::new();
    let config = PacketConfig { fanout: Some(7), ..small_rings() };
    let mut members: Vec<_> = (0..2).map(|_| link.open(&config).unwrap()).collect();
    let mac = members[0].caps().mac;
    link.theirs.netlink(|n| n.add_address("theirs", [10, 9, 0, 2].into(), 24)).unwrap();
    let mut peer = link.peer();
    for port in 0..32u8 {
        for _ in 0..2 {
            peer.send(&datagram(mac, port, b"flow")).unwrap();
        }
    }
    let shares: Vec<Vec<u8>> = members
        .iter_mut()
        .map(|member| receive(member, usize::MAX, b"flow").iter().map(|f| f[35]).collect())
        .collect();
    assert_eq!(shares[0].len() + shares[1].len(), 64, "{shares:?}");
    assert!(shares.iter().all(|share| !share.is_empty()), "{shares:?}");
    assert!(shares[0].iter().all(|port| !shares[1].contains(port)), "{shares:?}");
}

/// An IPv4 frame of UDP without checksums: only the addresses and ports count.
fn datagram(dst: MacAddr, port: u8, mark: &[u8]) -> Vec<u8> {
    let packet = [
        &[8, 0, 0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0][..],
        &[10, 9, 0, 2, 10, 9, 0, 1, 200, port, 0, 9, 0, 12, 0, 0],
        mark,
    ]
    .concat();
    frame(dst, MacAddr::local(5), &packet)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn queues_receive_the_flows_of_their_hash() {
    for queues in [2, 3] {
        let link = Link::new();
        let mut peer = link.peer();
        // Two groups on one interface do not mix.
        let open = || link.ours.run(|| PacketDevice::open_queues("ours", &small_rings(), queues));
        let (mut devices, _others) = (open().unwrap(), open().unwrap());
        assert_eq!(devices[0].caps().steering, Some(FlowHash::Software));
        let steering = Steering::new(FlowHash::Software, queues);
        let mac = devices[0].caps().mac;
        let frames: Vec<_> = (0..48).map(|port| datagram(mac, port, b"flow")).collect();
        let tagged = |at: usize| {
            let frame: &[u8] = &frames[at];
            [&frame[..12], &[0x81, 0, 0, 42], &frame[12..]].concat()
        };
        let mut fragment = frames[0].clone();
        fragment[20] = 0x20;
        let other = frame(mac, MacAddr::local(5), b"\x88\xb5 no flow, and long enough to be sent");
        let sent: Vec<_> =
            frames.iter().cloned().chain([tagged(1), tagged(2), fragment, other]).collect();
        for frame in &sent {
            peer.send(frame).unwrap();
        }
        let mut arrived = 0;
        for (queue, device) in devices.iter_mut().enumerate() {
            let frames = receive(device, usize::MAX, b"flow");
            assert!(frames.len() > 3, "queue {queue} of {queues} has {}", frames.len());
            for frame in &frames {
                assert_eq!(steering.queue_of_frame(Medium::Ethernet, frame), queue);
                assert!(sent.contains(frame));
            }
            arrived += frames.len();
        }
        assert_eq!(arrived, sent.len());
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn queues_of_a_numbered_group_spread_by_the_kernels_hash() {
    let link = Link::new();
    let spec: Spec = "packet:ours,rx-slots=60,tx-slots=32,fanout=9".parse().unwrap();
    let devices = link.ours.run(|| AnyDevice::open_queues(&spec, 2)).unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[0].caps().steering, None);
}

/// Calls `fill` and `wake` as an idle shard does, until one of them fails.
fn first_error(device: &mut PacketDevice) -> io::Error {
    let deadline = Clock::now() + Duration::from_secs(2);
    while Clock::now() < deadline {
        if let Err(error) = device.split().0.fill(Instant::ZERO) {
            return error;
        }
        device.split().0.release();
    }
    panic!("fill never failed");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_that_goes_down_or_away_is_an_error() {
    let link = Link::new();
    let mut device = link.open(&small_rings()).unwrap();
    link.ours.netlink(|n| n.set_up("ours", false)).unwrap();
    assert_eq!(first_error(&mut device).raw_os_error(), Some(libc::ENETDOWN));
    assert!(device.wake().is_err(), "the error stays");
    let error = link.open(&small_rings()).unwrap_err();
    assert!(error.to_string().contains("ip link set ours up"), "{error}");

    link.ours.netlink(|n| n.set_up("ours", true)).unwrap();
    let mut device = link.open(&small_rings()).unwrap();
    link.ours.netlink(|n| n.delete_link("ours")).unwrap();
    assert_eq!(first_error(&mut device).raw_os_error(), Some(libc::ENXIO));
    let frame = [0; 60];
    let (_, tx) = device.split();
    tx.send(60, TxMeta::default(), |slot| slot.copy_from_slice(&frame)).unwrap();
    assert!(tx.flush(Instant::ZERO).is_err());
    let error = link.open(&small_rings()).unwrap_err();
    assert!(matches!(error, OpenError::NoSuchInterface { .. }));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_sleeper_learns_that_the_interface_is_gone() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let link = Link::new();
    let mut device = link.open(&small_rings()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            link.ours.netlink(|n| n.delete_link("ours")).unwrap();
        });
        let underpass_devices::Wake::Fd(fd) = device.wake().unwrap() else {
            panic!("nothing has arrived");
        };
        let timeout = Timespec::try_from(Duration::from_secs(5)).unwrap();
        let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "nobody woke the sleeper");
    });
    assert!(device.wake().is_err());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_device_can_be_opened_again_at_once() {
    let link = Link::new();
    let mut peer = link.peer();
    for round in 0..20 {
        let config = PacketConfig { fanout: Some(1), ..small_rings() };
        let mut device = link.open(&config).unwrap();
        let hello = frame(device.caps().mac, MacAddr::local(5), &[0x88, 0xb5, round]);
        peer.send(&hello).unwrap();
        assert_eq!(receive(&mut device, 1, &[0x88, 0xb5, round]), [hello]);
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let error = PacketDevice::open("eth77", &PacketConfig::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("packet:eth77: no such interface (have: lo"), "{text}");

    let error = PacketDevice::open(
        "lo",
        &PacketConfig { mac: Some(MacAddr::BROADCAST), ..PacketConfig::default() },
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("is not the address of one station"), "{text}");

    let error = PacketDevice::open("lo", &PacketConfig { rx_slots: 0, ..PacketConfig::default() });
    let text = error.unwrap_err().to_string();
    assert!(text.contains("a ring has 1 to"), "{text}");
}

/// Root gives its privilege up by running this test once more, through setpriv.
#[test]
fn without_privilege_the_error_names_the_capability() {
    const AGAIN: &str = "UNDERPASS_TEST_AGAIN";
    let config = PacketConfig { mac: Some(MacAddr::local(1)), ..PacketConfig::default() };
    match PacketDevice::open("lo", &config) {
        Err(error) => {
            assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("CAP_NET_RAW") && text.contains("setcap"), "{text}");
        }
        Ok(_) if std::env::var_os(AGAIN).is_some() => panic!("setpriv left the privilege"),
        Ok(_) => {
            let output = Command::new("setpriv")
                .args(["--bounding-set=-all", "--inh-caps=-all"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "without_privilege_the_error_names_the_capability"])
                .env(AGAIN, "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
        }
    }
}
