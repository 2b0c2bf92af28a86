//! Credit, long bodies and the bounds of memory.

use std::time::Duration;

use underpass_protocols::courier::{Config, Event, Failure, Limits, SendError};

use crate::world::{Link, World};

fn config(limits: Limits) -> Config {
    Config { limits, ..Config::default() }
}

#[test]
fn long_bodies_arrive() {
    let limits = Limits {
        message_bytes: 1 << 24,
        session_send_bytes: 1 << 25,
        session_receive_bytes: 1 << 25,
        receive_bytes: 1 << 26,
        ..Limits::default()
    };
    let link = Link { loss: 0.01, ..Link::PERFECT };
    let mut world = World::new(1, 2, link, config(limits));
    let body: Vec<u8> = (0_u32..(1 << 24) / 4).flat_map(u32::to_le_bytes).collect();
    world.stations[0].send_request(world.now, 1, body.clone()).unwrap();
    let Event::Request { call, body: arrived, .. } = world.wait(1) else { panic!() };
    assert!(arrived == body);
    world.stations[1].respond(world.now, call, arrived).unwrap();
    let Event::Response { body: arrived, .. } = world.wait(0) else { panic!() };
    assert!(arrived == body);
    let refused = world.stations[0].send(world.now, 1, vec![0; (1 << 24) + 1]).unwrap_err();
    assert_eq!(refused.why, SendError::TooLong { limit: 1 << 24 });
    assert_eq!(refused.body.len(), (1 << 24) + 1);
}

#[test]
fn a_short_request_overtakes_a_long_body() {
    let mut world = World::new(2, 2, Link::PERFECT, Config::default());
    world.stations[0].send(world.now, 1, vec![1; 250_000]).unwrap();
    world.stations[0].send_request(world.now, 1, vec![2; 64]).unwrap();
    assert!(matches!(world.wait(1), Event::Request { .. }));
    assert!(matches!(world.wait(1), Event::Message { .. }));
}

/// A call does not wait for the credit of long bodies queued before it, and does not starve them.
#[test]
fn short_calls_overtake_bodies_without_credit() {
    let limits = Limits { session_receive_bytes: 1, ..Limits::default() };
    let mut world = World::new(9, 2, Link::PERFECT, config(limits));
    for _ in 0..4 {
        world.stations[0].send(world.now, 1, vec![1; 250_000]).unwrap();
    }
    let end = world.now + Duration::from_micros(200);
    world.run_until(end);
    for _ in 0..40 {
        world.stations[0].send_request(world.now, 1, vec![2; 64]).unwrap();
    }
    let mut order = Vec::new();
    while order.len() < 44 {
        let event = world.wait(1);
        order.push(matches!(event, Event::Message { .. }));
    }
    let long: Vec<usize> = (0..44).filter(|place| order[*place]).collect();
    // 16 before it gets credit, and as many, with credit of their own, while it is on its way.
    assert!(long[1] - long[0] > 16, "{long:?}");
    assert!(long.windows(2).all(|pair| pair[1] - pair[0] <= 33), "{long:?}");
}

/// Who does not take events is sent no more than the limit, and all of it arrives in the end.
#[test]
fn credit_runs_out_and_comes_back() {
    let limits = Limits {
        message_bytes: 10_000,
        session_receive_bytes: 50_000,
        receive_bytes: 50_000,
        ..Limits::default()
    };
    let mut world = World::new(3, 2, Link::BAD, config(limits));
    let (mut sent, mut received) = (0_usize, 0_usize);
    while received < 300 {
        while sent < 300
            && world.stations[0].send(world.now, 1, vec![sent as u8; 20 * sent]).is_ok()
        {
            sent += 1;
        }
        // Long enough to fill whatever can be filled, and to lose what announces new credit.
        let end = world.now + Duration::from_millis(20);
        world.run_until(end);
        assert!(world.stations[1].receive_bytes() <= 50_000);
        for _ in 0..7 {
            let Some(event) = world.event(1) else { break };
            assert_eq!(
                event,
                Event::Message { from: 0, body: vec![received as u8; 20 * received] }
            );
            received += 1;
        }
    }
    assert_eq!(world.stations[0].counters().failed, 0);
}

/// New credit is announced without being asked for, and asked for when the announcement is lost.
#[test]
fn new_credit_is_not_waited_for_long() {
    for (is_lost, most) in [(false, Duration::from_micros(300)), (true, Duration::from_millis(120))]
    {
        let limits = Limits { session_receive_bytes: 1, ..Limits::default() };
        let mut world = World::new(10, 2, Link::PERFECT, config(limits));
        for _ in 0..3 {
            world.stations[0].send(world.now, 1, vec![9; 140_000]).unwrap();
        }
        let end = world.now + Duration::from_millis(250);
        world.run_until(end);
        assert!(matches!(world.event(1), Some(Event::Message { .. })));
        assert_eq!(world.event(1), None);
        let begun = world.now;
        if is_lost {
            world.link.loss = 1.0;
            let end = world.now + Duration::from_micros(50);
            world.run_until(end);
            world.link.loss = 0.0;
        }
        // The first packet of the next body; the rest is a matter of the window.
        let sent = world.stations[0].counters();
        while {
            let counters = world.stations[0].counters();
            counters.sent_packets - counters.bare == sent.sent_packets - sent.bare
        } {
            world.step();
        }
        let took = world.now.since(begun);
        assert!(took <= most, "{took:?}");
    }
}

#[test]
fn a_sender_that_is_full_says_so_and_gives_the_body_back() {
    let limits = Limits { session_send_bytes: 10_000, session_calls: 8, ..Limits::default() };
    let mut world = World::new(4, 2, Link::PERFECT, config(limits));
    let mut taken = 0;
    let refused = loop {
        match world.stations[0].send(world.now, 1, vec![3; 1000]) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.why, refused.body), (SendError::Full, vec![3; 1000]));
    assert_eq!(taken, 9);
    assert!(world.stations[0].send_bytes() <= 10_240);
    for _ in 0..taken {
        assert!(matches!(world.wait(1), Event::Message { .. }));
    }
    let end = world.now + Duration::from_millis(1);
    world.run_until(end);
    assert_eq!(world.stations[0].send_bytes(), 0);
    for _ in 0..8 {
        world.stations[0].send_request(world.now, 1, vec![4; 10]).unwrap();
    }
    let refused = world.stations[0].send_request(world.now, 1, vec![4; 10]).unwrap_err();
    assert_eq!(refused.why, SendError::Full);
    assert_eq!(world.stations[0].counters().full, 2);
}

#[test]
fn many_sessions_stay_within_the_budget() {
    const SESSION: usize = 4096 + (16 << 10);
    let limits = Limits {
        message_bytes: 4096,
        session_receive_bytes: 64 << 10,
        // A session begins with room for one body and for 16 KiB more.
        receive_bytes: 32 * SESSION,
        ..Limits::default()
    };
    // The last station serves all others, and takes no events at first.
    let clients = 40;
    let mut world = World::new(5, clients + 1, Link::PERFECT, config(limits));
    for client in 0..clients {
        for _ in 0..8 {
            world.stations[client].send_request(world.now, clients, vec![5; 4096]).unwrap();
        }
    }
    let mut served = 0;
    for _ in 0..1000 {
        let end = world.now + Duration::from_micros(200);
        world.run_until(end);
        assert!(world.stations[clients].receive_bytes() <= 32 * SESSION);
        if let Some(Event::Request { call, .. }) = world.event(clients) {
            served += 1;
            world.stations[clients].respond(world.now, call, vec![6; 4096]).unwrap();
        }
    }
    assert_eq!(served, 32 * 8);
    let mut busy = 0;
    for client in 0..clients {
        while let Some(event) = world.event(client) {
            busy += usize::from(matches!(event, Event::Ended { why: Failure::Busy, .. }));
        }
    }
    assert_eq!(busy, 8);
}

/// Unequal stations use what both can.
#[test]
fn the_smaller_offer_holds() {
    let small = Config {
        packet_bytes: 300,
        limits: Limits { message_bytes: 1000, session_calls: 8, ..Limits::default() },
        ..Config::default()
    };
    let mut world = World::new(6, 2, Link::PERFECT, Config::default());
    world.restart(1, small);
    world.stations[0].send_request(world.now, 1, vec![7; 1000]).unwrap();
    let Event::Request { call, body, .. } = world.wait(1) else { panic!() };
    assert_eq!(body, vec![7; 1000]);
    let refused = world.stations[0].send(world.now, 1, vec![7; 1001]).unwrap_err();
    assert_eq!(refused.why, SendError::TooLong { limit: 1000 });
    world.stations[1].respond(world.now, call, body).unwrap();
    assert!(matches!(world.wait(0), Event::Response { .. }));

    // A body that was queued before the offer was known.
    let mut world = World::new(7, 2, Link::PERFECT, Config::default());
    world.restart(1, small);
    world.stations[0].send(world.now, 1, vec![7; 1001]).unwrap();
    let ended = world.wait(0);
    assert_eq!(ended, Event::Ended { peer: 1, why: Failure::TooLong, messages: 1, bytes: 1001 });
}

#[test]
fn a_slot_that_is_refused_comes_again() {
    let mut world = World::new(8, 2, Link::PERFECT, Config::default());
    world.stations[0].send(world.now, 1, vec![8; 5000]).unwrap();
    for _ in 0..50 {
        let now = world.now;
        assert_eq!(world.stations[0].poll_transmit(now, 64, |_| false), 0);
        world.step();
    }
    assert_eq!(world.wait(1), Event::Message { from: 0, body: vec![8; 5000] });
    assert_eq!(world.stations[0].counters().again, 0);
}
