//! `underpass nc` with OpenBSD's netcat and with the kernel's sockets.

#![forbid(unsafe_code)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Lab, sha256};

on_every_link! {
    files_go_to_netcat,
    files_come_from_netcat,
    the_end_of_input_leaves_the_other_direction_open,
    the_end_of_the_peer_leaves_our_direction_open,
    a_silent_input_does_not_hold_up_what_comes,
    datagrams_both_ways,
    datagrams_to_a_listener,
    failures_and_interrupts,
}

const LEN: u64 = 3_000_000;

fn files_go_to_netcat(lab: &Lab) {
    let sent = lab.random_file("sent", LEN);
    for (version, host) in [("-4", "10.7.0.1"), ("-6", "fd07::1")] {
        let received = lab.dir.path().join("received");
        let mut netcat = Command::new("nc");
        netcat.args([version, "-v", "-N", "-l", "9000"]).stdin(Stdio::null());
        netcat.stdout(File::create(&received).unwrap()).stderr(Stdio::piped());
        let mut netcat = lab.start_peer(netcat);
        netcat.wait_for("Listening");
        let mut ours = lab.underpass(&["nc", host, "9000"]);
        ours.stdin(File::open(&sent).unwrap());
        let (exit, _) = lab.start_ours(ours).wait();
        assert!(exit.success());
        assert!(netcat.wait().0.success());
        assert_eq!(sha256(&received), sha256(&sent), "{host}");
    }
}

fn files_come_from_netcat(lab: &Lab) {
    let sent = lab.random_file("sent", LEN);
    for host in ["10.7.0.2", "fd07::2"] {
        let received = lab.dir.path().join("received");
        let mut ours = lab.underpass(&["-v", "nc", "-l", "9000"]);
        ours.stdin(Stdio::null()).stderr(Stdio::piped());
        ours.stdout(File::create(&received).unwrap());
        let mut ours = lab.start_ours(ours);
        ours.wait_for("listening");
        let mut netcat = Command::new("nc");
        netcat.args(["-N", host, "9000"]).stdin(File::open(&sent).unwrap());
        let (exit, _) = lab.start_peer(netcat).wait();
        assert!(exit.success());
        assert!(ours.wait().0.success());
        assert_eq!(sha256(&received), sha256(&sent), "{host}");
    }
}

fn the_end_of_input_leaves_the_other_direction_open(lab: &Lab) {
    let listener = lab.at_peer(|| TcpListener::bind("0.0.0.0:9000")).unwrap();
    let mut ours = lab.underpass(&["nc", "10.7.0.1", "9000"]);
    ours.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut ours = lab.start_ours(ours);
    let (mut peer, _) = listener.accept().unwrap();
    let mut input = ours.stdin();
    input.write_all(b"question").unwrap();
    drop(input);
    let mut question = String::new();
    peer.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    // Long after our end.
    thread::sleep(Duration::from_millis(300));
    peer.write_all(b"answer").unwrap();
    drop(peer);
    let (exit, answer) = ours.wait();
    assert!(exit.success());
    assert_eq!(answer, "answer");
}

fn the_end_of_the_peer_leaves_our_direction_open(lab: &Lab) {
    let listener = lab.at_peer(|| TcpListener::bind("0.0.0.0:9000")).unwrap();
    let mut ours = lab.underpass(&["nc", "10.7.0.1", "9000"]);
    ours.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut ours = lab.start_ours(ours);
    let (mut peer, _) = listener.accept().unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(300));
    let mut input = ours.stdin();
    input.write_all(b"still here").unwrap();
    drop(input);
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    assert!(ours.wait().0.success());
}

fn a_silent_input_does_not_hold_up_what_comes(lab: &Lab) {
    let mut ours = lab.underpass(&["-v", "nc", "-l", "10.7.0.2", "9000"]);
    ours.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ours = lab.start_ours(ours);
    ours.wait_for("listening");
    let mut peer = lab.connect("10.7.0.2:9000".parse().unwrap()).unwrap();
    peer.write_all(b"hello").unwrap();
    let mut hello = [0; 5];
    ours.read_stdout(&mut hello);
    assert_eq!(&hello, b"hello");
    // A listener ends with its peer, though its input has not ended.
    drop(peer);
    assert!(ours.wait().0.success());
}

fn datagrams_both_ways(lab: &Lab) {
    let peer = lab.at_peer(|| UdpSocket::bind("0.0.0.0:9000")).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut ours = lab.underpass(&["nc", "-u", "-w", "2", "10.7.0.1", "9000"]);
    ours.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut ours = lab.start_ours(ours);
    let mut input = ours.stdin();
    input.write_all(b"question").unwrap();
    let mut datagram = [0; 100];
    let (len, from) = peer.recv_from(&mut datagram).unwrap();
    assert_eq!(&datagram[..len], b"question");
    peer.send_to(b"answer", from).unwrap();
    drop(input);
    let (exit, answer) = ours.wait();
    assert!(exit.success());
    assert_eq!(answer, "answer");
}

fn datagrams_to_a_listener(lab: &Lab) {
    fs::write(lab.dir.path().join("text"), "a datagram").unwrap();
    let mut ours = lab.underpass(&["-v", "nc", "-u", "-l", "9000", "-w", "2"]);
    ours.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ours = lab.start_ours(ours);
    ours.wait_for("listening");
    let mut netcat = Command::new("nc");
    netcat.args(["-u", "-w", "1", "10.7.0.2", "9000"]);
    netcat.stdin(File::open(lab.dir.path().join("text")).unwrap());
    assert!(lab.start_peer(netcat).wait().0.success());
    let (exit, text) = ours.wait();
    assert!(exit.success());
    assert_eq!(text, "a datagram");
}

fn failures_and_interrupts(lab: &Lab) {
    for (arguments, cause) in [
        (&["10.7.0.1", "9"][..], "refused"),
        (&["10.7.0.99", "9", "-w", "1"], "no connection within 1 s"),
        (&["10.7.0.1"], "give a PORT"),
        (&["10.7.0.1", "70000"], "not a port"),
        (&["-l", "10.7.0.1", "9000"], "not an address of this stack"),
        (&["host.test", "9"], "add --dns"),
    ] {
        let output = lab.run(&[&["nc"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(cause), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    }
    let mut ours = lab.underpass(&["-v", "nc", "-l", "9000"]);
    ours.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ours = lab.start_ours(ours);
    ours.wait_for("listening");
    ours.interrupt();
    assert_eq!(ours.wait().0.code(), Some(130));
}
