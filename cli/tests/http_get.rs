//! `underpass http-get`, from nginx as it is installed.

#![forbid(unsafe_code)]

mod common;

use std::fs;

use pcap_file::pcapng::{Block, PcapNgReader};

use common::{Lab, PEER, large, nginx, sha256};

on_every_link! {
    files_arrive_byte_for_byte_from_nginx,
    failures_are_told_in_one_line,
    a_gateway_leads_beyond_the_link,
    a_capture_holds_the_frames,
}

fn files_arrive_byte_for_byte_from_nginx(lab: &Lab) {
    let sent = sha256(&lab.random_file("random.bin", large()));
    let _nginx = nginx(lab);
    for host in PEER {
        let url = format!("http://{host}:8080/random.bin");
        let output = lab.run(&["http-get", &url, "-o", "received"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{url}: {stderr}");
        assert!(stderr.contains("Gbit/s"), "{stderr}");
        assert_eq!(sha256(&lab.dir.path().join("received")), sent, "{url}");
    }
    // The name in the URL, unless there is such a file; and standard output.
    let url = "http://10.7.0.1:8080/random.bin";
    let output = lab.run(&["http-get", url]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("exists"), "{stderr}");
    let output = lab.run(&["http-get", url, "-o", "-"]);
    assert!(output.status.success());
    assert_eq!(output.stdout, fs::read(lab.dir.path().join("random.bin")).unwrap());
}

fn failures_are_told_in_one_line(lab: &Lab) {
    let _nginx = nginx(lab);
    for (url, cause) in [
        ("http://10.7.0.1:8080/missing", "404"),
        ("http://10.7.0.1:81/", "refused"),
        ("http://10.99.0.1/", "add --gateway"),
        ("https://10.7.0.1/", "only http"),
        ("http://example.com/", "no DNS server is known; add --dns"),
        ("http://-a.test/", "not a host name"),
    ] {
        let output = lab.run(&["http-get", url, "-o", "received"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{url}");
        assert!(stderr.contains(cause), "{url}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{url}: {stderr}");
        assert!(!lab.dir.path().join("received").exists(), "{url}");
    }
}

fn a_gateway_leads_beyond_the_link(lab: &Lab) {
    lab.random_file("random.bin", 10_000);
    // An address of the kernel that is not on the link.
    lab.peer_address("lo", "10.9.0.1", 32);
    let _nginx = nginx(lab);
    let url = "http://10.9.0.1:8080/random.bin";
    let output = lab.run(&["http-get", url, "-o", "-", "--gateway", "10.7.0.1"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(output.stdout, fs::read(lab.dir.path().join("random.bin")).unwrap());
}

fn a_capture_holds_the_frames(lab: &Lab) {
    lab.random_file("random.bin", 100_000);
    let _nginx = nginx(lab);
    let url = "http://10.7.0.1:8080/random.bin";
    let output = lab.run(&["--json", "http-get", url, "-o", "got", "--pcap", "got.pcapng"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bytes"], 100_000);

    let capture = fs::File::open(lab.dir.path().join("got.pcapng")).unwrap();
    let mut reader = PcapNgReader::new(capture).unwrap();
    let mut bytes = 0;
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            bytes += packet.data.len();
        }
    }
    assert!(bytes > 100_000, "{bytes} bytes were captured");
}
