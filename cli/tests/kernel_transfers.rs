//! Data to and from the kernel's TCP and UDP.

#![forbid(unsafe_code)]

mod kernel;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kernel::{Lab, Pattern, V4, V6, Version};
use underpass::UdpSocket;

on_each_device! {
    a_kernel_that_does_not_read_stops_us,
    a_reader_of_ours_that_waits_stops_the_kernel,
    bulk_over_ipv4,
    bulk_over_ipv6,
    datagrams_of_every_size,
    datagrams_to_a_closed_port_are_refused,
}

/// More than both ends buffer.
const MUCH: usize = 8 << 20;

fn a_kernel_that_does_not_read_stops_us(lab: &Lab) {
    for version in [V4, V6] {
        let (ours, theirs) = lab.pair(version, 80);
        stalled((&ours, || ours.shutdown(Shutdown::Write)), &theirs);
    }
}

fn a_reader_of_ours_that_waits_stops_the_kernel(lab: &Lab) {
    for version in [V4, V6] {
        let (ours, theirs) = lab.pair(version, 80);
        stalled((&theirs, || theirs.shutdown(Shutdown::Write)), &ours);
    }
}

/// Sends through a window that is closed for two seconds.
fn stalled(
    (mut sender, finish): (impl Write + Send, impl FnOnce() -> std::io::Result<()> + Send),
    mut receiver: impl Read,
) {
    let pattern = Pattern::new(1);
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            pattern.write(&mut sender, MUCH, |bytes| sent.store(bytes, Ordering::Relaxed));
            finish().unwrap();
        });
        thread::sleep(Duration::from_secs(1));
        let before = sent.load(Ordering::Relaxed);
        thread::sleep(Duration::from_secs(1));
        let after = sent.load(Ordering::Relaxed);
        assert!(after < MUCH, "all was sent although nobody reads");
        assert_eq!(before, after, "the sender goes on although nobody reads");
        pattern.check(&mut receiver, MUCH);
    });
}

fn bulk_over_ipv4(lab: &Lab) {
    bulk(lab, V4);
}

fn bulk_over_ipv6(lab: &Lab) {
    bulk(lab, V6);
}

/// 256 MiB each way in four connections at once.
fn bulk(lab: &Lab, version: Version) {
    const FLOWS: u16 = 4;
    const EACH: usize = 64 << 20;
    let pairs: Vec<_> = (0..FLOWS).map(|n| lab.pair(version, 80 + n)).collect();
    thread::scope(|scope| {
        for (n, (ours, theirs)) in pairs.iter().enumerate() {
            let (out, back) = (Pattern::new(n as u64), Pattern::new(100 + n as u64));
            scope.spawn(move || {
                thread::scope(|scope| {
                    scope.spawn(|| {
                        out.write(&mut &*ours, EACH, |_| ());
                        ours.shutdown(Shutdown::Write).unwrap();
                    });
                    scope.spawn(|| {
                        back.write(&mut &*theirs, EACH, |_| ());
                        theirs.shutdown(Shutdown::Write).unwrap();
                    });
                    scope.spawn(|| back.check(&mut &*ours, EACH));
                    out.check(&mut &*theirs, EACH);
                });
            });
        }
    });
    drop(pairs);
    let stats = lab.wait_until_idle();
    assert_eq!(stats.tcp_failures, 0, "{stats}");
}

/// Echoed by either side, in up to seven fragments.
fn datagrams_of_every_size(lab: &Lab) {
    for version in [V4, V6] {
        let ours = UdpSocket::bind(&lab.stack, version.ours(7)).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(5)));
        let theirs = lab.at_kernel(|| std::net::UdpSocket::bind(version.kernel(7))).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sent = Pattern::new(3);
        let mut sent_bytes = Vec::new();
        sent.write(&mut sent_bytes, 9000, |_| ());
        let mut buffer = vec![0; 10_000];
        // The last sizes that fit one frame, two and three, over IPv4 and IPv6; and those between.
        let edges = [1452, 1453, 1471, 1472, 1473, 2900, 2901, 2952, 2953, 4432, 4433, 9000];
        for len in (0..3100).step_by(17).chain(edges) {
            let data = &sent_bytes[..len];
            theirs.send_to(data, version.ours(7)).unwrap();
            let (got, from) = ours.recv_from(&mut buffer).unwrap();
            assert_eq!(from, version.kernel(7));
            assert!(buffer[..got] == *data, "{len} bytes from the kernel, {version:?}");
            ours.send_to(data, from).unwrap();
            let (got, from) = theirs.recv_from(&mut buffer).unwrap();
            assert_eq!(from, version.ours(7));
            assert!(buffer[..got] == *data, "{len} bytes to the kernel, {version:?}");
        }
        let stats = lab.stack.stats();
        assert!(stats.reassembled > 0, "{stats}");
    }
}

fn datagrams_to_a_closed_port_are_refused(lab: &Lab) {
    for version in [V4, V6] {
        let theirs = lab
            .at_kernel(|| {
                let socket = std::net::UdpSocket::bind(version.kernel(0))?;
                socket.connect(version.ours(9))?;
                std::io::Result::Ok(socket)
            })
            .unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        theirs.send(b"anybody?").unwrap();
        let error = theirs.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{version:?}");
    }
}
