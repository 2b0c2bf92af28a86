//! The examples that run on the threads of their shards, against the kernel: there is work on each of
//! two shards.

#![forbid(unsafe_code)]

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use lab::Lab;

const ECHO: &str = env!("CARGO_BIN_EXE_thread_per_core");
const KV: &str = env!("CARGO_BIN_EXE_kv");
const URL: &str = "http://10.7.0.2";

fn labs() -> [Lab; 2] {
    [Lab::packet(), Lab::tap()]
}

/// The numbers in what a server says of each shard, the shard's own left aside.
fn numbers<const N: usize>(report: &str) -> Vec<[u64; N]> {
    let of_line = |line: &str| {
        let words = line.split([' ', ',', ':']).filter_map(|word| word.parse().ok());
        words.skip(1).collect::<Vec<u64>>().try_into().unwrap()
    };
    report.lines().map(of_line).collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn thread_per_core_echoes_on_both_shards() {
    const CLIENTS: usize = 32;
    for lab in labs() {
        let server = lab.serve_with(ECHO, &["--shards", "2"]);
        let streams: Vec<TcpStream> = lab
            .at_peer(|| (0..CLIENTS).map(|_| TcpStream::connect("10.7.0.2:7").unwrap()).collect());
        thread::scope(|scope| {
            for (n, stream) in streams.iter().enumerate() {
                let sent: Vec<u8> = (0..100_000).map(|at| (at ^ (at >> 8) ^ n) as u8).collect();
                scope.spawn(move || {
                    let mut received = Vec::new();
                    thread::scope(|scope| {
                        scope.spawn(|| {
                            (&mut &*stream).write_all(&sent).unwrap();
                            stream.shutdown(Shutdown::Write).unwrap();
                        });
                        (&mut &*stream).read_to_end(&mut received).unwrap();
                    });
                    assert!(received == sent, "{} bytes came back", received.len());
                });
            }
        });
        let connections = numbers::<1>(&server.interrupt());
        assert_eq!(connections.iter().flatten().sum::<u64>(), CLIENTS as u64);
        assert!(connections.len() == 2 && connections.iter().all(|[n]| *n > 0), "{connections:?}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kv_keeps_what_it_is_given_on_the_shard_of_the_key() {
    const KEYS: u64 = 32;
    for lab in labs() {
        let server = lab.serve_with(KV, &["--shards", "2"]);
        // Status and body; each on a connection of its own.
        let curl = |key: &str, arguments: &[&str]| {
            let url = format!("{URL}/{key}");
            let command = [&["-sS", "-w", " %{http_code}", &url], arguments].concat();
            lab.peer_ok("curl", &command)
        };
        for n in 0..KEYS {
            let (key, value) = (format!("key{n}"), format!("the value of {n}"));
            let put = ["-X", "PUT", "--data-binary", &value];
            assert_eq!(curl(&key, &[]), "no such key\n 404");
            assert_eq!(curl(&key, &put), " 201");
            assert_eq!(curl(&key, &put), " 204");
            assert_eq!(curl(&key, &[]), format!("{value} 200"));
            if n % 4 == 0 {
                assert_eq!(curl(&key, &["-X", "DELETE"]), " 204");
                assert_eq!(curl(&key, &["-X", "DELETE"]), "no such key\n 404");
            }
        }
        let shards = numbers::<4>(&server.interrupt());
        let sum = |what: usize| shards.iter().map(|numbers| numbers[what]).sum::<u64>();
        assert_eq!((sum(0), sum(1)), (KEYS * 4 + KEYS / 4 * 2, KEYS * 4 + KEYS / 4 * 2));
        assert_eq!(sum(3), KEYS - KEYS / 4);
        // Each has accepted connections, answered for the other one, and has keys of its own.
        assert!(shards.len() == 2 && shards.iter().flatten().all(|n| *n > 0), "{shards:?}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kv_refuses_what_is_too_much() {
    let lab = Lab::packet();
    let _server = lab.serve_with(KV, &["--shards", "2", "--keys", "4"]);
    let dir = tempfile::tempdir().unwrap();
    let file = |len: usize| {
        let path = dir.path().join(len.to_string());
        fs::write(&path, vec![b'x'; len]).unwrap();
        format!("@{}", path.display())
    };
    let status = |path: &str, arguments: &[&str]| {
        let url = format!("{URL}/{path}");
        let command = [&["-sS", "-o", "/dev/null", "-w", "%{http_code}", &url], arguments].concat();
        lab.peer_ok("curl", &command)
    };
    let put = ["-X", "PUT", "--data-binary"];
    let put = |path: &str, body: &str| status(path, &[&put[..], &[body]].concat());
    assert_eq!(put("long", &file(64 * 1024)), "201");
    assert_eq!(put("long", &file(64 * 1024 + 1)), "413");
    let chunked = ["-X", "PUT", "-H", "Transfer-Encoding: chunked", "--data-binary"];
    assert_eq!(status("long", &[&chunked[..], &[&file(80_000)]].concat()), "413");
    assert_eq!(status("long", &[]), "200", "it has its first value");
    assert_eq!(put(&"k".repeat(256), "x"), "201");
    assert_eq!(put(&"k".repeat(257), "x"), "414");
    assert_eq!(put("", "x"), "400");
    assert_eq!(status("long", &["-X", "PATCH"]), "405");
    // Room for four keys on each shard, two of which are there.
    let answers: Vec<String> = (0..100).map(|n| put(&format!("more{n}"), "x")).collect();
    assert_eq!(answers.iter().filter(|status| *status == "201").count(), 6, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| *status == "507").count(), 94, "{answers:?}");
    assert_eq!(put("long", "a shorter one"), "204", "a key that is there stays writable");
}

/// 100 connections with keep-alive, one request in four a PUT.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kv_serves_wrk_without_an_error() {
    const SCRIPT: &str = r#"
        local n = 0
        request = function()
            n = n + 1
            local path = "/key" .. n % 64
            if n % 4 == 0 then return wrk.format("PUT", path, nil, "value " .. n) end
            return wrk.format("GET", path)
        end
    "#;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("mixed.lua");
    fs::write(&script, SCRIPT).unwrap();
    for lab in labs() {
        let server = lab.serve_with(KV, &["--shards", "2"]);
        lab.peer_ok("curl", &["-sS", "-X", "PUT", "-d", "value", &format!("{URL}/key[0-63]")]);
        let wrk = ["-t2", "-c100", "-d2s", "-s", script.to_str().unwrap(), URL];
        let output = lab.peer_ok("wrk", &wrk);
        let shards = numbers::<4>(&server.interrupt());
        println!("{}: {output}{shards:?}", lab.spec);
        assert!(!output.contains("Socket errors") && !output.contains("Non-2xx"), "{output}");
        let done = output.lines().find_map(|line| line.trim().split_once(" requests in"));
        let done: u64 = done.unwrap().0.parse().unwrap();
        assert!(done >= 1000, "{output}");
        assert!(shards.iter().map(|[_, requests, ..]| requests).sum::<u64>() >= done + 64);
        assert!(shards.len() == 2 && shards.iter().flatten().all(|n| *n > 0), "{shards:?}");
    }
}
