//! An interface with a stack and the kernel on it, told apart by an XDP program.

#![cfg(feature = "xdp")]
#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{KERNEL, Lab, OURS, large, sha256};
use serde_json::Value;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_kernel_serves_on_the_same_interface_at_the_same_time() {
    let lab = Lab::xdp();
    let sent = sha256(&lab.random_file("random.bin", large()));
    let _ours = lab.serve(&["http-serve", "--root", "."]);
    let _kernel = lab.kernel_http_server(&lab.ours_namespace());
    thread::scope(|scope| {
        for (n, host) in OURS.iter().chain(&KERNEL).enumerate() {
            let (lab, sent) = (&lab, &sent);
            scope.spawn(move || {
                let (url, file) = (format!("http://{host}/random.bin"), format!("received{n}"));
                lab.peer_ok("curl", &["-gsSf", "--max-time", "300", "-o", &file, &url]);
                assert_eq!(sha256(&lab.dir.path().join(file)), *sent, "{url}");
            });
        }
        for host in ["10.7.0.2", "fd07::2", "10.7.0.3", "fd07::3"] {
            lab.peer_ok("ping", &["-c", "3", "-i", "0.2", "-W", "5", host]);
        }
    });
}
