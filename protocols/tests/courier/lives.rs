//! How sessions begin and end: restarts, silence, refusals, closing, idleness.

use std::time::Duration;

use underpass_devices::Instant;
use underpass_protocols::courier::{
    Config, DropReason, Event, Failure, Limits, RequestId, SendError,
};

use crate::world::{Link, World};

fn world(seed: u64) -> World {
    World::new(seed, 3, Link::PERFECT, Config::default())
}

fn ask(world: &mut World, from: usize, to: usize) -> RequestId {
    world.stations[from].send_request(world.now, to, b"ask".to_vec()).unwrap()
}

/// Lets `server` answer one request of `client`'s.
fn answer(world: &mut World, client: usize, server: usize) {
    let Event::Request { call, body, .. } = world.wait(server) else { panic!("no request") };
    world.stations[server].respond(world.now, call, body).unwrap();
    let event = world.wait(client);
    assert!(matches!(event, Event::Response { .. }), "{event:?}");
}

fn later(world: &World, after: Duration) -> Instant {
    world.now + after
}

#[test]
fn a_server_that_was_restarted_is_noticed() {
    let mut world = world(1);
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    world.restart(1, Config::default());
    let id = ask(&mut world, 0, 1);
    let failed = world.wait(0);
    assert_eq!(failed, Event::Failed { id, why: Failure::Unknown, may_have_run: true });
    assert_eq!(
        world.wait(0),
        Event::Ended { peer: 1, why: Failure::Unknown, messages: 0, bytes: 0 }
    );
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
}

#[test]
fn a_caller_that_was_restarted_gets_a_session_of_its_new_life() {
    let mut world = world(2);
    ask(&mut world, 0, 1);
    let Event::Request { call: old, body, .. } = world.wait(1) else { panic!() };
    world.restart(0, Config::default());
    ask(&mut world, 0, 1);
    let Event::Request { call: new, .. } = world.wait(1) else { panic!() };
    let gone = world.stations[1].respond(world.now, old, body.clone()).unwrap_err();
    assert_eq!((gone.why, &gone.body), (SendError::Gone, &body));
    world.stations[1].respond(world.now, new, body).unwrap();
    assert!(matches!(world.wait(0), Event::Response { .. }));
    assert_eq!(world.stations[1].sessions(), 1);
}

#[test]
fn packets_of_an_old_life_are_refused() {
    let mut world = world(3);
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    // A request is kept on the way until both ends have begun anew.
    ask(&mut world, 0, 1);
    let mut late = Vec::new();
    let now = world.now;
    world.stations[0].poll_transmit(now, 8, |packet| {
        let mut slot = vec![0; packet.len()];
        late.push(packet.write(&mut slot).then_some(slot).unwrap());
        true
    });
    world.restart(0, Config::default());
    world.restart(1, Config::default());
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    for packet in late {
        world.inject(0, 1, packet, Duration::ZERO);
    }
    let end = later(&world, Duration::from_millis(1));
    world.run_until(end);
    assert_eq!(world.event(1), None);
    assert_eq!(world.stations[1].counters().dropped(DropReason::Stranger), 1);
    // The refusal of the old session does no harm to the new one.
    assert_eq!(world.stations[0].counters().dropped(DropReason::Stranger), 1);
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
}

#[test]
fn a_late_hello_does_not_end_a_session() {
    let mut world = world(4);
    ask(&mut world, 0, 1);
    let mut hello = Vec::new();
    let now = world.now;
    world.stations[0].poll_transmit(now, 8, |packet| {
        hello.resize(packet.len(), 0);
        packet.write(&mut hello)
    });
    world.restart(0, Config::default());
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    world.inject(0, 1, hello, Duration::ZERO);
    let end = later(&world, Duration::from_millis(1));
    world.run_until(end);
    assert_eq!(world.stations[1].sessions(), 2);
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    let end = later(&world, Duration::from_secs(3));
    world.run_until(end);
    assert_eq!(world.stations[1].sessions(), 1);
}

#[test]
fn silence_ends_a_session() {
    let mut world = world(5);
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    world.link.loss = 1.0;
    let begun = world.now;
    let id = ask(&mut world, 0, 1);
    world.stations[0].send(world.now, 1, b"lost".to_vec()).unwrap();
    let failed = world.wait(0);
    assert_eq!(failed, Event::Failed { id, why: Failure::Silent, may_have_run: true });
    assert_eq!(
        world.wait(0),
        Event::Ended { peer: 1, why: Failure::Silent, messages: 1, bytes: 4 }
    );
    let took = world.now.since(begun);
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_request_that_was_never_sent_cannot_have_run() {
    let mut world = world(6);
    world.link.loss = 1.0;
    let id = ask(&mut world, 0, 1);
    let failed = world.wait(0);
    assert_eq!(failed, Event::Failed { id, why: Failure::Silent, may_have_run: false });
}

#[test]
fn a_slow_answer_is_waited_for_as_long_as_the_server_lives() {
    let mut world = world(7);
    ask(&mut world, 0, 1);
    let Event::Request { call, body, .. } = world.wait(1) else { panic!() };
    let end = later(&world, Duration::from_secs(300));
    world.run_until(end);
    world.stations[1].respond(world.now, call, body).unwrap();
    assert!(matches!(world.wait(0), Event::Response { .. }));

    // And not when it dies meanwhile.
    ask(&mut world, 0, 1);
    let Event::Request { .. } = world.wait(1) else { panic!() };
    world.restart(1, Config::default());
    assert!(matches!(world.wait(0), Event::Failed { why: Failure::Unknown, .. }));
}

#[test]
fn idle_sessions_go_without_a_word() {
    let mut world = world(8);
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    let end = later(&world, Duration::from_secs(31));
    world.run_until(end);
    for station in &world.stations {
        assert_eq!((station.sessions(), station.receive_bytes()), (0, 0));
        assert_eq!(station.counters().failed, 0);
    }
    assert_eq!(world.event(0), None);
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
}

#[test]
fn closing_waits_for_what_is_under_way() {
    let mut world = world(9);
    ask(&mut world, 0, 1);
    world.stations[0].send(world.now, 1, vec![1; 100_000]).unwrap();
    world.stations[0].close(1);
    let refused = world.stations[0].send(world.now, 1, vec![]).unwrap_err();
    assert_eq!(refused.why, SendError::Closing);
    answer(&mut world, 0, 1);
    assert_eq!(world.wait(1), Event::Message { from: 0, body: vec![1; 100_000] });
    let end = later(&world, Duration::from_millis(10));
    world.run_until(end);
    assert_eq!((world.stations[0].sessions(), world.stations[1].sessions()), (0, 0));
    assert_eq!((world.event(0), world.event(1)), (None, None));
}

#[test]
fn a_call_is_told_of_even_if_its_session_is_being_closed() {
    let mut world = world(12);
    let id = ask(&mut world, 0, 1);
    let Event::Request { .. } = world.wait(1) else { panic!() };
    world.stations[0].close(1);
    world.stations[1].abort(0);
    let failed = world.wait(0);
    assert_eq!(failed, Event::Failed { id, why: Failure::Closed, may_have_run: true });
}

#[test]
fn aborting_tells_both_ends() {
    let mut world = world(10);
    let id = ask(&mut world, 0, 1);
    let Event::Request { call, body, .. } = world.wait(1) else { panic!() };
    world.stations[1].abort(0);
    let failed = world.wait(0);
    assert_eq!(failed, Event::Failed { id, why: Failure::Closed, may_have_run: true });
    let gone = world.stations[1].respond(world.now, call, body).unwrap_err();
    assert_eq!(gone.why, SendError::Gone);
    assert_eq!(world.stations[1].sessions(), 0);
}

#[test]
fn a_full_station_says_so() {
    let limits = Limits { sessions: 1, ..Limits::default() };
    let mut world = World::new(11, 3, Link::PERFECT, Config { limits, ..Config::default() });
    ask(&mut world, 0, 1);
    answer(&mut world, 0, 1);
    let id = ask(&mut world, 2, 1);
    let failed = world.wait(2);
    assert_eq!(failed, Event::Failed { id, why: Failure::Busy, may_have_run: false });
    assert_eq!(world.stations[1].counters().dropped(DropReason::NoRoom), 1);
    let refused = world.stations[0].send(world.now, 2, vec![]).unwrap_err();
    assert_eq!(refused.why, SendError::TooManySessions);
}
