//! `underpass http-serve`, asked by curl.

#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Lab, OURS, large, sha256};

on_every_link! {
    large_files_arrive_byte_for_byte,
    ranges_and_heads,
    what_is_not_served_is_refused,
    a_hundred_clients_at_once,
    two_shards_share_a_hundred_clients,
    a_connection_is_kept_for_the_next_request,
    an_interrupt_ends_it_and_it_can_start_again,
    an_interrupt_lets_a_transfer_finish,
    a_second_interrupt_ends_it_at_once,
}

fn large_files_arrive_byte_for_byte(lab: &Lab) {
    let sent = sha256(&lab.random_file("random.bin", large()));
    let _server = lab.serve(&["http-serve", "--root", "."]);
    for host in OURS {
        let url = format!("http://{host}/random.bin");
        lab.peer_ok("curl", &["-gsSf", "--max-time", "100", "-o", "received", &url]);
        assert_eq!(sha256(&lab.dir.path().join("received")), sent, "{url}");
    }
}

fn ranges_and_heads(lab: &Lab) {
    let file = lab.random_file("random.bin", 1_000_000);
    let content = fs::read(file).unwrap();
    let _server = lab.serve(&["http-serve", "--root", "."]);
    let url = "http://10.7.0.2/random.bin";
    for (range, part) in [
        ("0-0", 0..1),
        ("999-500000", 999..500_001),
        ("-7", 999_993..1_000_000),
        ("999999-", 999_999..1_000_000),
    ] {
        let format = "%{http_code}";
        let code = lab.peer_ok("curl", &["-sSf", "-r", range, "-o", "part", "-w", format, url]);
        assert_eq!(code, "206", "{range}");
        assert_eq!(fs::read(lab.dir.path().join("part")).unwrap(), content[part], "{range}");
    }
    // A transfer that was cut off goes on where it stopped.
    fs::write(lab.dir.path().join("resumed"), &content[..300_000]).unwrap();
    lab.peer_ok("curl", &["-sSf", "-C", "-", "-o", "resumed", url]);
    assert_eq!(fs::read(lab.dir.path().join("resumed")).unwrap(), content);

    let head = lab.peer_ok("curl", &["-sSfI", url]).to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-length: 1000000\r\n"), "{head}");
    assert_eq!(status(lab, &["-r", "1000000-", url]), "416");
}

fn what_is_not_served_is_refused(lab: &Lab) {
    fs::create_dir(lab.dir.path().join("root")).unwrap();
    fs::write(lab.dir.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", lab.dir.path().join("root/link")).unwrap();
    let _server = lab.serve(&["http-serve", "--root", "root"]);
    for path in ["missing", "../secret", "%2e%2e/secret", "link", "../../../../etc/passwd"] {
        let url = format!("http://10.7.0.2/{path}");
        assert_eq!(status(lab, &["--path-as-is", &url]), "404", "{url}");
    }
    assert_eq!(status(lab, &["-X", "PUT", "-d", "data", "http://10.7.0.2/new"]), "405");
    assert_eq!(status(lab, &["http://10.7.0.2/"]), "200");
}

fn a_hundred_clients_at_once(lab: &Lab) {
    let _server = lab.serve(&["http-serve", "--root", "."]);
    a_hundred_curls(lab);
}

fn two_shards_share_a_hundred_clients(lab: &Lab) {
    lab.use_two_queues();
    let arguments = ["http-serve", "--root", ".", "--shards", "2", "--pcap", "capture"];
    let mut server = lab.serve(&arguments);
    a_hundred_curls(lab);
    server.interrupt();
    let (exit, statistics) = server.wait();
    assert!(exit.success(), "{exit}");
    let accepted: Vec<u32> = (0..2)
        .map(|shard| {
            let start = format!("shard {shard}: ");
            let line = statistics.lines().find_map(|line| line.strip_prefix(&start));
            let count = line.and_then(|line| line.split_once(" accepted")).map(|(n, _)| n);
            count.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{statistics}"))
        })
        .collect();
    println!("{statistics}");
    assert_eq!(accepted.iter().sum::<u32>(), 100, "{statistics}");
    assert!(accepted.iter().all(|n| *n > 20), "{statistics}");
    for file in ["capture.0", "capture.1"] {
        assert!(fs::metadata(lab.dir.path().join(file)).unwrap().len() > 10_000, "{file}");
    }
}

fn a_hundred_curls(lab: &Lab) {
    let sent = sha256(&lab.random_file("random.bin", 300_000));
    fs::create_dir(lab.dir.path().join("received")).unwrap();
    let url = "http://10.7.0.2/random.bin?[1-100]";
    let parallel = ["-sSf", "-Z", "--parallel-immediate", "--parallel-max", "100"];
    let to = ["--max-time", "100", "-o", "received/#1", url];
    lab.peer_ok("curl", &[&parallel[..], &to[..]].concat());
    for n in 1..=100 {
        let path = lab.dir.path().join(format!("received/{n}"));
        assert_eq!(sha256(&path), sent, "client {n}");
    }
}

fn a_connection_is_kept_for_the_next_request(lab: &Lab) {
    lab.random_file("random.bin", 10_000);
    let _server = lab.serve(&["http-serve", "--root", "."]);
    let url = "http://10.7.0.2/random.bin?[1-5]";
    let connects = lab.peer_ok("curl", &["-sSf", "-o", "#1", "-w", "%{num_connects} ", url]);
    assert_eq!(connects, "1 0 0 0 0 ");
}

fn an_interrupt_ends_it_and_it_can_start_again(lab: &Lab) {
    lab.random_file("random.bin", 10_000);
    for _ in 0..3 {
        let mut server = lab.serve(&["http-serve", "--root", "."]);
        assert_eq!(status(lab, &["http://10.7.0.2/random.bin"]), "200");
        server.interrupt();
        let (exit, statistics) = server.wait();
        assert!(exit.success(), "{exit}");
        assert!(statistics.contains("frames"), "{statistics}");
    }
}

fn an_interrupt_lets_a_transfer_finish(lab: &Lab) {
    let sent = sha256(&lab.random_file("random.bin", 8 << 20));
    let mut server = lab.serve(&["http-serve", "--root", "."]);
    let url = "http://10.7.0.2/random.bin";
    let slowly = ["-sSf", "--limit-rate", "4M", "-o", "received", url];
    std::thread::scope(|scope| {
        let client = scope.spawn(|| lab.peer_ok("curl", &slowly));
        std::thread::sleep(Duration::from_millis(500));
        server.interrupt();
        client.join().unwrap();
    });
    let (exit, _) = server.wait();
    assert!(exit.success(), "{exit}");
    assert_eq!(sha256(&lab.dir.path().join("received")), sent);
}

fn a_second_interrupt_ends_it_at_once(lab: &Lab) {
    // More than fits into the buffers on the way.
    lab.random_file("random.bin", 64 << 20);
    let mut server = lab.serve(&["http-serve", "--root", "."]);
    let url = "http://10.7.0.2/random.bin";
    std::thread::scope(|scope| {
        let client = scope
            .spawn(|| lab.peer("curl", &["-sS", "--limit-rate", "1M", "-m3", "-o", "part", url]));
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(500));
            server.interrupt();
        }
        let (exit, _) = server.wait();
        assert_eq!(exit.code(), Some(130), "{exit}");
        assert!(!client.join().unwrap().status.success());
    });
}

fn status(lab: &Lab, arguments: &[&str]) -> String {
    let quiet = ["-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}"];
    lab.peer_ok("curl", &[&quiet[..], arguments].concat())
}
