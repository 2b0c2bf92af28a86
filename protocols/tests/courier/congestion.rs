//! What is left of a link that others fill.

use std::time::Duration;

use underpass_devices::Instant;
use underpass_protocols::courier::{Config, Event, Limits};

use crate::world::{Link, World};

const RATE: u64 = 1_000_000_000;

/// Stations 1 and up send long bodies to station 0 all the time, station 1 calls it, too. Returns the
/// share of the link that bodies have got, in all and each, and the median and 99th percentile of calls.
fn share(senders: usize, queue_bytes: u64) -> (f64, Vec<f64>, Duration, Duration) {
    let link = Link { bottleneck: Some((RATE, queue_bytes)), ..Link::PERFECT };
    let limits =
        Limits { session_receive_bytes: 4 << 20, session_send_bytes: 1 << 20, ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let mut world = World::new(senders as u64, senders + 1, link, config);
    let start = world.now;
    let end = start + Duration::from_millis(400);
    let mut arrived = vec![0_usize; senders + 1];
    let mut times = Vec::new();
    let mut asked: Option<Instant> = None;
    while world.now < end {
        for sender in 1..=senders {
            while world.stations[sender].send_bytes() < 300_000 {
                world.stations[sender].send(world.now, 0, vec![1; 100_000]).unwrap();
            }
        }
        if asked.is_none() {
            world.stations[1].send_request(world.now, 0, vec![2; 64]).unwrap();
            asked = Some(world.now);
        }
        while let Some(event) = world.event(0) {
            match event {
                Event::Message { from, body } => arrived[from] += body.len(),
                Event::Request { call, body, .. } => {
                    world.stations[0].respond(world.now, call, body).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(event) = world.event(1) {
            assert!(matches!(event, Event::Response { .. }), "{event:?}");
            times.push(world.now.since(asked.take().unwrap()));
        }
        world.step();
    }
    let most = RATE as f64 / 8.0 * world.now.since(start).as_secs_f64();
    let shares: Vec<f64> = arrived[1..].iter().map(|bytes| *bytes as f64 / most).collect();
    times.sort();
    (shares.iter().sum(), shares, times[times.len() / 2], times[times.len() * 99 / 100])
}

#[test]
fn a_link_is_filled_and_its_queue_is_not() {
    for (senders, queue_bytes) in [(1, 1 << 20), (4, 1 << 20), (4, 30_000), (16, 60_000)] {
        let (all, shares, p50, p99) = share(senders, queue_bytes);
        let least = shares.iter().copied().fold(1.0, f64::min);
        println!(
            "{senders} senders, queue of {queue_bytes}: {all:.3} of the link, the least {least:.3}; \
             calls p50 {p50:?}, p99 {p99:?}"
        );
        assert!(all > 0.85, "{all}");
        assert!(least > 0.2 / senders as f64, "{shares:?}");
        // A full queue of 1 MiB would be 8.4 ms.
        assert!(p99 < Duration::from_micros(600), "{p99:?}");
    }
}
