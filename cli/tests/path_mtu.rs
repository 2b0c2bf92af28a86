//! A path with a link of 1300 bytes behind a router, which the kernel is.

#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Lab, OURS, Process, finish, large, sha256};
use underpass_drivers::lab::{Namespace, veth};

on_every_link! {
    what_is_served_fits_the_path,
    what_is_fetched_fits_the_path,
    what_is_sent_by_udp_fits_the_path,
}

/// The host behind the router.
const FAR: [&str; 2] = ["10.8.0.2", "[fd08::2]"];
const GATEWAYS: [&str; 4] = ["--gateway", "10.7.0.1", "--gateway", "fd07::1"];

fn what_is_served_fits_the_path(lab: &Lab) {
    let sent = sha256(&lab.random_file("random.bin", large()));
    let far = far(lab);
    let _server = lab.serve(&[&["http-serve", "--root", "."][..], &GATEWAYS].concat());
    for (version, host) in OURS.iter().enumerate() {
        let mut command = Command::new("curl");
        command.args(["-gsSf", "--max-time", "100", "-o", "received"]);
        command.arg(format!("http://{host}/random.bin")).current_dir(lab.dir.path());
        let output = finish(&far, command);
        assert!(output.status.success(), "{host}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sha256(&lab.dir.path().join("received")), sent, "{host}");
        // Reports there were, for one window at most.
        let reports = too_big(lab)[version];
        assert!((1..200).contains(&reports), "{host}: {reports} packets were too big");
    }
}

fn what_is_fetched_fits_the_path(lab: &Lab) {
    let sent = sha256(&lab.random_file("random.bin", large()));
    let far = far(lab);
    let _server = far_server(lab, &far);
    for host in FAR {
        let url = format!("http://{host}:8080/random.bin");
        let output = lab.run(&[&["http-get", &url, "-o", "received"][..], &GATEWAYS].concat());
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sha256(&lab.dir.path().join("received")), sent, "{url}");
    }
}

/// Over IPv4 the router would cut datagrams; over IPv6 only the sender can.
fn what_is_sent_by_udp_fits_the_path(lab: &Lab) {
    let far = far(lab);
    let _server = lab.serve(&[&["echo", "--udp"][..], &GATEWAYS].concat());
    for (local, server) in [("10.8.0.2:0", "10.7.0.2:7"), ("[fd08::2]:0", "[fd07::2]:7")] {
        let socket = far.run(|| std::net::UdpSocket::bind(local)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let sent: Vec<u8> = (0..4000_u32).map(|n| (n % 251) as u8).collect();
        let mut received = [0; 8192];
        // The first answers may be too big, and be lost.
        let answer = (0..10).find_map(|_| {
            socket.send_to(&sent, server).unwrap();
            socket.recv(&mut received).ok()
        });
        assert_eq!(answer, Some(sent.len()), "{server}");
        assert!(received[..4000] == sent, "{server}");
    }
    assert!(too_big(lab)[1] > 0);
}

/// Makes the kernel's end a router, and a host behind it that takes more than the link to it.
fn far(lab: &Lab) -> Namespace {
    let far = Namespace::new().unwrap();
    veth((lab.kernel(), "far0"), (&far, "eth0")).unwrap();
    for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        lab.kernel().sysctl(name, "1").unwrap();
    }
    for (namespace, name, host) in [(lab.kernel(), "far0", 1), (&far, "eth0", 2)] {
        let addresses = [format!("10.8.0.{host}"), format!("fd08::{host}")];
        namespace
            .netlink(|netlink| {
                netlink.set_mtu(name, 1300)?;
                netlink.add_address(name, addresses[0].parse().unwrap(), 24)?;
                netlink.add_address(name, addresses[1].parse().unwrap(), 64)
            })
            .unwrap();
    }
    // Without a larger maximum segment size nobody would ever send more than 1300 bytes.
    for route in [
        "route add 10.7.0.0/24 via 10.8.0.1 advmss 1460",
        "-6 route add fd07::/64 via fd08::1 advmss 1440",
    ] {
        let mut command = Command::new("ip");
        command.args(route.split(' '));
        let output = finish(&far, command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    far
}

/// A web server on the far host, that serves the directory of the lab at port 8080.
fn far_server(lab: &Lab, far: &Namespace) -> Process {
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "8080", "--bind", "::"]);
    command.current_dir(lab.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Process::start(far, command);
    let start = Instant::now();
    while far.run(|| TcpStream::connect("127.0.0.1:8080")).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "nobody listens on the far host");
        thread::sleep(Duration::from_millis(20));
    }
    server
}

/// Packets that the router found too big, by IP version.
fn too_big(lab: &Lab) -> [u64; 2] {
    lab.at_peer(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut lines = v4.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split(' ').position(|name| name == "FragFails").unwrap();
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let fails = v6.lines().find_map(|line| line.strip_prefix("Ip6InTooBigErrors")).unwrap();
        [values.split(' ').nth(at).unwrap(), fails.trim()].map(|text| text.parse().unwrap())
    })
}
