//! A link that loses, repeats, reorders and damages frames, with TCP on it at the same time.

use std::collections::HashMap;
use std::time::Duration;

use underpass::devices::LinkConfig;
use underpass::protocols::header::Header;
use underpass::protocols::probe::{Outcome, Probe, ProbeConfig, ProbeHeader, Request};
use underpass::{Limits, Stack};

use super::common::{Flow, RIGHT, World};
use super::{PATIENCE, ip};

const REQUESTS: u16 = 300;

#[test]
fn every_probe_ends_once_beside_a_stream() {
    for seed in 0..40 {
        every_probe_ends_once(seed);
    }
}

/// With the reply that belongs to it, or without one in time.
fn every_probe_ends_once(seed: u64) {
    let noise = 0.01 * (seed % 5) as f64;
    let link = LinkConfig {
        seed,
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(2),
        loss: noise,
        duplicate: noise,
        corrupt: noise,
        reorder: noise,
        ..LinkConfig::default()
    };
    let mut world = World::new(link, &Limits::default());
    let config = ProbeConfig { session: seed as u16, ..ProbeConfig::default() };
    let attach = |stack: &Stack| stack.attach(ProbeHeader::SELECTOR, Probe::new(config)).unwrap();
    let (near, far) = (attach(&world.left), attach(&world.right));
    let to = ip(if seed.is_multiple_of(2) { "fd00::2" } else { "10.0.0.2" });
    let (stream, other, _listener) = world.connect(RIGHT).unwrap();
    let mut flow = Flow::new(&stream, &other, 200_000, seed);

    let (mut next, mut results) = (0_u16, HashMap::new());
    world.run_until("probes and a stream", PATIENCE * 10, || {
        near.with(|near| {
            let request = Request { payload: next * 7, ..Request::to(to) };
            while next < REQUESTS && near.request(request).is_ok() {
                next += 1;
            }
            while let Some(result) = near.result() {
                assert_eq!(result.to, to);
                assert_eq!(results.insert(result.sequence, result.outcome), None, "seed {seed}");
            }
        });
        let flowed = flow.finished || flow.pump();
        flowed && results.len() == usize::from(REQUESTS)
    });
    assert!(flow.error.is_none(), "seed {seed}: {:?}", flow.error);
    let mut replies = 0;
    for outcome in results.values() {
        match outcome {
            Outcome::Reply { round_trip, hops_there, hops_back } => {
                assert!(*round_trip >= Duration::from_millis(10), "seed {seed}: {round_trip:?}");
                assert_eq!((*hops_there, *hops_back), (0, 0), "seed {seed}");
                replies += 1;
            }
            Outcome::TimedOut => {}
            Outcome::Stopped { by, why, .. } => panic!("seed {seed}: {by}, {why:?}"),
            Outcome::NotSent(error) => panic!("seed {seed}: {error}"),
        }
    }
    let counters = far.counters();
    let answered = counters.received - counters.refused;
    // An IPv6 header has no checksum: a damaged source address may lead nowhere.
    assert_eq!(counters.sent + counters.unsent, answered, "seed {seed}");
    assert!(answered >= replies, "seed {seed}: {counters:?}");
    let expected = if noise == 0.0 { REQUESTS } else { REQUESTS / 2 };
    assert!(replies >= u64::from(expected), "seed {seed}: {replies} replies");
    if noise > 0.02 {
        assert!(counters.refused > 0, "seed {seed}: damaged packets are refused");
    }
}
