//! Poll-mode drivers of DPDK that need no NIC, with the kernel or another port at the other end.

#![cfg(all(feature = "dpdk", feature = "lab"))]

mod kernel_peer;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock};

use kernel_peer::KernelPeer;
use underpass_devices::conformance::{self, Case, DevicePeer, Harness, Peer};
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
    holds_back: bool,
}

impl<P: Peer> Rig<P> {
    /// `open` makes the device and, at least the first time, the peer.
    fn new(open: impl FnMut() -> io::Result<(AnyDevice, Option<P>)> + 'static) -> Self {
        let mut rig = Self { open: Box::new(open), device: None, peer: None, holds_back: false };
        rig.open_again().unwrap();
        rig
    }

    /// The link is a queue that holds its sender back: nothing is lost when it is full.
    fn holding_back(self) -> Self {
        Self { holds_back: true, ..self }
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

    fn skip(&self, case: Case) -> Option<&'static str> {
        let overruns = !self.holds_back || case != Case::RxOverrun;
        (!overruns).then_some("the sender waits while the queue is full")
    }
}

/// Runs the kit; afterwards every mbuf is back.
fn conforms<P: Peer + Send>(mut rig: Rig<P>) {
    let before = mbufs_lost();
    println!("{}", conformance::run(&mut rig).unwrap());
    drop(rig);
    assert_eq!(mbufs_lost(), before);
}

fn on_veth(driver: &'static str) {
    let link = Link::new();
    let mut peer = Some(KernelPeer::open(&link.theirs, "theirs").unwrap());
    conforms(Rig::new(move || {
        let device = link.open(driver, FEW_SLOTS).map_err(io::Error::other)?;
        Ok((device, peer.take()))
    }));
}

/// For a kit that is done sooner.
const FEW_SLOTS: &str = ",rx-slots=64,tx-slots=32";

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn af_packet_conforms() {
    on_veth("net_af_packet");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pcap_on_an_interface_conforms() {
    on_veth("net_pcap");
}

/// On another link each time: the driver does not let go of a queue, nor of the mbufs in its ring.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn af_xdp_conforms() {
    let mut rig = Rig::new(|| {
        let link = Link::new();
        let device = link.open("net_af_xdp", FEW_SLOTS).map_err(io::Error::other)?;
        Ok((device, Some(KernelPeer::open(&link.theirs, "theirs")?)))
    });
    println!("{}", conformance::run(&mut rig).unwrap());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tap_conforms() {
    let namespace = silent();
    conforms(Rig::new(move || {
        let (name, interface) = (fresh("net_tap"), fresh("dtap"));
        let spec = format!("dpdk:{name},iface={interface}{FEW_SLOTS}");
        let device = namespace.run(|| open(&spec)).map_err(io::Error::other)?;
        let peer = KernelPeer::open(&namespace, &interface)?;
        Ok((device, Some(peer)))
    }));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pair_of_rings_conforms() {
    conforms(Rig::new(|| {
        let (a, b) = DpdkDevice::ring_pair(&config(&[])).map_err(io::Error::other)?;
        Ok((a.into(), Some(DevicePeer::new(AnyDevice::from(b)))))
    }));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn memif_conforms() {
    conforms(Rig::new(|| {
        let socket = fresh("underpass-test-");
        let end = |role| {
            let args = [("role", role), ("id", "0"), ("socket", socket.as_str())];
            DpdkDevice::open(&fresh("net_memif"), &config(&args)).map_err(io::Error::other)
        };
        connected(end("server")?, end("client")?)
    }));
}

/// The driver takes the memory of the link down on another thread while this one is polled.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_memif_outlives_its_peers() {
    let before = mbufs_lost();
    let socket = fresh("underpass-test-");
    let end = |role| {
        let args = [("role", role), ("socket", socket.as_str())];
        DpdkDevice::open(&fresh("net_memif"), &config(&args)).unwrap()
    };
    let mut server = end("server");
    for _ in 0..12 {
        let mut client = end("client");
        let start = Clock::now();
        let mut received = 0;
        while received < 100 {
            let (_, tx) = client.split();
            if tx.room() > 0 {
                tx.send(60, TxMeta::default(), |slot| slot.fill(7)).unwrap();
            }
            tx.flush(Instant::ZERO).unwrap();
            receive_ready(&mut client);
            received += receive_ready(&mut server);
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        let closing = std::thread::spawn(move || drop(client));
        let mut idle = 0;
        while !closing.is_finished() || idle < 1000 {
            idle += usize::from(closing.is_finished());
            receive_ready(&mut server);
            let (_, tx) = server.split();
            if tx.room() > 0 {
                tx.send(60, TxMeta::default(), |slot| slot.fill(7)).unwrap();
            }
            tx.flush(Instant::ZERO + start.elapsed()).unwrap();
        }
        closing.join().unwrap();
    }
    drop(server);
    assert_eq!(mbufs_lost(), before);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn virtio_user_conforms() {
    let rig = Rig::new(|| {
        let (vhost, virtio) = vhost_and_virtio()?;
        connected(virtio, vhost)
    });
    conforms(rig.holding_back());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn vhost_conforms() {
    let rig = Rig::new(|| {
        let (vhost, virtio) = vhost_and_virtio()?;
        connected(vhost, virtio)
    });
    conforms(rig.holding_back());
}

/// Both ends of a virtqueue, in one process.
fn vhost_and_virtio() -> io::Result<(DpdkDevice, DpdkDevice)> {
    let socket = std::env::temp_dir().join(fresh(&format!("underpass-{}-", std::process::id())));
    let socket = socket.to_str().unwrap();
    let open = |driver: &str, args: &[(&str, &str)]| {
        DpdkDevice::open(&fresh(driver), &config(args)).map_err(io::Error::other)
    };
    let vhost = open("net_vhost", &[("iface", socket), ("tso", "1")])?;
    let virtio = open("net_virtio_user", &[("path", socket), ("mrg_rxbuf", "1")])?;
    Ok((vhost, virtio))
}

fn config(args: &[(&str, &str)]) -> DpdkConfig {
    let args = args.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    DpdkConfig { args: args.collect(), rx_slots: 64, tx_slots: 32, ..DpdkConfig::default() }
}

/// Waits until both ends see each other.
fn connected(
    mut device: DpdkDevice,
    mut peer: DpdkDevice,
) -> io::Result<(AnyDevice, Option<DevicePeer<AnyDevice>>)> {
    let start = Clock::now();
    while device.link_speed().is_none() || peer.link_speed().is_none() {
        if start.elapsed() > Duration::from_secs(5) {
            return Err(io::Error::other("the link does not come up"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // A memif is given its buffers by the first call.
    for end in [&mut device, &mut peer] {
        end.split().0.fill(Instant::ZERO)?;
    }
    Ok((device.into(), Some(DevicePeer::new(peer.into()))))
}

/// Frames that arrive until there have been `count`, for five seconds.
fn receive(device: &mut impl Device, count: usize) -> Vec<Vec<u8>> {
    let (start, mut frames) = (Clock::now(), Vec::new());
    while frames.len() < count && start.elapsed() < Duration::from_secs(5) {
        let (mut rx, _) = device.split();
        rx.fill(Instant::ZERO).unwrap();
        while let Some(frame) = rx.next() {
            frames.push(frame.bytes.to_vec());
        }
        rx.release();
    }
    frames
}

fn send(device: &mut impl Device, frame: &[u8]) {
    let (_, mut tx) = device.split();
    tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(frame)).unwrap();
    tx.flush(Instant::ZERO).unwrap();
}

/// A frame of the EtherType for experiments.
fn experiment(dst: MacAddr, len: usize) -> Vec<u8> {
    let mut frame = [&dst.0[..], &[2, 0, 0, 0, 0, 9, 0x88, 0xb5]].concat();
    frame.extend((14..len).map(|n| n as u8));
    frame
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_capture_is_replayed_and_written() {
    let dir = std::env::temp_dir();
    let file = |what| dir.join(fresh(&format!("underpass-{}-{what}-", std::process::id())));
    let (from, to) = (file("from"), file("to"));
    let frames: Vec<_> = (0..200).map(|n| experiment(MacAddr::BROADCAST, 60 + 7 * n)).collect();
    std::fs::write(&from, pcap(&frames)).unwrap();
    let (name, from_path, to_path) = (fresh("net_pcap"), from.display(), to.display());
    let mut device = open(&format!("dpdk:{name},rx_pcap={from_path},tx_pcap={to_path}")).unwrap();
    let received = receive(&mut device, frames.len());
    assert_eq!(received, frames);
    for frame in &received {
        send(&mut device, frame);
    }
    drop(device);
    let written = std::fs::read(&to).unwrap();
    for path in [from, to] {
        std::fs::remove_file(path).unwrap();
    }
    // But for the time of each.
    let mut rest = &written[24..];
    for frame in &frames {
        let (header, behind) = rest.split_at(16);
        assert_eq!(header[8..12], (frame.len() as u32).to_le_bytes());
        assert_eq!(&behind[..frame.len()], frame);
        rest = &behind[frame.len()..];
    }
    assert!(rest.is_empty());
}

/// A capture file (draft-ietf-opsawg-pcap section 4).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for frame in frames {
        let len = frame.len() as u32;
        file.extend(words(&[0, 0, len, len]));
        file.extend(frame);
    }
    file
}

/// Opening fails, with one line.
fn refusal(result: Result<AnyDevice, OpenError>) -> String {
    let error = result.unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_cannot_be_opened_is_told_in_one_line() {
    let before = mbufs_lost();
    let wrong = refusal(open("dpdk:net_wrong0"));
    let expected = "dpdk:net_wrong0: no poll-mode driver of this DPDK is called so; there are net_";
    assert!(wrong.starts_with(expected), "{wrong}");
    let wrong = refusal(open("dpdk:0000:ff:1f.6"));
    assert!(wrong.starts_with("dpdk:0000:ff:1f.6: no poll-mode driver took it"), "{wrong}");
    let link = Link::new();
    let wrong = refusal(link.ours.run(|| open("dpdk:net_af_packet77,iface=eth77")));
    assert!(wrong.starts_with("dpdk:net_af_packet77: no such interface (have: "), "{wrong}");
    link.ours.netlink(|netlink| netlink.set_up("ours", false)).unwrap();
    let wrong = refusal(link.open("net_af_packet", ""));
    assert!(wrong.contains("the interface is down; bring it up with: ip link set ours up"));
    link.ours.netlink(|netlink| netlink.set_up("ours", true)).unwrap();

    let wrong = refusal(link.open("net_af_packet", ",colour=red"));
    assert!(wrong.contains(": its driver did not take it"), "{wrong}");
    // Nobody is there.
    let wrong = refusal(open("dpdk:net_memif77,role=client,socket=underpass-test-nobody"));
    assert!(wrong.starts_with("dpdk:net_memif77: starting it: "), "{wrong}");

    let again = || link.ours.run(|| open("dpdk:net_af_packet78,iface=ours"));
    let mut device = again().unwrap();
    let wrong = refusal(again());
    assert_eq!(
        wrong,
        "dpdk:net_af_packet78: in use by another process or thread; a device of DPDK is opened once \
         in a process: give this one another number, as in net_tap1"
    );
    let wrong = refusal(open("dpdk:net_ring78,eal=--no-huge -m 7"));
    assert!(wrong.contains("the EAL of this process runs already, with eal=nothing"), "{wrong}");
    let wrong = refusal(open("dpdk:net_ring78,mtu=9000,rx-slots=32768,tx-slots=32768"));
    assert!(wrong.starts_with("dpdk:net_ring78: no memory for 13"), "{wrong}");
    let spec = "dpdk:net_ring78".parse().unwrap();
    let wrong = AnyDevice::open_queues(&spec, 100).unwrap_err().to_string();
    assert_eq!(wrong, "dpdk:net_ring78: it has 16 queues, and 100 are wanted");
    // Nothing of all this has done harm.
    send(&mut device, &experiment(MacAddr::BROADCAST, 60));
    drop(device);
    again().unwrap();
    assert_eq!(mbufs_lost(), before);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_that_goes_ends_the_device() {
    let link = Link::new();
    let mut device = link.open("net_af_packet", "").unwrap();
    let start = Clock::now();
    let mut fill = || device.split().0.fill(Instant::ZERO + start.elapsed());
    fill().unwrap();
    link.ours.netlink(|netlink| netlink.delete_link("ours")).unwrap();
    while fill().is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn several_queues_share_what_arrives() {
    let before = mbufs_lost();
    let link = Link::new();
    let spec: Spec = format!("dpdk:{},iface=ours", fresh("net_af_packet")).parse().unwrap();
    let mut devices = link.ours.run(|| AnyDevice::open_queues(&spec, 2)).unwrap();
    let mut peer = KernelPeer::open(&link.theirs, "theirs").unwrap();
    let mac = devices[0].caps().mac;
    for port in 0..64 {
        peer.send(&datagram(mac, port)).unwrap();
    }
    let counts = [0, 1].map(|queue| receive_for(&mut devices[queue], Duration::from_millis(200)));
    assert_eq!(counts.iter().sum::<usize>(), 64);
    assert!(counts.iter().all(|count| *count > 8), "{counts:?}");
    // What one sends leaves, too.
    for device in &mut devices {
        send(device, &experiment(MacAddr::BROADCAST, 60));
    }
    for _ in 0..2 {
        assert!(peer.recv(Duration::from_secs(1)).unwrap().is_some());
    }
    drop(devices);
    assert_eq!(mbufs_lost(), before);
}

/// Frames that arrive within a time.
fn receive_for(device: &mut impl Device, time: Duration) -> usize {
    let (deadline, mut frames) = (Clock::now() + time, 0);
    while Clock::now() < deadline {
        frames += receive_ready(device);
    }
    frames
}

fn receive_ready(device: &mut impl Device) -> usize {
    let (mut rx, _) = device.split();
    rx.fill(Instant::ZERO).unwrap();
    let frames = std::iter::from_fn(|| rx.next().map(|_| ())).count();
    rx.release();
    frames
}

/// An empty UDP datagram from port 1000 + `port`.
fn datagram(dst: MacAddr, port: u16) -> Vec<u8> {
    let mut frame = [&dst.0[..], &[2, 0, 0, 0, 0, 9, 8, 0]].concat();
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2]);
    frame.extend((1000 + port).to_be_bytes());
    frame.extend([0, 9, 0, 8, 0, 0]);
    frame.resize(60, 0);
    frame
}
