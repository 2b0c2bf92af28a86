//! Garbage on the wire between the kernel and us while data flows.

#![forbid(unsafe_code)]

mod kernel;

use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::{Lab, Pattern, V4, V6};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

on_each_device! { garbage_does_not_disturb_a_transfer }

const ETHERNET_HEADER: usize = 14;

fn garbage_does_not_disturb_a_transfer(lab: &Lab) {
    const RECORDED: usize = 200;
    const INJECTED: u64 = 20_000;
    let wire = Wire::open(lab);
    let mut rng = StdRng::seed_from_u64(42);

    let before = lab.stack.stats();
    let is_enough = AtomicBool::new(false);
    let injected = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_enough.load(Ordering::Relaxed) {
                transfer(lab, V4);
                transfer(lab, V6);
            }
        });
        let frames = wire.record(RECORDED);
        assert!(!frames.is_empty(), "nothing was recorded");
        let mut injected = 0;
        // Every length of one frame, then changes at random.
        let shortest = frames.iter().min_by_key(|frame| frame.len()).unwrap();
        for len in ETHERNET_HEADER..shortest.len() {
            injected += u64::from(wire.send(&shortest[..len]));
        }
        while injected < INJECTED {
            let frame = if rng.random_bool(0.5) {
                mutated(&frames[rng.random_range(0..frames.len())], &mut rng)
            } else {
                random(&frames[0], &mut rng)
            };
            injected += u64::from(wire.send(&frame));
            if injected.is_multiple_of(32) {
                thread::sleep(Duration::from_micros(200));
            }
        }
        is_enough.store(true, Ordering::Relaxed);
        injected
    });

    // Everything above has arrived by the time that this has.
    transfer(lab, V4);
    let after = lab.stack.stats();
    assert_eq!(after.tcp_failures, 0, "{after}");
    let dropped = after.drops.total() - before.drops.total();
    let lost = after.device.rx_overruns + after.device.rx_errors;
    assert!(
        dropped + lost > injected * 9 / 10,
        "{dropped} dropped and {lost} lost of {injected}: {after}"
    );
    lab.wait_until_idle();
}

/// 16 MiB each way.
fn transfer(lab: &Lab, version: kernel::Version) {
    const LEN: usize = 16 << 20;
    let (ours, theirs) = lab.pair(version, 80);
    let (out, back) = (Pattern::new(1), Pattern::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            out.write(&mut &ours, LEN, |_| ());
            ours.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            back.write(&mut &theirs, LEN, |_| ());
            theirs.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| back.check(&mut &ours, LEN));
        out.check(&mut &theirs, LEN);
    });
}

/// A recorded frame with a few bytes changed or its end cut off. What it was made from asked the
/// device for its checksum, so none of them has a right one.
fn mutated(frame: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if rng.random_bool(0.3) {
        frame.truncate(rng.random_range(ETHERNET_HEADER..frame.len()));
    }
    for _ in 0..rng.random_range(1..4) {
        // The Ethernet header is left alone, so that it reaches the IP layer.
        if frame.len() > ETHERNET_HEADER {
            let at = rng.random_range(ETHERNET_HEADER..frame.len());
            frame[at] ^= rng.random_range(1..=255_u8);
        }
    }
    frame
}

/// The link header of a real frame, with any type, in front of random bytes.
fn random(real: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut frame = vec![0; rng.random_range(ETHERNET_HEADER..1514)];
    rng.fill_bytes(&mut frame);
    frame[..12].copy_from_slice(&real[..12]);
    let types = [0x0800_u16, 0x0806, 0x86dd, rng.random()];
    frame[12..14].copy_from_slice(&types[rng.random_range(0..types.len())].to_be_bytes());
    frame
}

/// A packet socket on the kernel's end.
struct Wire {
    fd: OwnedFd,
    mac: [u8; 6],
}

impl Wire {
    fn open(lab: &Lab) -> Self {
        lab.at_kernel(|| {
            let address: LinkAddr = getifaddrs()
                .unwrap()
                .filter(|entry| entry.interface_name == lab.interface)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .unwrap();
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let family = AddressFamily::Packet;
            let fd = socket(family, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
            bind(fd.as_raw_fd(), &address).unwrap();
            Self { fd, mac: address.addr().unwrap() }
        })
    }

    /// Up to `count` IP frames that the kernel sends, short enough to be sent again.
    fn record(&self, count: usize) -> Vec<Vec<u8>> {
        let start = Instant::now();
        let mut buffer = vec![0; 1 << 17];
        let mut frames = Vec::new();
        while frames.len() < count && start.elapsed() < Duration::from_secs(1) {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => {
                    let frame = &buffer[..len.min(1514)];
                    let is_ip = matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]);
                    if frame[6..12] == self.mac && is_ip {
                        frames.push(frame.to_vec());
                    }
                }
                Err(Errno::EAGAIN) => thread::sleep(Duration::from_micros(100)),
                Err(errno) => panic!("recording: {errno}"),
            }
        }
        frames
    }

    /// False: the interface's queue is full.
    fn send(&self, frame: &[u8]) -> bool {
        match send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => true,
            Err(Errno::EAGAIN | Errno::ENOBUFS) => false,
            Err(errno) => panic!("sending {} bytes: {errno}", frame.len()),
        }
    }
}
