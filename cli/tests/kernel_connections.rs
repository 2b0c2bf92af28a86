//! How connections with the kernel's TCP begin and end.

#![forbid(unsafe_code)]

mod kernel;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use kernel::{Lab, V4, V6};
use socket2::SockRef;
use underpass::{DropReason, TcpListener, TcpStream};

on_each_device! {
    the_kernel_half_closes,
    we_half_close,
    the_kernel_resets,
    we_reset,
    closed_ports_refuse,
    an_absent_host_is_unreachable,
    ten_thousand_connections_from_the_kernel,
    two_thousand_connections_to_the_kernel,
    a_full_backlog_delays_and_loses_nobody,
}

fn the_kernel_half_closes(lab: &Lab) {
    for version in [V4, V6] {
        let (mut ours, mut theirs) = lab.pair(version, 80);
        theirs.write_all(b"question").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut ours), b"question");
        ours.write_all(b"answer").unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut theirs), b"answer");
        drop((ours, theirs));
        let stats = lab.wait_until_idle();
        assert_eq!((stats.tcp_failures, stats.tcp_time_wait), (0, 0), "{stats}");
    }
}

fn we_half_close(lab: &Lab) {
    for (version, closed) in [(V4, 1), (V6, 2)] {
        let (mut ours, mut theirs) = lab.pair(version, 80);
        ours.write_all(b"question").unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut theirs), b"question");
        let error = ours.write(b"more").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        theirs.write_all(b"answer").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut ours), b"answer");
        drop((ours, theirs));
        let stats = lab.wait_until_idle();
        // Who closes first waits.
        assert_eq!((stats.tcp_failures, stats.tcp_time_wait), (0, closed), "{stats}");
    }
}

fn the_kernel_resets(lab: &Lab) {
    for version in [V4, V6] {
        let (mut ours, mut theirs) = lab.pair(version, 80);
        theirs.write_all(&[1]).unwrap();
        ours.read_exact(&mut [0]).unwrap();
        SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
        drop(theirs);
        let error = ours.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{version:?}");
        let error = ours.write(&[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{version:?}");
    }
    let stats = lab.wait_until_idle();
    assert_eq!(stats.tcp_failures, 2, "{stats}");
}

fn we_reset(lab: &Lab) {
    for version in [V4, V6] {
        let (ours, mut theirs) = lab.pair(version, 80);
        ours.abort();
        let error = theirs.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "abort, {version:?}");

        let (mut ours, mut theirs) = lab.pair(version, 81);
        theirs.write_all(&[0; 100]).unwrap();
        ours.read_exact(&mut [0]).unwrap();
        // 99 bytes are unread.
        drop(ours);
        let error = theirs.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "drop, {version:?}");
    }
    lab.wait_until_idle();
}

fn closed_ports_refuse(lab: &Lab) {
    for version in [V4, V6] {
        let error = refusal(TcpStream::connect(&lab.stack, version.kernel(81)));
        assert_eq!(error, ErrorKind::ConnectionRefused, "ours, {version:?}");
        let theirs = lab.at_kernel(|| std::net::TcpStream::connect(version.ours(81)));
        assert_eq!(refusal(theirs), ErrorKind::ConnectionRefused, "kernel's, {version:?}");
    }
    let stats = lab.wait_until_idle();
    assert_eq!(stats.drops[DropReason::TcpClosedPort], 2, "{stats}");
}

fn an_absent_host_is_unreachable(lab: &Lab) {
    for version in [V4, V6] {
        let start = Instant::now();
        let error = refusal(TcpStream::connect(&lab.stack, version.absent(80)));
        assert_eq!(error, ErrorKind::HostUnreachable, "{version:?}");
        assert!(start.elapsed() < Duration::from_secs(6), "took {:?}", start.elapsed());
    }
    lab.wait_until_idle();
}

fn ten_thousand_connections_from_the_kernel(lab: &Lab) {
    const WORKERS: u64 = 100;
    const EACH: u64 = 100;
    let listener = TcpListener::bind(&lab.stack, V4.ours(7)).unwrap();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    echo_byte(listener.accept().unwrap().0);
                }
            });
        }
        lab.at_kernel(|| {
            thread::scope(|scope| {
                for worker in 0..WORKERS {
                    scope.spawn(move || {
                        for n in 0..EACH {
                            let stream = std::net::TcpStream::connect(V4.ours(7)).unwrap();
                            ask_for_byte(stream, (worker + n) as u8);
                        }
                    });
                }
            });
        });
    });
    let stats = lab.wait_until_idle();
    assert_eq!(stats.tcp_passive_opens, WORKERS * EACH, "{stats}");
    assert_eq!((stats.tcp_failures, stats.tcp_half_open), (0, 0), "{stats}");
}

fn two_thousand_connections_to_the_kernel(lab: &Lab) {
    const WORKERS: u64 = 50;
    const EACH: u64 = 40;
    let listener = lab.at_kernel(|| std::net::TcpListener::bind(V6.kernel(7))).unwrap();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    echo_byte(listener.accept().unwrap().0);
                }
            });
            scope.spawn(move || {
                for n in 0..EACH {
                    let stream = TcpStream::connect(&lab.stack, V6.kernel(7)).unwrap();
                    ask_for_byte(stream, (worker + n) as u8);
                }
            });
        }
    });
    let stats = lab.wait_until_idle();
    assert_eq!(stats.tcp_active_opens, WORKERS * EACH, "{stats}");
    assert_eq!(stats.tcp_failures, 0, "{stats}");
}

fn a_full_backlog_delays_and_loses_nobody(lab: &Lab) {
    // Those that find no room ask again after seconds, all at the same time.
    const PEERS: u8 = 20;
    let address: SocketAddr = V4.ours(7);
    let listener = TcpListener::bind_with_backlog(&lab.stack, address, 4).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            lab.at_kernel(|| {
                thread::scope(|scope| {
                    for n in 0..PEERS {
                        scope.spawn(move || {
                            ask_for_byte(std::net::TcpStream::connect(address).unwrap(), n);
                        });
                    }
                });
            });
        });
        thread::sleep(Duration::from_secs(1));
        let full = lab.stack.stats().drops[DropReason::AcceptQueueFull];
        assert!(full > 0, "{}", lab.stack.stats());
        for _ in 0..PEERS {
            let (stream, _) = listener.accept().unwrap();
            scope.spawn(|| echo_byte(stream));
        }
    });
    let stats = lab.wait_until_idle();
    assert_eq!(stats.tcp_passive_opens, u64::from(PEERS), "{stats}");
    assert_eq!(stats.tcp_failures, 0, "{stats}");
}

fn read_all(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn refusal<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("there is nobody to connect to").kind()
}

/// Serves one connection: sends a byte back, and closes after the peer.
fn echo_byte(mut stream: impl Read + Write) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(&byte).unwrap();
    assert_eq!(stream.read(&mut byte).unwrap(), 0);
}

/// Has a byte sent back, and closes.
fn ask_for_byte(mut stream: impl Read + Write, byte: u8) {
    stream.write_all(&[byte]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [byte]);
}
