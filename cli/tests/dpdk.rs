//! TCP over devices of DPDK that have no kernel at their other end.

#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{Lab, large, sha256};
use underpass::{Stack, TcpListener, TcpStream};
use underpass_drivers::dpdk::{DpdkConfig, DpdkDevice, mbufs_lost};

/// `underpass …` as a client of the memif.
fn client(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.bare(arguments);
    command.args(["--device", "dpdk:net_memif0,role=client,socket=underpass"]);
    command.args(["--addr", "10.7.0.3/24"]);
    command
}

fn fetch<'a>(lab: &Lab, url: &str, file: &'a str) -> (Command, &'a str) {
    (client(lab, &["http-get", url, "-o", file]), file)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_processes_exchange_files_over_memif() {
    let mut lab = Lab::packet();
    lab.set_spec("dpdk:net_memif0,role=server,socket=underpass");
    let sent = sha256(&lab.random_file("random.bin", large()));
    let mut server = lab.serve(&["http-serve", "--root", "."]);
    let arrives = |file| {
        let (command, file) = fetch(&lab, "http://10.7.0.2/random.bin", file);
        let output = lab.run_ours(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sha256(&lab.dir.path().join(file)), sent);
    };
    arrives("first");
    // A peer that is killed in the middle does no harm to the server.
    for _ in 0..3 {
        let (command, _) = fetch(&lab, "http://10.7.0.2/random.bin", "cut");
        let mut cut = lab.start_ours(command);
        thread::sleep(Duration::from_millis(700));
        cut.kill();
        cut.wait();
    }
    arrives("second");
    // What was cut off is under way until somebody at that address says that it is not.
    let pinging = lab.start_ours(client(&lab, &["ping", "-c", "1000", "10.7.0.2"]));
    server.interrupt();
    assert!(server.wait().0.success());
    pinging.kill();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_peer_that_is_not_there_is_told_in_one_line() {
    let lab = Lab::packet();
    let output = lab.run_ours(client(&lab, &["ping", "-c", "1", "10.7.0.2"]));
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("dpdk:net_memif0: starting it: "), "{stderr}");
}

/// A server that is killed leaves its client alive, which says that nobody answers.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_client_outlives_its_server() {
    let mut lab = Lab::packet();
    lab.set_spec("dpdk:net_memif0,role=server,socket=underpass");
    let mut server = lab.serve(&["echo"]);
    let mut ping = lab.start_ours({
        let mut command = client(&lab, &["ping", "-c", "20", "-i", "0.1", "10.7.0.2"]);
        command.stdout(std::process::Stdio::piped());
        command
    });
    thread::sleep(Duration::from_millis(1200));
    server.kill();
    server.wait();
    let (status, text) = ping.wait();
    assert!(status.code().is_some(), "{status}: {text}");
    assert!(text.contains("20 packets transmitted"), "{text}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_stacks_of_one_process_talk_over_rings() {
    const LEN: usize = 8 << 20;
    let before = mbufs_lost();
    let (a, b) = DpdkDevice::ring_pair(&DpdkConfig::default()).unwrap();
    let stack = |device, address: &str| {
        Stack::builder().address(address.parse().unwrap()).build(device).unwrap()
    };
    let (a, b) = (stack(a, "10.7.0.1/24"), stack(b, "10.7.0.2/24"));
    let address: SocketAddr = "10.7.0.2:7".parse().unwrap();
    let listener = TcpListener::bind(&b, address).unwrap();
    let sent: Vec<u8> = (0..LEN).map(|n| (n * 31 / 7) as u8).collect();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = vec![0; LEN];
        stream.read_exact(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let mut stream = TcpStream::connect(&a, address).unwrap();
    stream.write_all(&sent).unwrap();
    let mut received = vec![0; LEN];
    stream.read_exact(&mut received).unwrap();
    assert!(received == sent);
    echo.join().unwrap();
    drop((stream, a, b));
    assert_eq!(mbufs_lost(), before);
}
