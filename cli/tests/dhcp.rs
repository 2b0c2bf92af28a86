//! `--dhcp` against dnsmasq as it is installed.

#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Lab, Process, nginx, sha256};

on_every_link! {
    an_address_is_leased_used_and_given_back,
    a_lease_is_renewed,
    two_shards_share_what_the_network_gives,
    a_router_gives_an_address,
    a_page_is_fetched_by_a_name_that_the_leased_server_knows,
    nobody_answers,
}

fn an_address_is_leased_used_and_given_back(lab: &Lab) {
    let _dnsmasq = dnsmasq(lab);
    let log = || fs::read_to_string(lab.dir.path().join("dnsmasq.log")).unwrap_or_default();

    let output = lab.run_unaddressed(&["ping", "--dhcp", "-c", "2", "-i", "0.1", "10.7.0.1"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{stderr}\n{}", log());
    let start = Instant::now();
    while !log().contains("DHCPRELEASE") {
        assert!(start.elapsed() < Duration::from_secs(5), "not released:\n{}", log());
        thread::sleep(Duration::from_millis(20));
    }
    let acknowledged: Vec<String> = log()
        .lines()
        .filter_map(|line| line.split_once("DHCPACK")?.1.split_whitespace().nth(1))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(acknowledged.len(), 1, "{}", log());
    assert!(acknowledged[0].starts_with("10.7.0.1"), "not of the range: {acknowledged:?}");

    // A server tells the address it got, and is reached there.
    let mut server = lab.serve_unaddressed(&["echo", "--dhcp", "--port", "7"]);
    let ip =
        server.first_line().split("tcp://").nth(1).unwrap().split(':').next().unwrap().to_owned();
    lab.connect(format!("{ip}:7").parse().unwrap()).unwrap();
    server.interrupt();
    assert!(server.wait().0.success());
}

fn a_lease_is_renewed(lab: &Lab) {
    let _dnsmasq = dnsmasq(lab);
    let log = || fs::read_to_string(lab.dir.path().join("dnsmasq.log")).unwrap_or_default();
    let mut server = lab.serve_unaddressed(&["echo", "--dhcp", "--port", "7"]);
    let ip = server.first_line().split("tcp://").nth(1).unwrap().split(':').next().unwrap();
    let address = format!("{ip}:7").parse().unwrap();
    let start = Instant::now();
    // The server asks for a renewal after three seconds.
    while log().matches("DHCPACK").count() < 2 {
        assert!(start.elapsed() < Duration::from_secs(20), "not renewed:\n{}", log());
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(log().matches("DHCPDISCOVER").count(), 1, "{}", log());
    lab.connect(address).unwrap();
    server.interrupt();
    assert!(server.wait().0.success());
}

fn a_page_is_fetched_by_a_name_that_the_leased_server_knows(lab: &Lab) {
    let sent = sha256(&lab.random_file("random.bin", 1_000_000));
    let _nginx = nginx(lab);
    let _dnsmasq = dnsmasq(lab);
    let url = "http://name.test:8080/random.bin";
    let output = lab.run_unaddressed(&["http-get", "--dhcp", "--slaac", url, "-o", "received"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(sha256(&lab.dir.path().join("received")), sent);
}

/// The first shard asks; all of them answer for the addresses it got.
fn two_shards_share_what_the_network_gives(lab: &Lab) {
    lab.use_two_queues();
    let sent = sha256(&lab.random_file("random.bin", 300_000));
    let _dnsmasq = dnsmasq(lab);
    let arguments = ["http-serve", "--root", ".", "--shards", "2", "--dhcp", "--slaac"];
    let mut server = lab.serve_unaddressed(&arguments);
    let line = server.first_line().to_owned();
    let urls: Vec<&str> = line.split_whitespace().filter(|word| word.starts_with("http")).collect();
    assert!(urls.iter().any(|url| url.starts_with("http://10.7.0.1")), "{line}");
    assert!(urls.iter().any(|url| url.starts_with("http://[fd07::")), "{line}");
    for url in urls.iter().filter(|url| !url.contains("[fe80")) {
        let url = format!("{url}random.bin");
        for _ in 0..20 {
            lab.peer_ok("curl", &["-gsSf", "--max-time", "100", "-o", "received", &url]);
            assert_eq!(sha256(&lab.dir.path().join("received")), sent, "{url}");
        }
    }
    server.interrupt();
    let (exit, statistics) = server.wait();
    assert!(exit.success(), "{exit}");
    let both = ["shard 0: 0 accepted", "shard 1: 0 accepted"];
    assert!(!both.iter().any(|none| statistics.contains(none)), "{statistics}");
}

fn a_router_gives_an_address(lab: &Lab) {
    let _dnsmasq = dnsmasq(lab);
    let log = || fs::read_to_string(lab.dir.path().join("dnsmasq.log")).unwrap_or_default();
    let output = lab.run_unaddressed(&["ping", "--slaac", "-c", "2", "-i", "0.1", "fd07::1"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{stderr}\n{}", log());
}

/// Without a DHCP server the wait can be broken off.
fn nobody_answers(lab: &Lab) {
    let mut command = lab.unaddressed(&["ping", "--dhcp", "10.7.0.1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ping = lab.start_ours(command);
    thread::sleep(Duration::from_millis(800));
    let start = Instant::now();
    ping.interrupt();
    let (status, _) = ping.wait();
    assert_eq!(status.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// Leases 10.7.0.100 to 10.7.0.150, to be renewed after three seconds, advertises fd07::/64, and
/// knows name.test, on the kernel's end.
fn dnsmasq(lab: &Lab) -> Process {
    let dir = lab.dir.path();
    let path = |name: &str| dir.join(name).display().to_string();
    let mut command = Command::new("dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--log-dhcp", "--user=root"])
        .args(["--dhcp-authoritative", "--no-ping", "--bind-dynamic", "--no-resolv", "--no-hosts"])
        .args(["--dhcp-range=10.7.0.100,10.7.0.150,255.255.255.0,2m"])
        .args(["--enable-ra", "--dhcp-range=fd07::,ra-only,64"])
        .args(["--dhcp-option=option:router,10.7.0.1", "--dhcp-option=option:dns-server,10.7.0.1"])
        .args(["--dhcp-option-force=58,3", "--domain=lab.test", "--address=/name.test/10.7.0.1"])
        .arg(format!("--interface={}", lab.peer_interface()))
        .arg(format!("--dhcp-leasefile={}", path("dnsmasq.leases")))
        .arg(format!("--log-facility={}", path("dnsmasq.log")))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = lab.start_peer(command);
    let start = Instant::now();
    let started =
        || fs::read_to_string(dir.join("dnsmasq.log")).is_ok_and(|l| l.contains("started"));
    while !started() {
        assert!(start.elapsed() < Duration::from_secs(20), "dnsmasq does not start");
        thread::sleep(Duration::from_millis(10));
    }
    process
}
