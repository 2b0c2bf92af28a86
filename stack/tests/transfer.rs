//! Whatever a link does to the frames, everything sent arrives once, in order and unchanged, or the
//! connection fails with an error; and both ends forget it.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use common::{Flow, RIGHT, RIGHT_V6, World};
use underpass::Limits;
use underpass::devices::LinkConfig;

/// Runs a scenario for many seeds and names the one that fails.
fn sweep(seeds: std::ops::Range<u64>, scenario: impl Fn(u64)) {
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("failed with seed {seed}");
            resume_unwind(panic);
        }
    }
}

/// Both ends send `len` bytes at once, close, and are forgotten. True: without an error.
fn both_ways(link: LinkConfig, limits: &Limits, to: &str, len: usize) -> bool {
    let mut world = World::new(link, limits);
    let seed = 7;
    let Ok((near, far, listener)) = world.connect(to) else {
        return false;
    };
    let all_arrived = {
        let mut out = Flow::new(&near, &far, len, seed);
        let mut back = Flow::new(&far, &near, len / 2, seed + 1);
        world.run_until("transfer", Duration::from_secs(7200), || {
            let (a, b) = (out.pump(), back.pump());
            a && b
        });
        out.error.is_none() && back.error.is_none()
    };
    drop((near, far, listener));
    let (left, right) = (world.left.clone(), world.right.clone());
    world.run_until("both ends forget the connection", Duration::from_secs(600), || {
        left.stats().tcp_flows == 0 && right.stats().tcp_flows == 0
    });
    all_arrived
}

fn link(seed: u64) -> LinkConfig {
    LinkConfig { seed, delay: Duration::from_millis(2), ..LinkConfig::default() }
}

fn small_buffers() -> Limits {
    let mut limits = Limits::default();
    limits.send_buffer = 16 * 1024;
    limits.recv_buffer = 8 * 1024;
    limits
}

#[test]
fn clean_link() {
    for to in [RIGHT, RIGHT_V6] {
        assert!(both_ways(link(1), &Limits::default(), to, 1_000_000));
        assert!(both_ways(link(1), &small_buffers(), to, 300_000));
    }
}

#[test]
fn offloads() {
    for to in [RIGHT, RIGHT_V6] {
        sweep(0..10, |seed| {
            let link = LinkConfig { offloads: true, loss: 0.002, ..link(seed) };
            both_ways(link, &Limits::default(), to, 500_000);
        });
    }
}

#[test]
fn loss() {
    sweep(0..30, |seed| {
        let link = LinkConfig { loss: 0.01 * (seed % 10) as f64, ..link(seed) };
        both_ways(link, &small_buffers(), RIGHT, 60_000);
    });
}

#[test]
fn reordering_and_duplicates() {
    sweep(0..30, |seed| {
        let link = LinkConfig {
            reorder: 0.2,
            duplicate: 0.1,
            jitter: Duration::from_millis(3),
            ..link(seed)
        };
        both_ways(link, &small_buffers(), RIGHT_V6, 60_000);
    });
}

#[test]
fn corruption_is_noticed_by_checksums() {
    sweep(0..30, |seed| {
        let link = LinkConfig { corrupt: 0.05, ..link(seed) };
        both_ways(link, &small_buffers(), RIGHT, 60_000);
    });
}

#[test]
fn everything_at_once_behind_a_narrow_queue() {
    sweep(0..30, |seed| {
        let link = LinkConfig {
            rate_bits_per_s: Some(20_000_000),
            queue_bytes: 20_000,
            loss: 0.01,
            duplicate: 0.02,
            corrupt: 0.01,
            reorder: 0.05,
            offloads: seed % 2 == 0,
            ..link(seed)
        };
        both_ways(link, &Limits::default(), RIGHT, 100_000);
    });
}

#[test]
fn both_ends_lose_segments_at_once_and_recover() {
    sweep(0..200, |seed| {
        let link = LinkConfig { loss: 0.03, reorder: 0.01, duplicate: 0.01, ..link(seed) };
        assert!(both_ways(link, &Limits::default(), RIGHT, 40_000));
    });
}
