//! An interface with a stack and the kernel on it, told apart by an XDP program.

#![cfg(feature = "xdp")]
#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use common::{KERNEL, Lab, NGINX, OURS, large, nginx_command, sha256};
use serde_json::Value;
use underpass_drivers::lab::Flood;

/// Addresses of the command and of the kernel at the same end.
const PINGED: [&str; 4] = ["10.7.0.2", "fd07::2", "10.7.0.3", "fd07::3"];

/// The command's exit code is 0; what it printed.
fn ok(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// `underpass xdp …` at our end.
fn xdp(lab: &Lab, arguments: &[&str]) -> String {
    ok(&lab.run_ours(lab.bare(&[&["xdp"], arguments].concat())))
}

/// The counters of our interface: totals, and each rule by its packets.
fn stats(lab: &Lab) -> Value {
    serde_json::from_str(&xdp(lab, &["stats", "veth0", "--count", "1", "--json"])).unwrap()
}

fn packets(counts: &Value, verdict: &str) -> u64 {
    counts[verdict]["packets"].as_u64().unwrap()
}

fn rule<'a>(stats: &'a Value, matches: &str) -> &'a Value {
    let rules = stats["rules"].as_array().unwrap();
    let report = rules.iter().find(|report| report["rule"]["matches"] == matches);
    &report.unwrap_or_else(|| panic!("{matches}: {stats}"))["counts"]
}

fn fetch(lab: &Lab, host: &str, file: &str) -> Vec<u8> {
    let url = format!("http://{host}/random.bin");
    lab.peer_ok("curl", &["-gsSf", "--max-time", "300", "-o", file, &url]);
    sha256(&lab.dir.path().join(file)).to_vec()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_kernel_serves_on_the_same_interface_at_the_same_time() {
    let lab = Lab::xdp();
    let sent = sha256(&lab.random_file("random.bin", large()));
    let _ours = lab.serve(&["http-serve", "--root", "."]);
    let _kernel = lab.our_server(nginx_command(&lab), NGINX.parse().unwrap());
    let kernel = KERNEL.map(|host| format!("{host}:8080"));
    let hosts = OURS.iter().copied().chain(kernel.iter().map(String::as_str));
    thread::scope(|scope| {
        for (n, host) in hosts.enumerate() {
            let lab = &lab;
            scope.spawn(move || {
                assert_eq!(fetch(lab, host, &format!("received{n}")), sent, "{host}");
            });
        }
        for host in PINGED {
            lab.peer_ok("ping", &["-c", "3", "-i", "0.2", "-W", "5", host]);
        }
    });
    let totals = stats(&lab)["totals"].clone();
    assert!(packets(&totals, "redirect") > 100 && packets(&totals, "pass") > 100, "{totals}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_steered_is_shown_and_follows_the_addresses() {
    let lab = Lab::xdp();
    let _server = lab.serve(&["echo", "--udp"]);
    let shown = xdp(&lab, &["show", "veth0"]);
    for line in ["  10.7.0.2\n", "  fd07::2\n", "rules:\n  none\n"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(!shown.contains("10.7.0.3"), "the kernel's: {shown}");
    let json: Value = serde_json::from_str(&xdp(&lab, &["show", "veth0", "--json"])).unwrap();
    assert_eq!(json["takes_all"], false);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_part_of_an_address_goes_to_the_stack() {
    let mut lab = Lab::xdp();
    lab.set_spec("xdp:veth0,only=tcp/80,only=icmp");
    lab.random_file("random.bin", 10_000);
    let _server = lab.serve(&["http-serve", "--root", "."]);
    let shown = xdp(&lab, &["show", "veth0"]);
    for line in ["  10.7.0.2, tcp/80\n", "  10.7.0.2, icmp\n", "  fd07::2, tcp/80\n"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    fetch(&lab, "10.7.0.2", "received");
    lab.peer_ok("ping", &["-c", "1", "-W", "5", "10.7.0.2"]);
    let before = packets(&stats(&lab)["totals"], "pass");
    lab.at_peer(|| {
        let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
        socket.send_to(b"for the kernel", "10.7.0.2:9").unwrap();
    });
    assert_eq!(packets(&stats(&lab)["totals"], "pass"), before + 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flood_is_dropped_while_others_are_served() {
    const FLOOD: u32 = 4_000_000;
    let lab = Lab::xdp();
    let sent = sha256(&lab.random_file("random.bin", 64 << 20));
    let _server = lab.serve(&["http-serve", "--root", "."]);
    let _kernel = lab.our_server(nginx_command(&lab), NGINX.parse().unwrap());
    xdp(&lab, &["deny", "veth0", "198.51.100.0/24"]);
    xdp(&lab, &["allow", "veth0", "198.51.100.7,tcp"]);
    let rules = xdp(&lab, &["show", "veth0"]);
    assert!(rules.contains("198.51.100.0/24") && rules.contains("198.51.100.7/32,tcp"), "{rules}");

    let mac = fs_mac(&lab);
    let flood = datagram(mac, [198, 51, 100, 7]);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            lab.at_peer(|| Flood::new("veth1", &flood).unwrap().send(FLOOD).unwrap());
        });
        for (n, host) in ["10.7.0.2", "10.7.0.3:8080"].into_iter().enumerate() {
            assert_eq!(fetch(&lab, host, &format!("received{n}")), sent, "{host}");
        }
        flooding.join().unwrap();
    });
    let stats = stats(&lab);
    let dropped = packets(rule(&stats, "198.51.100.0/24"), "drop");
    // What the link had no room for was not sent.
    let (crossed, lost) = (flood_counter(&lab, "xmit:"), flood_counter(&lab, "xmit_errors:"));
    assert_eq!(crossed + lost, u64::from(FLOOD));
    assert!(crossed > u64::from(FLOOD) / 2, "{crossed}");
    assert_eq!(dropped, crossed, "{stats}");
    assert_eq!(packets(&stats["totals"], "drop"), dropped);
    let bytes = rule(&stats, "198.51.100.0/24")["drop"]["bytes"].as_u64().unwrap();
    assert_eq!(bytes, dropped * flood.len() as u64);

    xdp(&lab, &["deny", "veth0", "198.51.100.0/24", "--remove"]);
    let again = lab.run_ours(lab.bare(&["xdp", "deny", "veth0", "198.51.100.0/24", "--remove"]));
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(error, "error: veth0: there is no rule for 198.51.100.0/24\n");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_killed_command_leaves_nothing_behind() {
    let lab = Lab::xdp();
    lab.random_file("random.bin", 10_000);
    for _ in 0..3 {
        let mut server = lab.serve(&["http-serve", "--root", "."]);
        fetch(&lab, "10.7.0.2", "received");
        server.kill();
        let (exit, _) = server.wait();
        assert!(!exit.success());
        let start = Instant::now();
        let link = loop {
            let link = lab.our_link("veth0");
            if link.xdp_program.is_none() || start.elapsed() > Duration::from_secs(5) {
                break link;
            }
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!((link.xdp_program, link.up), (None, true));
        // The interface is the kernel's alone, and works.
        lab.peer_ok("ping", &["-c", "1", "-W", "5", "10.7.0.3"]);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_a_program_the_command_says_so() {
    let lab = Lab::xdp();
    let output = lab.run_ours(lab.bare(&["xdp", "stats", "veth0"]));
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("error: veth0: no XDP program is attached; start"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn counters_are_shown_while_they_change() {
    let lab = Lab::xdp();
    let _server = lab.serve(&["echo", "--udp"]);
    let arguments = ["xdp", "stats", "veth0", "--count", "3", "--interval", "0.2"];
    let tables = thread::scope(|scope| {
        let tables = scope.spawn(|| ok(&lab.run_ours(lab.bare(&arguments))));
        lab.peer_ok("ping", &["-c", "3", "-i", "0.2", "-W", "5", "10.7.0.2"]);
        tables.join().unwrap()
    });
    assert_eq!(tables.matches("per second").count(), 9, "{tables}");
    assert_eq!(tables.lines().filter(|line| line.starts_with("all ")).count(), 3, "{tables}");
}

/// Frames of a flood, as the peer's interface has counted them.
fn flood_counter(lab: &Lab, name: &str) -> u64 {
    let counters = lab.peer_ok("ethtool", &["-S", "veth1"]);
    let name = format!("tx_queue_0_xdp_{name}");
    let counter = counters.lines().find_map(|line| line.trim().strip_prefix(&name));
    counter.unwrap_or_else(|| panic!("{name}: {counters}")).trim().parse().unwrap()
}

/// The MAC address of our interface.
fn fs_mac(lab: &Lab) -> [u8; 6] {
    lab.our_link("veth0").mac.unwrap().0
}

/// An Ethernet frame of 64 bytes (with its check sequence) with a UDP datagram to the stack.
fn datagram(mac: [u8; 6], source: [u8; 4]) -> Vec<u8> {
    let mut frame = [&mac[..], &[2, 0, 0, 0, 0, 9, 8, 0]].concat();
    frame.extend([0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source);
    frame.extend([10, 7, 0, 2, 0x30, 0x39, 0, 80, 0, 26, 0, 0]);
    frame.resize(60, 0);
    frame
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn partial_checksums_of_the_peer_are_understood() {
    let lab = Lab::xdp();
    let sent = sha256(&lab.random_file("random.bin", 1 << 20));
    // As it is by default, and as the other tests have it; here to be sure.
    lab.peer_ok("ethtool", &["-K", "veth1", "tx", "on"]);
    let mut server = lab.serve(&["http-serve", "--root", "."]);
    assert_eq!(fetch(&lab, "10.7.0.2", "received"), sent);
    lab.peer_ok("ethtool", &["-K", "veth1", "tx", "off"]);
    assert_eq!(fetch(&lab, "[fd07::2]", "received"), sent);
    server.interrupt();
    let (exit, statistics) = server.wait();
    assert!(exit.success());
    assert!(!statistics.contains("checksum"), "nothing was dropped: {statistics}");
    assert!(fs::metadata(lab.dir.path().join("received")).is_ok());
}
