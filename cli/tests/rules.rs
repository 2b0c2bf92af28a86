//! `--deny` and `--allow`: some stations are served and others are not.

#![forbid(unsafe_code)]

mod common;

use std::net::UdpSocket;
use std::time::Duration;

use common::Lab;

on_every_link! {
    denied_sources_get_no_answer,
    sources_are_limited,
}

fn denied_sources_get_no_answer(lab: &Lab) {
    lab.random_file("random.bin", 10_000);
    let rules = ["--deny", "10.7.0.8/29", "--deny", "fd07::1:0/112,tcp/80", "--allow", "10.7.0.10"];
    let mut server = lab.serve(&[&["http-serve", "--root", "."], &rules[..]].concat());
    for (address, prefix) in
        [("10.7.0.9", 24), ("10.7.0.10", 24), ("10.7.0.16", 24), ("fd07::1:1", 64)]
    {
        lab.peer_address(lab.peer_interface(), address, prefix);
    }
    for (source, host) in
        [("10.7.0.1", "10.7.0.2"), ("10.7.0.10", "10.7.0.2"), ("10.7.0.16", "10.7.0.2")]
    {
        assert_eq!(curl(lab, source, host), "200", "{source}");
    }
    assert_eq!(curl(lab, "fd07::1", "[fd07::2]"), "200");
    for (source, host) in [("10.7.0.9", "10.7.0.2"), ("fd07::1:1", "[fd07::2]")] {
        let url = format!("http://{host}/random.bin");
        let refused = lab.peer("curl", &["-sS", "-m", "2", "--interface", source, &url]);
        assert_eq!(refused.status.code(), Some(28), "{source}: timed out");
    }
    // The rule is about one port: another one refuses.
    let url = "http://[fd07::2]:81/";
    let refused = lab.peer("curl", &["-sS", "-m", "60", "--interface", "fd07::1:1", url]);
    assert_eq!(refused.status.code(), Some(7), "connection refused");
    server.interrupt();
    let (exit, statistics) = server.wait();
    assert!(exit.success(), "{exit}");
    println!("{statistics}");
    let line = |rule: &str| {
        let line = statistics.lines().find_map(|line| line.strip_prefix(rule));
        line.unwrap_or_else(|| panic!("{rule}: {statistics}")).to_owned()
    };
    for rule in
        ["--deny 10.7.0.8/29: 0 packets kept, ", "--deny fd07::1:0/112,tcp/80: 0 packets kept, "]
    {
        assert!(!line(rule).starts_with('0'), "{statistics}");
    }
    assert!(line("--allow 10.7.0.10/32: ").ends_with(" kept, 0 dropped"), "{statistics}");
}

fn sources_are_limited(lab: &Lab) {
    let mut server = lab.serve(&["echo", "--udp", "--allow", "0.0.0.0/0,udp/7@1/3"]);
    lab.peer_address(lab.peer_interface(), "10.7.0.9", 24);
    for source in ["10.7.0.1", "10.7.0.9"] {
        let answers = lab.at_peer(|| {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            socket.connect("10.7.0.2:7").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            for n in 0..20 {
                socket.send(&[n]).unwrap();
            }
            std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count()
        });
        // More than three only if it took seconds.
        assert!((3..20).contains(&answers), "{source}: {answers}");
    }
    server.interrupt();
    let (_, statistics) = server.wait();
    assert!(statistics.contains("--allow 0.0.0.0/0,udp/7@1/3: "), "{statistics}");
}

fn curl(lab: &Lab, source: &str, host: &str) -> String {
    let url = format!("http://{host}/random.bin");
    let quiet = ["-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%{http_code}"];
    lab.peer_ok("curl", &[&quiet[..], &["--interface", source, &url]].concat())
}
