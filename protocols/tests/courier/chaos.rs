//! Stations that are restarted, aborted and cut off while they work over a bad network.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rand::RngExt;
use underpass_protocols::courier::{Call, Config, Event, Limits, RequestId};

use crate::world::{Link, World};

const SEEDS: u64 = 100;
const STATIONS: usize = 3;

fn config() -> Config {
    let limits = Limits {
        message_bytes: 10_000,
        session_receive_bytes: 40_000,
        session_send_bytes: 60_000,
        ..Limits::default()
    };
    Config { limits, dead_after: Duration::from_millis(2), ..Config::default() }
}

#[derive(Default)]
struct Station {
    asked: HashMap<RequestId, u64>,
    /// Calls to be answered later.
    calls: Vec<(Call, Vec<u8>)>,
    /// The last message of each peer, a number that grows.
    heard: [Option<u64>; STATIONS],
}

#[derive(Default)]
struct Tally {
    executed: HashSet<u64>,
    unsent: HashSet<u64>,
    answered: usize,
    failed: usize,
    messages: usize,
}

#[test]
fn requests_run_at_most_once_whatever_happens() {
    let mut all = Tally::default();
    for seed in 0..SEEDS {
        let tally = run(seed);
        all.answered += tally.answered;
        all.failed += tally.failed;
        all.messages += tally.messages;
    }
    println!("{} answered, {} failed, {} messages", all.answered, all.failed, all.messages);
    assert!(all.answered > 10 * all.failed && all.failed > 100 && all.messages > 1000);
}

fn run(seed: u64) -> Tally {
    let mut world = World::new(seed, STATIONS, Link::BAD, config());
    let mut stations: [Station; STATIONS] = Default::default();
    let mut tally = Tally::default();
    let mut next = 0;
    let end = world.now + Duration::from_millis(6);
    while world.now < end {
        for (own, station) in stations.iter_mut().enumerate() {
            let to = (own + world.rng.random_range(1..STATIONS)) % STATIONS;
            if station.asked.len() < 10 && world.rng.random_bool(0.1) {
                let len = if world.rng.random_bool(0.1) { 5000 } else { 40 };
                let mut body = vec![own as u8; len];
                body[..8].copy_from_slice(&u64::to_be_bytes(next));
                if world.rng.random_bool(0.2) {
                    let _ = world.stations[own].send(world.now, to, body);
                } else if let Ok(id) = world.stations[own].send_request(world.now, to, body) {
                    station.asked.insert(id, next);
                }
                next += 1;
            }
            if world.rng.random_bool(0.5)
                && let Some((call, body)) = station.calls.pop()
                && let Err(back) = world.stations[own].respond(world.now, call, body)
                && back.why == underpass_protocols::courier::SendError::Full
            {
                station.calls.push((back.call, back.body));
            }
            while let Some(event) = world.event(own) {
                take(station, &mut tally, event);
            }
        }
        disturb(&mut world, &mut stations);
        world.step();
    }
    // All that is left ends one way or the other.
    world.link = Link::PERFECT;
    while stations.iter().any(|station| !station.asked.is_empty()) {
        for (own, station) in stations.iter_mut().enumerate() {
            while let Some((call, body)) = station.calls.pop() {
                let _ = world.stations[own].respond(world.now, call, body);
            }
            while let Some(event) = world.event(own) {
                take(station, &mut tally, event);
            }
        }
        let is_over = stations.iter().all(|station| station.asked.is_empty());
        assert!(world.step() || is_over, "nothing will ever happen");
    }
    assert!(tally.executed.is_disjoint(&tally.unsent), "it ran, and could not have");
    tally
}

fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

fn take(station: &mut Station, tally: &mut Tally, event: Event<usize>) {
    match event {
        Event::Request { call, body, .. } => {
            assert!(tally.executed.insert(number(&body)), "executed twice");
            station.calls.push((call, body));
        }
        Event::Response { id, body } => {
            assert_eq!(station.asked.remove(&id), Some(number(&body)));
            assert!(tally.executed.contains(&number(&body)));
            tally.answered += 1;
        }
        Event::Failed { id, may_have_run, .. } => {
            let number = station.asked.remove(&id).expect("answered or failed twice");
            if !may_have_run {
                tally.unsent.insert(number);
            }
            tally.failed += 1;
        }
        Event::Message { from, body } => {
            let last = station.heard[from].replace(number(&body));
            assert!(last < Some(number(&body)), "twice or out of order");
            tally.messages += 1;
        }
        Event::Ended { .. } => {}
    }
}

/// Once in a while something goes wrong.
fn disturb(world: &mut World, stations: &mut [Station; STATIONS]) {
    let own = world.rng.random_range(0..STATIONS);
    match world.rng.random_range(0..2000) {
        0 => {
            world.restart(own, config());
            stations[own] = Station::default();
        }
        1 => world.stations[own].abort((own + 1) % STATIONS),
        2 => world.stations[own].close((own + 1) % STATIONS),
        3 => world.link.loss = 1.0,
        4..100 => world.link.loss = Link::BAD.loss,
        _ => {}
    }
}
