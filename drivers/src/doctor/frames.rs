//! One frame each way.

#[cfg(feature = "tap")]
use std::fs::File;
use std::time::{Duration, Instant as Clock};

use underpass_devices::{Device, Instant, MacAddr, RxQueue, TxMeta, TxQueue};

use super::{Failure, Status};
#[cfg(feature = "dpdk")]
use crate::dpdk::{self, DpdkConfig, DpdkDevice};
#[cfg(feature = "kring")]
use crate::kring::{KringConfig, KringDevice};
use crate::lab::Namespace;
#[cfg(feature = "packet")]
use crate::packet::{PacketConfig, PacketDevice};
#[cfg(feature = "tap")]
use crate::tap::{TapConfig, TapDevice};
#[cfg(feature = "xdp")]
use crate::xdp::{XdpConfig, XdpDevice};

/// Asks the kernel behind a TAP for its address by ARP, and takes its answer.
#[cfg(feature = "tap")]
pub(super) fn try_tap(namespace: &Namespace, _: &Namespace) -> Result<String, Failure> {
    let config =
        TapConfig { host: vec!["10.7.0.1/24".parse().expect("a network")], ..TapConfig::default() };
    let mut device = namespace.run(|| TapDevice::open("tap0", &config)).map_err(Failure::Open)?;
    let own = device.caps().mac;
    // RFC 826: Ethernet, IPv4, request.
    let request =
        [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &own.0, &[10, 7, 0, 2], &[0; 6], &[10, 7, 0, 1]];
    send(&mut device, MacAddr::BROADCAST, &request.concat())?;
    let reply = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
    receive(&mut device, |frame| frame.get(12..).is_some_and(|f| f.starts_with(&reply)))?;
    let io = device.io_mode();
    Ok(format!("an ARP request and its answer passed a TAP interface (io={io})"))
}

/// A user can only use a TAP that was made for him, and we do not know which.
#[cfg(feature = "tap")]
pub(super) fn look_at_tap() -> Status {
    let control = File::options().read(true).write(true).open("/dev/net/tun");
    let cause = match control {
        Ok(_) => "this process may not create TAP interfaces (CAP_NET_ADMIN)".to_owned(),
        Err(error) => format!("/dev/net/tun: {error}"),
    };
    Status::Missing {
        cause,
        remedy: "run as root, or have root make an interface for you: ip tuntap add dev tap0 mode \
                 tap user $USER && ip link set tap0 up"
            .to_owned(),
    }
}

/// Opens a device on the loopback interface, which every network has.
#[cfg(feature = "packet")]
pub(super) fn look_at_packet() -> Status {
    let config = PacketConfig { mac: Some(MacAddr::local(1)), ..PacketConfig::default() };
    match PacketDevice::open("lo", &config) {
        Ok(_) => Status::Works {
            detail: "a packet ring was opened on lo; without privilege for a network of our own, \
                     no frame was sent"
                .to_owned(),
        },
        Err(error) => Failure::Open(error).into(),
    }
}

/// Sends a frame each way between two devices on a veth pair.
#[cfg(feature = "packet")]
pub(super) fn try_packet(ours: &Namespace, theirs: &Namespace) -> Result<String, Failure> {
    each_way(ours, theirs, |name| PacketDevice::open(name, &PacketConfig::default()))?;
    Ok("a frame passed each way between two packet rings on a veth pair".to_owned())
}

/// Sends a frame each way between two devices on a veth pair.
#[cfg(feature = "xdp")]
pub(super) fn try_xdp(ours: &Namespace, theirs: &Namespace) -> Result<String, Failure> {
    let config = XdpConfig { share: false, ..XdpConfig::default() };
    let mode = each_way(ours, theirs, |name| XdpDevice::open(name, &config))?.mode();
    Ok(format!("a frame passed each way between two AF_XDP sockets on a veth pair (mode={mode})"))
}

/// Opens a device on the loopback interface, which every network has.
#[cfg(feature = "xdp")]
pub(super) fn look_at_xdp() -> Status {
    let config = XdpConfig { mac: Some(MacAddr::local(1)), ..XdpConfig::default() };
    match XdpDevice::open("lo", &config) {
        Ok(_) => Status::Works {
            detail: "an AF_XDP socket was opened on lo; without privilege for a network of our \
                     own, no frame was sent"
                .to_owned(),
        },
        Err(error) => Failure::Open(error).into(),
    }
}

/// Sends a frame each way between two devices on a veth pair.
#[cfg(feature = "dpdk")]
pub(super) fn try_dpdk(ours: &Namespace, theirs: &Namespace) -> Result<String, Failure> {
    let open = |interface: &str| {
        let args = vec![("iface".to_owned(), interface.to_owned())];
        let config = DpdkConfig { args, ..DpdkConfig::default() };
        DpdkDevice::open(&format!("net_af_packet_{interface}"), &config)
    };
    each_way(ours, theirs, open)?;
    Ok(format!("{}, a frame passed each way between two net_af_packet on a veth pair", library()))
}

/// Sends a frame through memory, which needs no privilege.
#[cfg(feature = "dpdk")]
pub(super) fn look_at_dpdk() -> Status {
    let attempt = || {
        let pair = DpdkDevice::ring_pair(&DpdkConfig::default()).map_err(Failure::Open)?;
        let (mut near, mut far) = pair;
        send(&mut near, far.caps().mac, b"\x88\xb5question")?;
        receive(&mut far, |_| true)
    };
    match attempt() {
        Ok(()) => {
            Status::Works { detail: format!("{}, a frame passed a ring in memory", library()) }
        }
        Err(failure) => failure.into(),
    }
}

#[cfg(feature = "dpdk")]
fn library() -> String {
    let memory = if dpdk::has_huge_pages() { "huge pages" } else { "ordinary memory" };
    format!("{} with {memory}", dpdk::version())
}

#[cfg(feature = "kring")]
pub(super) fn try_kring(ours: &Namespace, theirs: &Namespace) -> Result<String, Failure> {
    let config = KringConfig { share: false, ..KringConfig::default() };
    each_way(ours, theirs, |name| KringDevice::open(name, &config))?;
    Ok("a frame passed each way between two rings of our kernel module on a veth pair".to_owned())
}

/// Attaching needs privilege on the interface.
#[cfg(feature = "kring")]
pub(super) fn look_at_kring() -> Status {
    Status::Missing {
        cause: "the module is loaded, and this process may not attach to an interface".to_owned(),
        remedy: "it needs CAP_NET_ADMIN and CAP_NET_RAW: run as root".to_owned(),
    }
}

/// Sends a frame each way between two devices on a veth pair, and returns one of them.
#[cfg(any(feature = "packet", feature = "xdp", feature = "dpdk", feature = "kring"))]
fn each_way<D: Device + Send>(
    ours: &Namespace,
    theirs: &Namespace,
    open: impl Fn(&str) -> Result<D, crate::OpenError> + Sync,
) -> Result<D, Failure> {
    crate::lab::veth((ours, "ours"), (theirs, "theirs")).map_err(Failure::Lab)?;
    let open =
        |namespace: &Namespace, name: &str| namespace.run(|| open(name)).map_err(Failure::Open);
    let (mut near, mut far) = (open(ours, "ours")?, open(theirs, "theirs")?);
    // IEEE 802 Local Experimental EtherType 1.
    let (question, answer) = (b"\x88\xb5question", b"\x88\xb5answer");
    send(&mut near, far.caps().mac, question)?;
    receive(&mut far, |frame| frame.get(12..).is_some_and(|f| f.starts_with(question)))?;
    send(&mut far, near.caps().mac, answer)?;
    receive(&mut near, |frame| frame.get(12..).is_some_and(|f| f.starts_with(answer)))?;
    Ok(near)
}

/// Runs one empty operation.
#[cfg(feature = "tap")]
pub(super) fn try_io_uring() -> Status {
    let attempt = || -> std::io::Result<()> {
        let mut ring = io_uring::IoUring::new(2)?;
        let nop = io_uring::opcode::Nop::new().build();
        // SAFETY: the operation refers to no memory.
        unsafe { ring.submission().push(&nop) }.map_err(std::io::Error::other)?;
        ring.submit_and_wait(1).map(drop)
    };
    let (cause, remedy) = match attempt().map_err(|error| (error.raw_os_error(), error)) {
        Ok(()) => {
            return Status::Works { detail: "an operation was submitted and completed".to_owned() };
        }
        Err((Some(libc::ENOSYS), _)) => (
            "the kernel lacks io_uring (CONFIG_IO_URING)".to_owned(),
            "none needed: tap: devices then use one write per frame (io=plain)",
        ),
        Err((Some(libc::EPERM | libc::EACCES), _)) => (
            "io_uring is not permitted".to_owned(),
            "sysctl -w kernel.io_uring_disabled=0 or, in a container, allow it in the seccomp \
             profile; tap: devices do without (io=plain)",
        ),
        Err((Some(libc::ENOMEM), _)) => {
            ("the limit on locked memory is too low for io_uring".to_owned(), "raise it: ulimit -l")
        }
        Err((_, error)) => (format!("io_uring: {error}"), "tap: devices do without (io=plain)"),
    };
    Status::Missing { cause, remedy: remedy.to_owned() }
}

const PATIENCE: Duration = Duration::from_secs(1);
const MIN_FRAME: usize = 60;

/// Sends one frame; `rest` is its EtherType and payload.
fn send(device: &mut impl Device, dst: MacAddr, rest: &[u8]) -> Result<(), Failure> {
    let mut frame = [&dst.0, &device.caps().mac.0, rest].concat();
    frame.resize(frame.len().max(MIN_FRAME), 0);
    let (_, mut tx) = device.split();
    tx.send(frame.len(), TxMeta::default(), |slot| {
        slot.copy_from_slice(&frame);
    })
    .map_err(|error| Failure::Traffic(format!("a frame was refused: {error}")))?;
    tx.flush(Instant::ZERO).map_err(|error| Failure::Traffic(format!("sending failed: {error}")))
}

/// Waits for a frame.
fn receive(device: &mut impl Device, expected: impl Fn(&[u8]) -> bool) -> Result<(), Failure> {
    let deadline = Clock::now() + PATIENCE;
    let mut found = false;
    while !found && Clock::now() < deadline {
        let (mut rx, _) = device.split();
        rx.fill(Instant::ZERO)
            .map_err(|error| Failure::Traffic(format!("receiving failed: {error}")))?;
        while let Some(frame) = rx.next() {
            found |= expected(frame.bytes);
        }
        rx.release();
    }
    if found {
        Ok(())
    } else {
        Err(Failure::Traffic("a frame was sent, but none came within a second".to_owned()))
    }
}
