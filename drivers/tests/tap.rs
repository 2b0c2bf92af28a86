//! The TAP driver on real interfaces, with the kernel of a private namespace at the other end.

#![cfg(all(feature = "tap", feature = "lab"))]

mod kernel_peer;
mod tap_station;

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant as Clock};

use kernel_peer::KernelPeer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tap_station::Station;
use underpass_devices::conformance::{self, Harness, Peer};
use underpass_devices::{Device, Instant, MacAddr, RxChecksum, RxQueue, TxMeta, TxQueue, Wake};
use underpass_drivers::OpenError;
use underpass_drivers::lab::Namespace;
use underpass_drivers::tap::{IoMode, TapConfig, TapDevice};

fn open(namespace: &Namespace, config: &TapConfig) -> Result<TapDevice, OpenError> {
    namespace.run(|| TapDevice::open("tap0", config))
}

/// The kernel is 10.7.0.1 and fd07::1.
fn with_addresses() -> TapConfig {
    TapConfig {
        host: ["10.7.0.1/24", "fd07::1/64"].map(|text| text.parse().unwrap()).to_vec(),
        ..TapConfig::default()
    }
}

fn ip(namespace: &Namespace, arguments: &str) {
    let status = namespace.run(|| Command::new("ip").args(arguments.split(' ')).status());
    assert!(status.unwrap().success(), "ip {arguments}");
}

fn send(device: &mut TapDevice, frames: u8) {
    let mac = device.caps().mac;
    let (_, tx) = device.split();
    for number in 0..frames {
        tx.send(60, TxMeta::default(), |frame| {
            frame.fill(number);
            frame[..6].copy_from_slice(&MacAddr::BROADCAST.0);
            frame[6..12].copy_from_slice(&mac.0);
        })
        .unwrap();
    }
}

struct Lab {
    namespace: Namespace,
    config: TapConfig,
    device: Option<TapDevice>,
    peer: KernelPeer,
}

impl Lab {
    fn new(config: TapConfig) -> Self {
        let namespace = Namespace::new().unwrap();
        let device = open(&namespace, &config).unwrap();
        let peer = KernelPeer::open(&namespace, "tap0").unwrap();
        Self { namespace, config, device: Some(device), peer }
    }
}

impl Harness for Lab {
    type Device = TapDevice;
    type Peer = KernelPeer;

    fn parts(&mut self) -> (&mut TapDevice, &mut KernelPeer) {
        (self.device.as_mut().unwrap(), &mut self.peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.device = None;
        let device = open(&self.namespace, &self.config).map_err(io::Error::other)?;
        self.device = Some(device);
        self.peer = KernelPeer::open(&self.namespace, "tap0")?;
        Ok(())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn conforms_in_every_mode() {
    for io in [IoMode::Uring, IoMode::Plain] {
        for offload in [true, false] {
            let mut lab =
                Lab::new(TapConfig { io: Some(io), offload, slots: 32, ..TapConfig::default() });
            assert_eq!(lab.parts().0.io_mode(), io);
            let report = conformance::run(&mut lab).unwrap_or_else(|failures| {
                panic!("io={io} offload={offload}: {failures}");
            });
            println!("io={io} offload={offload}: {report}");
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_kernel_tcp_stream_goes_both_ways_in_superframes() {
    for peer in ["10.7.0.2", "fd07::2"] {
        tcp_both_ways(peer.parse().unwrap(), true);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_offload_every_frame_is_complete_and_within_the_mtu() {
    for peer in ["10.7.0.2", "fd07::2"] {
        tcp_both_ways(peer.parse().unwrap(), false);
    }
}

/// Lets a kernel stream connect to `ours`, takes 12,000 bytes from it and gives it as many, in
/// frames as large as the device takes.
fn tcp_both_ways(ours: IpAddr, offload: bool) {
    let namespace = Namespace::new().unwrap();
    // Others may pace a young connection to single segments.
    namespace.sysctl("net.ipv4.tcp_congestion_control", "reno").unwrap();
    let config = TapConfig { offload, ..with_addresses() };
    let mut device = open(&namespace, &config).unwrap();
    let payload: Vec<u8> = (0..12_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    thread::scope(|scope| {
        let kernel = scope.spawn(|| {
            let mut stream = namespace.run(|| TcpStream::connect((ours, 80))).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(&payload).unwrap();
            let mut answer = vec![0; payload.len()];
            stream.read_exact(&mut answer).unwrap();
            answer
        });
        let mut station = Station::new(&mut device, ours);
        let mut connection = station.accept();
        let mut received = station.receive(&mut connection, payload.len());
        assert!(std::mem::take(&mut received.bytes) == payload);
        if offload {
            assert!(received.superframes > 0, "{received:?}");
            assert_eq!(received.complete, 0, "{received:?}");
            assert_eq!(received.segment_size, connection.mss);
        } else {
            assert_eq!((received.superframes, received.partial), (0, 0), "{received:?}");
            assert!(received.longest <= 1514, "{received:?}");
        }
        station.send(&mut connection, &payload);
        assert_eq!(kernel.join().unwrap(), payload);
    });
    let counters = device.counters();
    assert_eq!((counters.tx_errors, counters.rx_errors), (0, 0));
    assert!(device.buffers().add_up());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_kernel_datagram_arrives_with_an_open_checksum() {
    let namespace = Namespace::new().unwrap();
    let mut device = open(&namespace, &with_addresses()).unwrap();
    let kernel = namespace.run(|| UdpSocket::bind("10.7.0.1:0")).unwrap();
    kernel.send_to(&[0xaa; 1000], "10.7.0.2:7").unwrap();
    let mut station = Station::new(&mut device, "10.7.0.2".parse().unwrap());
    let (frame, meta) = station.next(|frame| frame.get(23) == Some(&17));
    assert_eq!(frame.len(), 14 + 20 + 8 + 1000);
    let RxChecksum::Partial(partial) = meta.checksum else {
        panic!("{meta:?}");
    };
    assert_eq!((partial.start, partial.offset), (34, 6));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_device_has_an_address_of_its_own_and_the_mtu_of_the_interface() {
    let namespace = Namespace::new().unwrap();
    let config = TapConfig { mtu: Some(9000), ..with_addresses() };
    let device = open(&namespace, &config).unwrap();
    let link = namespace.netlink(|n| n.link("tap0")).unwrap();
    assert!(link.up);
    assert_eq!((link.mtu, device.caps().mtu), (9000, 9000));
    assert_ne!(link.mac, Some(device.caps().mac));
    assert_eq!(device.name(), "tap0");
    drop(device);

    let mac = MacAddr::local(42);
    let config = TapConfig { mac: Some(mac), ..TapConfig::default() };
    let device = open(&namespace, &config).unwrap();
    assert_eq!((device.caps().mac, device.caps().mtu), (mac, 1500));
    drop(device);

    ip(&namespace, "tuntap add dev tap0 mode tap");
    ip(&namespace, &format!("link set tap0 address {mac}"));
    let error = open(&namespace, &config).unwrap_err().to_string();
    assert!(error.contains("is the kernel's address on the interface"), "{error}");
    let error = open(&namespace, &TapConfig { mtu: Some(70_000), ..TapConfig::default() });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("setting the MTU of tap0 to 70000"), "{error}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn it_can_be_opened_again_the_moment_it_is_dropped() {
    let namespace = Namespace::new().unwrap();
    let started = Clock::now();
    for round in 0..20 {
        let mut device = open(&namespace, &TapConfig::default()).unwrap();
        assert_eq!(device.io_mode(), IoMode::Uring);
        send(&mut device, 32);
        if round % 2 == 0 {
            device.split().1.flush(Instant::ZERO).unwrap();
        }
    }
    // Nothing of ours keeps the interface, so that no opening had to be tried for long.
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_deleted_interface_is_an_error_and_wakes_the_sleeper() {
    for io in [IoMode::Uring, IoMode::Plain] {
        let namespace = Namespace::new().unwrap();
        let config = TapConfig { io: Some(io), ..TapConfig::default() };
        let mut device = open(&namespace, &config).unwrap();
        while device.split().0.fill(Instant::ZERO).unwrap() > 0 {
            while device.split().0.next().is_some() {}
            device.split().0.release();
        }
        send(&mut device, 20);
        namespace.netlink(|n| n.delete_link("tap0")).unwrap();

        let Wake::Fd(fd) = device.wake().unwrap() else {
            panic!("nothing is ready");
        };
        let timeout = Timespec::try_from(Duration::from_secs(2)).unwrap();
        assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)), Ok(1));
        let (rx, tx) = device.split();
        let error = rx.fill(Instant::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert!(error.to_string().starts_with("the TAP interface was deleted"), "{error}");
        let error = tx.flush(Instant::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert_eq!(device.counters().tx_errors, 20);
        let buffers = device.buffers();
        assert!(buffers.add_up());
        assert_eq!(buffers.tx_busy, 0);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn frames_for_an_interface_that_is_down_are_counted() {
    for io in [IoMode::Uring, IoMode::Plain] {
        let namespace = Namespace::new().unwrap();
        let config = TapConfig { io: Some(io), ..TapConfig::default() };
        let mut device = open(&namespace, &config).unwrap();
        namespace.netlink(|n| n.set_up("tap0", false)).unwrap();
        send(&mut device, 20);
        device.split().1.flush(Instant::ZERO).unwrap();
        assert_eq!(device.counters().tx_errors, 20);

        namespace.netlink(|n| n.set_up("tap0", true)).unwrap();
        let mut peer = KernelPeer::open(&namespace, "tap0").unwrap();
        send(&mut device, 20);
        device.split().1.flush(Instant::ZERO).unwrap();
        assert_eq!(device.counters().tx_errors, 20);
        let ours = device.caps().mac.0;
        let mut arrived = 0;
        while let Some(frame) = peer.recv(Duration::from_millis(200)).unwrap() {
            arrived += usize::from(frame[6..12] == ours);
        }
        assert_eq!(arrived, 20);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_in_use_is_busy_after_a_while() {
    let namespace = Namespace::new().unwrap();
    let _device = open(&namespace, &TapConfig::default()).unwrap();
    let started = Clock::now();
    let error = open(&namespace, &TapConfig::default()).unwrap_err();
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert_eq!(
        error.to_string(),
        "tap:tap0: in use by another process or thread; take another name"
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_of_another_kind_is_refused() {
    let namespace = Namespace::new().unwrap();
    let error = namespace.run(|| TapDevice::open("lo", &TapConfig::default()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "tap:lo: an interface of this name exists and is not a TAP interface"
    );
    ip(&namespace, "tuntap add dev tap0 mode tap");
    let several = TapConfig { queues: 2, ..TapConfig::default() };
    let error = open(&namespace, &several).unwrap_err().to_string();
    assert!(error.contains("not a TAP interface with several queues"), "{error}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn several_queues_share_an_interface_and_its_address() {
    let namespace = Namespace::new().unwrap();
    ip(&namespace, "tuntap add dev tap0 mode tap multi_queue");
    let one = open(&namespace, &TapConfig::default()).unwrap();
    let second = TapConfig { queues: 2, ..TapConfig::default() };
    let other = open(&namespace, &second).unwrap();
    assert_eq!(one.caps(), other.caps());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_kernel_answers_on_the_queue_that_asked() {
    let namespace = Namespace::new().unwrap();
    let config = TapConfig { queues: 3, ..with_addresses() };
    let mut queues = namespace.run(|| TapDevice::open_queues("tap0", &config, 3)).unwrap();
    assert_eq!(queues.len(), 3);
    assert_eq!(queues[0].caps().steering, None);
    let mac = queues[0].caps().mac;
    ip(&namespace, &format!("neigh add 10.7.0.2 lladdr {mac} dev tap0"));
    let kernel = namespace.run(|| UdpSocket::bind("10.7.0.1:9")).unwrap();
    kernel.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for port in 0..30_u8 {
        let asking = usize::from(port) % 3;
        let (_, tx) = queues[asking].split();
        let headers = [
            &MacAddr::BROADCAST.0[..],
            &mac.0,
            &[8, 0, 0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0x26, 0xbd],
            &[10, 7, 0, 2, 10, 7, 0, 1, 200, port, 0, 9, 0, 12, 0, 0],
        ];
        let frame = [&headers.concat()[..], b"asks"].concat();
        tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(&frame)).unwrap();
        tx.flush(Instant::ZERO).unwrap();
        let (_, peer) = kernel.recv_from(&mut [0; 9]).unwrap();
        kernel.send_to(b"answer", peer).unwrap();
        let answered = queues.iter_mut().position(|queue| {
            let (rx, _) = queue.split();
            rx.fill(Instant::ZERO).unwrap();
            let mut found = false;
            while let Some(frame) = rx.next() {
                found |= frame.bytes.ends_with(b"answer");
            }
            rx.release();
            found
        });
        assert_eq!(answered, Some(asking), "port {port}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_privilege_it_takes_an_interface_made_for_it() {
    let namespace = Namespace::new().unwrap();
    let open_without_privilege = || {
        namespace.run(|| {
            let mut mine = capabilities(None).unwrap();
            mine.effective.remove(CapabilitySet::NET_ADMIN);
            set_capabilities(None, mine).unwrap();
            TapDevice::open("tap0", &TapConfig::default())
        })
    };
    let error = open_without_privilege().unwrap_err().to_string();
    assert!(
        error.contains("ip tuntap add dev tap0 mode tap user root && ip link set tap0 up"),
        "{error}"
    );
    // What the message says.
    ip(&namespace, "tuntap add dev tap0 mode tap user root");
    let error = open_without_privilege().unwrap_err();
    assert!(matches!(error, OpenError::Down { .. }), "{error}");
    ip(&namespace, "link set tap0 up");
    open_without_privilege().unwrap();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_io_uring_it_writes_plainly() {
    let namespace = Namespace::new().unwrap();
    let open_without_io_uring = |io| {
        namespace.run(|| {
            forbid_io_uring();
            let config = TapConfig { io, ..TapConfig::default() };
            TapDevice::open("tap0", &config)
        })
    };
    let device = open_without_io_uring(None).unwrap();
    assert_eq!(device.io_mode(), IoMode::Plain);
    drop(device);
    let error = open_without_io_uring(Some(IoMode::Uring)).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("tap:tap0: io=uring: "), "{text}");
    assert!(text.contains("io=plain needs no io_uring"), "{text}");
}

/// Makes `io_uring_setup` fail with EPERM on this thread, as the seccomp profile of a container
/// does.
fn forbid_io_uring() {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let setup = libc::SYS_io_uring_setup as u32;
    let mut program = [
        // The number of the system call is the first member of `seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    rustix::thread::set_no_new_privs(true).unwrap();
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `filter` describes `program`, both live until the call returns, and the kernel checks
    // and copies the program.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
