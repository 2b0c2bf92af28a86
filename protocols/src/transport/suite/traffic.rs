//! Honest peers.

use std::thread;
use std::time::{Duration, Instant};

use super::{LIMITS, LONGEST, PATIENCE, Rig, step, until};
use crate::transport::{SendError, TooLong, Transport};

pub(super) fn echo<R: Rig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    let (here, there) = (subject.local_addr(), peer.local_addr());
    for len in [0, 1, 3, 4, 1459, 65_536, LONGEST] {
        let message: Vec<u8> = (0..len).map(|at| (at ^ len) as u8).collect();
        subject.send(there, &message).unwrap();
        let mut answer = None;
        until("echo", &mut subject, &mut peer, |subject, peer| {
            if let Some((question, from)) = peer.recv() {
                assert_eq!(from, here);
                peer.send(from, &question).unwrap();
            }
            answer = subject.recv();
            answer.is_some()
        });
        let (bytes, from) = answer.unwrap();
        assert!(bytes == message, "a message of {len} bytes has changed");
        assert_eq!(from, there);
    }
    let too_long = TooLong { len: LONGEST as usize + 1, max: LONGEST };
    let refused = subject.send(there, &vec![0; too_long.len]);
    assert_eq!(refused, Err(SendError::TooLong(too_long)));
}

pub(super) fn one_connection<R: Rig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    subject.send(peer.local_addr(), b"question").unwrap();
    until("an answer", &mut subject, &mut peer, |subject, peer| {
        if let Some((_, from)) = peer.recv() {
            peer.send(from, b"answer").unwrap();
        }
        subject.recv().is_some()
    });
    assert_eq!((subject.counters().connections, peer.counters().connections), (1, 1));
}

pub(super) fn both_dial_at_once<R: Rig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    let (here, there) = (subject.local_addr(), peer.local_addr());
    let (mut sent, mut at_peer, mut at_subject) = (0u32, Vec::new(), Vec::new());
    until("both ways", &mut subject, &mut peer, |subject, peer| {
        if sent < 200 {
            subject.send(there, &sent.to_be_bytes()).unwrap();
            peer.send(here, &sent.to_be_bytes()).unwrap();
            sent += 1;
        }
        at_peer.extend(peer.recv());
        at_subject.extend(subject.recv());
        at_peer.len() == 200 && at_subject.len() == 200
    });
    for (received, expected_from) in [(at_peer, here), (at_subject, there)] {
        for (n, (bytes, from)) in (0u32..).zip(&received) {
            assert_eq!((&bytes[..], *from), (&n.to_be_bytes()[..], expected_from));
        }
    }
    assert!(subject.lost().is_none() && peer.lost().is_none());
}

pub(super) fn many_peers<R: Rig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peers: Vec<_> = (0..LIMITS.peers).map(|_| rig.peer(None, LIMITS).unwrap()).collect();
    let addresses: Vec<_> = peers.iter().map(Transport::local_addr).collect();
    let here = subject.local_addr();
    // Half of them dial, half are dialled; everybody gets his own messages, in order.
    let mut answers = vec![0; peers.len()];
    for n in 0..100u8 {
        for (k, address) in addresses.iter().enumerate() {
            let (at, message) = (k as u8, [k as u8, n]);
            if at.is_multiple_of(2) {
                subject.send(*address, &message).unwrap();
            } else {
                peers[k].send(here, &message).unwrap();
            }
        }
    }
    let start = Instant::now();
    while answers.iter().any(|count| *count < 100) {
        assert!(start.elapsed() < PATIENCE, "answers so far: {answers:?}");
        step(&mut subject, Duration::from_millis(1));
        while let Some((bytes, from)) = subject.recv() {
            let k = addresses.iter().position(|address| *address == from).expect("a peer");
            assert_eq!(bytes[..], [k as u8, answers[k]]);
            answers[k] += 1;
        }
        for peer in &mut peers {
            step(peer, Duration::ZERO);
            while let Some((bytes, from)) = peer.recv() {
                peer.send(from, &bytes).unwrap();
            }
        }
    }
    // Each is a peer to send to now, whoever has dialled.
    for address in &addresses {
        subject.send(*address, b"bye").unwrap();
    }
    let one_more = rig.peer(None, LIMITS).unwrap();
    let refused = subject.send(one_more.local_addr(), b"");
    assert_eq!(refused, Err(SendError::TooManyPeers { max: LIMITS.peers }));
}

/// A peer that does not receive fills the queue, which says so, and empties it later.
pub(super) fn full<R: Rig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    let there = peer.local_addr();
    let message = |n: u64| {
        let mut message = vec![n as u8; 50_000];
        message[..8].copy_from_slice(&n.to_be_bytes());
        message
    };
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(500) {
        assert!(sent < 10_000, "500 MB queued for a peer that does not receive");
        match subject.send(there, &message(sent)) {
            Ok(()) => (sent, last) = (sent + 1, Instant::now()),
            Err(error) => {
                assert_eq!(error, SendError::Full);
                step(&mut subject, Duration::from_millis(10));
                step(&mut peer, Duration::ZERO);
            }
        }
    }
    assert!(subject.queued() <= LIMITS.queue_bytes && subject.counters().full > 0);
    let mut received = 0;
    until("all that was sent", &mut subject, &mut peer, |_, peer| {
        while let Some((bytes, _)) = peer.recv() {
            assert!(bytes == message(received), "message {received}");
            received += 1;
        }
        received == sent
    });
    subject.send(there, b"room again").unwrap();
}

pub(super) fn waits_and_wakes<R: Rig>(rig: &mut R, _: u64) {
    const NAP: Duration = Duration::from_millis(50);
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    let here = subject.local_addr();
    // The first message finds the way; and what comes of it has passed.
    peer.send(here, b"first").unwrap();
    until("first message", &mut subject, &mut peer, |subject, _| subject.recv().is_some());
    let start = Instant::now();
    while step(&mut subject, NAP) {
        assert!(start.elapsed() < PATIENCE, "it never becomes quiet");
    }
    let start = Instant::now();
    assert!(!step(&mut subject, NAP), "nothing has happened");
    assert!(start.elapsed() >= NAP, "it came back after {:?}", start.elapsed());
    for n in 0..20 {
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(n));
                peer.send(here, &[n as u8]).unwrap();
                while peer.queued() > 0 {
                    step(&mut peer, Duration::from_millis(1));
                }
            });
            // Acknowledgements and the like may wake it, too.
            while subject.recv().is_none() {
                step(&mut subject, PATIENCE);
            }
        });
        assert!(start.elapsed() < PATIENCE / 2, "it slept through message {n}");
    }
}

/// What is not queued any more arrives, even if the sender is dropped at once.
pub(super) fn nothing_is_left_behind<R: Rig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let here = subject.local_addr();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    for n in 0..100u8 {
        peer.send(here, &[n; 1000]).unwrap();
    }
    until("everything sent", &mut peer, &mut subject, |peer, _| peer.queued() == 0);
    drop(peer);
    let (mut received, start) = (0, Instant::now());
    while received < 100 {
        assert!(start.elapsed() < PATIENCE, "{received} messages arrived");
        step(&mut subject, Duration::from_millis(1));
        while let Some((bytes, _)) = subject.recv() {
            assert_eq!(bytes[..], [received; 1000]);
            received += 1;
        }
    }
}
