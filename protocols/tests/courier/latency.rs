//! How long calls take when packets are lost.

use std::collections::HashMap;

use underpass_devices::Instant;
use underpass_protocols::courier::{Config, Event};

use crate::world::{Link, World};

const CALLS: usize = 100_000;

/// Percentiles of the time from request to response, in round trips of the link.
fn measure(seed: u64, outstanding: usize, loss: f64) -> [f64; 4] {
    let link = Link { loss, ..Link::PERFECT };
    let mut world = World::new(seed, 2, link, Config::default());
    let mut begun: HashMap<_, Instant> = HashMap::new();
    let mut times = Vec::new();
    // The first call waits for a session.
    world.stations[0].send_request(world.now, 1, vec![0; 64]).unwrap();
    serve_until(&mut world, |event| matches!(event, Event::Response { .. }));
    while times.len() < CALLS {
        while begun.len() < outstanding {
            let buffer = vec![7; 64];
            begun.insert(world.stations[0].send_request(world.now, 1, buffer).unwrap(), world.now);
        }
        let event = serve_until(&mut world, |event| matches!(event, Event::Response { .. }));
        let Event::Response { id, body } = event else { unreachable!() };
        assert_eq!(body, [7; 64]);
        times.push(world.now.since(begun.remove(&id).unwrap()).as_nanos() as f64);
    }
    times.sort_by(f64::total_cmp);
    let round_trip = 2.0 * link.delay.as_nanos() as f64;
    [0.5, 0.99, 0.999, 0.9999].map(|p| times[(times.len() as f64 * p) as usize] / round_trip)
}

/// Lets station 1 echo until station 0 has such an event.
fn serve_until(world: &mut World, wanted: impl Fn(&Event<usize>) -> bool) -> Event<usize> {
    loop {
        while let Some(event) = world.event(1) {
            if let Event::Request { call, body, .. } = event {
                world.stations[1].respond(world.now, call, body).unwrap();
            }
        }
        if let Some(event) = world.event(0) {
            assert!(wanted(&event), "{event:?}");
            return event;
        }
        assert!(world.step());
    }
}

#[test]
fn the_thousandth_call_takes_less_than_ten_round_trips() {
    for (seed, outstanding) in [(1, 1), (2, 16)] {
        let [p50, p99, p999, p9999] = measure(seed, outstanding, 0.001);
        println!(
            "{outstanding} outstanding, in round trips: p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2}, p99.99 {p9999:.2}"
        );
        assert!(p999 < 10.0, "{p999}");
        assert!(p50 < 1.01, "{p50}");
    }
}

/// As long as calls follow each other, acknowledgements and credit ride on them.
#[test]
fn a_small_call_is_two_packets() {
    let mut world = World::new(3, 2, Link::PERFECT, Config::default());
    for _ in 0..1000 {
        world.stations[0].send_request(world.now, 1, vec![0; 64]).unwrap();
        serve_until(&mut world, |event| matches!(event, Event::Response { .. }));
    }
    let [client, server] = [0, 1].map(|station: usize| world.stations[station].counters());
    // Hello and welcome.
    assert_eq!((client.sent_packets, server.sent_packets), (1001, 1001));
    assert_eq!((client.bare, server.bare), (1, 1));
}
