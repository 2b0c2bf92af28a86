//! Over a bad network: everything arrives right and once, and every request is answered.

use std::collections::{HashMap, HashSet};

use rand::RngExt;
use underpass_protocols::courier::{Config, DropReason, Event, Limits, RequestId};

use crate::world::{Link, World};

/// Seeds of the committed test.
const SEEDS: u64 = 200;
/// Messages over all seeds if `UNDERPASS_TEST_MESSAGES` does not say otherwise.
const MESSAGES: usize = 40_000;

#[test]
fn all_arrives_once_over_a_bad_network() {
    let all = std::env::var("UNDERPASS_TEST_MESSAGES")
        .map_or(MESSAGES, |number| number.parse().expect("UNDERPASS_TEST_MESSAGES is a number"));
    let mut total = 0;
    for seed in 0..SEEDS {
        total += run(seed, all.div_ceil(SEEDS as usize));
    }
    assert!(total >= all);
    println!("{total} messages, {SEEDS} seeds");
}

fn config() -> Config {
    let limits = Limits {
        message_bytes: 20_000,
        session_receive_bytes: 64_000,
        session_send_bytes: 200_000,
        session_calls: 32,
        ..Limits::default()
    };
    Config { limits, ..Config::default() }
}

/// What a body is: the number of its message, its length, and a pattern that depends on both.
fn body(number: u64, len: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.extend((8..len).map(|place| (place as u64 * 31 + number * 7) as u8));
    body
}

fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

/// Two stations that ask and tell each other, both at once.
fn run(seed: u64, messages: usize) -> usize {
    let mut world = World::new(seed, 2, Link::BAD, config());
    let mut asked: [HashMap<RequestId, Vec<u8>>; 2] = Default::default();
    let mut served: [HashSet<u64>; 2] = Default::default();
    let mut told = [0_u64; 2];
    let mut heard = [0_u64; 2];
    let (mut begun, mut answered) = (0, 0);
    while begun < messages || answered + (heard[0] + heard[1]) as usize != begun {
        for station in 0..2 {
            while begun < messages && asked[station].len() < 24 {
                let len = match world.rng.random_range(0..10) {
                    0 => world.rng.random_range(8..20_000),
                    1..4 => world.rng.random_range(8..3000),
                    _ => world.rng.random_range(8..200),
                };
                if world.rng.random_bool(0.3) {
                    let body = body(told[station], len);
                    if world.stations[station].send(world.now, 1 - station, body).is_err() {
                        break;
                    }
                    told[station] += 1;
                } else {
                    let body = body(begun as u64, len);
                    let sent =
                        world.stations[station].send_request(world.now, 1 - station, body.clone());
                    let Ok(id) = sent else { break };
                    assert!(asked[station].insert(id, body).is_none());
                }
                begun += 1;
            }
            while let Some(event) = world.event(station) {
                match event {
                    Event::Request { from, call, body: request } => {
                        assert_eq!(from, 1 - station);
                        assert!(served[station].insert(number(&request)), "executed twice");
                        assert_eq!(request, body(number(&request), request.len()));
                        let response = request.iter().rev().copied().collect();
                        world.stations[station].respond(world.now, call, response).unwrap();
                    }
                    Event::Response { id, body: response } => {
                        let request = asked[station].remove(&id).expect("answered twice");
                        assert!(response.iter().rev().eq(&request), "another answer");
                        answered += 1;
                    }
                    Event::Message { from, body: message } => {
                        assert_eq!(from, 1 - station);
                        assert_eq!(message, body(heard[station], message.len()), "order");
                        heard[station] += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(world.step(), "nothing will ever happen");
    }
    // What was charged is given back once all is acknowledged.
    let end = world.now + std::time::Duration::from_millis(200);
    world.run_until(end);
    for station in &world.stations {
        assert_eq!(station.send_bytes(), 0);
        let counters = station.counters();
        if messages > 1000 {
            assert!(counters.dropped(DropReason::Checksum) > 0);
            assert!(counters.dropped(DropReason::Duplicate) > 0);
        }
        assert_eq!(counters.dropped(DropReason::Violation), 0);
        assert_eq!(counters.failed, 0);
    }
    begun
}
