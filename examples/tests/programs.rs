//! Every example, against the kernel.

#![forbid(unsafe_code)]

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use lab::{Lab, Process, text};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

const ECHO: &str = env!("CARGO_BIN_EXE_echo_server");
const HTTP: &str = env!("CARGO_BIN_EXE_http_client");
const TLS: &str = env!("CARGO_BIN_EXE_tls_client");
const AXUM: &str = env!("CARGO_BIN_EXE_axum_server");
const RPC: &str = env!("CARGO_BIN_EXE_rpc_echo");
const CUSTOM: &str = env!("CARGO_BIN_EXE_custom_protocol");
const CHAT: &str = env!("CARGO_BIN_EXE_l2_chat");

fn labs() -> impl Iterator<Item = Lab> {
    [Lab::packet(), Lab::tap()].into_iter().chain(Lab::vlan())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn echo_server() {
    for lab in labs() {
        let _server = lab.serve(ECHO);
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let mut stream = lab.at_peer(|| TcpStream::connect("10.7.0.2:7")).unwrap();
        let mut received = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                (&stream).write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            // It closes when the last clone of its stream is dropped, at the end of the copy.
            (&stream).read_to_end(&mut received).unwrap();
        });
        assert!(received == sent, "{} bytes came back", received.len());
        stream.flush().unwrap();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn http_client() {
    for lab in labs() {
        let (listener, address) = lab.listen();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nkernel").unwrap();
            String::from_utf8(request).unwrap()
        });
        let mut command = lab.example(HTTP);
        command.arg(format!("http://{address}/path?query"));
        let output = lab.at_ours(|| command.output()).unwrap();
        assert_eq!(text(HTTP, &output), "kernel");
        let request = server.join().unwrap().to_ascii_lowercase();
        assert!(request.starts_with("get /path?query http/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tls_client() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["www.test".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, cert.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    for lab in labs() {
        for (name, trusted) in [("www.test", true), ("other.test", false)] {
            let (listener, address) = lab.listen();
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let server = thread::spawn(move || {
                let mut stream = StreamOwned::new(connection, listener.accept().unwrap().0);
                let mut request = String::new();
                if stream.read_to_string(&mut request).is_ok() {
                    stream.write_all(request.to_uppercase().as_bytes()).unwrap();
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                }
                request
            });
            let mut command = lab.example(TLS);
            command.arg("--ca").arg(&ca).args(["--name", name]).arg(address.to_string());
            let mut client = lab.at_ours(|| command.spawn()).unwrap();
            // A client that does not trust the server has ended already.
            let written = client.stdin.take().unwrap().write_all(b"under the kernel");
            assert!(written.is_ok() || !trusted);
            let output = client.wait_with_output().unwrap();
            if trusted {
                assert_eq!(text(TLS, &output), "UNDER THE KERNEL");
            } else {
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success() && stderr.contains("certificate"), "{stderr}");
            }
            assert_eq!(server.join().unwrap().is_empty(), !trusted);
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn axum_server() {
    for lab in labs() {
        let server = lab.serve(AXUM);
        let hello = lab.peer_ok("curl", &["-sS", "http://10.7.0.2/hello/you"]);
        assert_eq!(hello, "Hello you at 10.7.0.1!\n");
        let length =
            lab.peer_ok("curl", &["-sS", "--data", &"x".repeat(100_000), "http://10.7.0.2/length"]);
        assert_eq!(length, "100000");
        assert_eq!(server.interrupt(), "");
    }
}

/// The same program at both ends of a link.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn custom_protocol() {
    let station = |spec: &str, address: &str, name: &str, more: &[&str]| {
        let mut command = Command::new(CUSTOM);
        command.args(["--device", spec, "--addr", address, "--name", name]).args(more);
        command
    };
    let ends = [
        (Lab::packet(), "packet:veth1"),
        (Lab::tap(), "packet:tap0"),
        #[cfg(feature = "xdp")]
        (Lab::xdp(), "xdp:veth1"),
    ];
    for (lab, peer) in ends {
        let _ada = lab.serve_with(CUSTOM, &["--name", "ada"]);
        let mut bob = station(peer, "10.7.0.3/24", "bob", &["--ask"]);
        let answer = text(CUSTOM, &lab.at_peer(|| bob.output()).unwrap());
        assert!(answer.ends_with(" is ada\n"), "{answer}");
    }
    let output = station("memory:", "10.7.0.3/24", "bob", &["--ask"]).output().unwrap();
    assert!(text(CUSTOM, &output).ends_with(" is memory\n"));
}

/// Two people at the ends of a link, of whom one leaves, and the echo of the device in memory.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn l2_chat() {
    let ends = [
        (Lab::packet(), "packet:veth1"),
        (Lab::tap(), "packet:tap0"),
        #[cfg(feature = "xdp")]
        (Lab::xdp(), "xdp:veth1"),
    ];
    for (lab, peer) in ends {
        let mut ada = lab.serve_with(CHAT, &["--name", "ada"]);
        let mut bob = Command::new(CHAT);
        bob.args(["--device", peer, "--addr", "10.7.0.3/24", "--name", "bob"]);
        bob.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut bob = Process(lab.at_peer(|| bob.spawn()).unwrap());
        assert_eq!(bob.line(), "listening on EtherType 0x88b7");
        assert_eq!((ada.line(), bob.line()), ("* bob is here".into(), "* ada is here".into()));
        let talk = |from: &mut Process, to: &mut Process, name| {
            (0..20).for_each(|n| from.say(&format!("line {n}")));
            (0..20).for_each(|n| assert_eq!(to.line(), format!("{name}: line {n}")));
        };
        talk(&mut ada, &mut bob, "ada");
        talk(&mut bob, &mut ada, "bob");
        assert_eq!(bob.interrupt(), "");
        assert_eq!(ada.line(), "* bob has left");
        assert_eq!(ada.interrupt(), "");
    }
    let mut command = Command::new(CHAT);
    command.args(["--device", "memory:", "--addr", "10.7.0.3/24", "--name", "ada"]);
    let mut ada = Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(ada.line(), "listening on EtherType 0x88b7");
    assert_eq!(ada.line(), "* echo is here");
    ada.say("hello");
    assert_eq!(ada.line(), "echo: hello");
    // The end of the input is the end, too.
    drop(ada.0.stdin.take());
    assert!(ada.0.wait().unwrap().success());
}

/// The same program at both ends of a link.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn rpc_echo() {
    let ask = |spec: &str, from: &str, to: &str| {
        let mut command = Command::new(RPC);
        command.args(["--device", spec, "--addr", from, "--to", to, "--count", "100"]);
        command.args(["--size", "5000"]);
        command
    };
    let ends = [
        (Lab::packet(), "packet:veth1"),
        (Lab::tap(), "packet:tap0"),
        #[cfg(feature = "xdp")]
        (Lab::xdp(), "xdp:veth1"),
    ];
    for (lab, peer) in ends {
        let _server = lab.serve_with(RPC, &[]);
        let mut client = ask(peer, "10.7.0.3/24", "10.7.0.2");
        let answer = text(RPC, &lab.at_peer(|| client.output()).unwrap());
        assert!(answer.starts_with("100 answers of 5000 bytes: median "), "{answer}");
    }
    let output = ask("memory:", "169.254.0.1/16", "169.254.0.2").output().unwrap();
    assert!(text(RPC, &output).starts_with("100 answers of 5000 bytes"));
}

/// The kernel's VLAN interface reaches the stack, and the link without a VLAN does not.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_vlan_of_the_kernel() {
    let Some(lab) = Lab::vlan() else { return };
    let _server = lab.serve(AXUM);
    let ping = lab.peer_ok("ping", &["-c", "3", "-i", "0.1", "-s", "1400", "10.7.0.2"]);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    // More than an MTU both ways, with the kernel's offloads.
    let body = "x".repeat(120_000);
    let length = lab.peer_ok("curl", &["-sS", "--data", &body, "http://10.7.0.2/length"]);
    assert_eq!(length, "120000");
    lab.move_peer_off_the_vlan();
    let output = lab.at_peer(|| {
        Command::new("ping").args(["-c", "2", "-i", "0.2", "-W", "1", "10.7.0.2"]).output()
    });
    assert!(!output.unwrap().status.success(), "untagged frames are not for us");
}
