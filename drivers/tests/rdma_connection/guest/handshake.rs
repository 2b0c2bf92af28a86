//! What becomes of handshakes with peers that say something else, or nothing.

use std::thread;
use std::time::{Duration, Instant};

use underpass_drivers::kernel::EpollTransport;
use underpass_drivers::rdma::{
    ConnectionConfig, HandshakeError, Listener, Refusal, WireError, connect,
};
use underpass_protocols::transport::Transport;

use super::{PATIENCE, adapter, transport};

/// Brings what is queued to the peer.
fn deliver(transport: &mut EpollTransport) {
    while transport.queued() > 0 {
        transport.progress(Duration::from_millis(10)).unwrap();
    }
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_listener_outlives_garbage_and_those_who_fall_silent() {
    let (ours, theirs) = (adapter("rxe1"), adapter("rxe0"));
    let config = ConnectionConfig::default();
    let patience = Duration::from_millis(500);
    let mut listener = Listener::new(&theirs, &config, 1, patience);
    let (mut there, mut here, mut stranger) = (transport(), transport(), transport());
    let peer = there.local_addr();

    stranger.send(peer, b"good morning").unwrap();
    deliver(&mut stranger);
    let error = listener.accept(&[], &mut there, PATIENCE).unwrap_err();
    assert_eq!(error.peer, Some(stranger.local_addr()));
    assert!(matches!(error.cause, HandshakeError::Wire(WireError::NoHandshake)), "{error}");

    // Another version is told so.
    let mut newer = [0; 44];
    newer[..6].copy_from_slice(b"UPOS\x02\x01");
    stranger.send(peer, &newer).unwrap();
    deliver(&mut stranger);
    let error = listener.accept(&[], &mut there, PATIENCE).unwrap_err();
    assert!(matches!(error.cause, HandshakeError::Wire(WireError::Version(2))), "{error}");
    deliver(&mut there);
    let answer = loop {
        stranger.progress(Duration::from_millis(10)).unwrap();
        if let Some((answer, _)) = stranger.recv() {
            break answer;
        }
    };
    assert_eq!(answer[..8], *b"UPOS\x01\x04\0\x02");

    // A station asks and falls silent. Another one is told to come again, and does.
    stranger.send(peer, &a_request()).unwrap();
    deliver(&mut stranger);
    assert!(listener.accept(&[], &mut there, patience / 2).unwrap().is_none());
    let from = here.local_addr();
    let busy = thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut busy = 0;
            loop {
                match connect(&ours, &config, &[], &mut here, peer, PATIENCE) {
                    Err(HandshakeError::Refused(Refusal::Busy)) => busy += 1,
                    connection => break (connection.unwrap(), busy),
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        let error = listener.accept(&[], &mut there, PATIENCE).unwrap_err();
        assert_eq!(error.peer, Some(stranger.local_addr()));
        assert!(matches!(error.cause, HandshakeError::TimedOut), "{error}");
        let incoming = listener.accept(&[], &mut there, PATIENCE).unwrap().unwrap();
        assert_eq!(incoming.peer, from);
        dialling.join().unwrap().1
    });
    assert!(busy > 0);
    // It is too late for the silent one, and for one that goes.
    let ready = b"UPOS\x01\x03\0\0token---";
    stranger.send(peer, ready).unwrap();
    deliver(&mut stranger);
    let error = listener.accept(&[], &mut there, PATIENCE).unwrap_err();
    assert!(matches!(error.cause, HandshakeError::OutOfTurn), "{error}");
    stranger.send(peer, &a_request()).unwrap();
    deliver(&mut stranger);
    assert!(listener.accept(&[], &mut there, patience / 2).unwrap().is_none());
    drop(stranger);
    let error = listener.accept(&[], &mut there, PATIENCE).unwrap_err();
    assert!(matches!(error.cause, HandshakeError::Lost(_)), "{error}");
}

/// Of a station that does not exist.
fn a_request() -> Vec<u8> {
    let mut request = b"UPOS\x01\x01\0\0token---".to_vec();
    request.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 9, 0, 2]);
    request.extend_from_slice(&[0, 0, 1, 0, 0, 0, 0, 7, 0x04, 0, 16, 16]);
    request
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_dialler_is_told_of_garbage_silence_and_absence() {
    let ours = adapter("rxe1");
    let config = ConnectionConfig::default();
    let (mut here, mut there) = (transport(), transport());
    let peer = there.local_addr();
    let mut dial = |timeout| connect(&ours, &config, &[], &mut here, peer, timeout).unwrap_err();
    let start = Instant::now();
    let error = dial(Duration::from_millis(300));
    assert!(matches!(error, HandshakeError::TimedOut), "{error}");
    assert!(start.elapsed() < PATIENCE / 2);
    // Anything in answer to the request, once; that of above is still on its way.
    let mut answer = |answer: &dyn Fn(&[u8]) -> Vec<Vec<u8>>| {
        thread::scope(|scope| {
            while there.recv().is_some() || there.progress(Duration::from_millis(50)).unwrap() {}
            let dialling = scope.spawn(|| dial(PATIENCE));
            while !dialling.is_finished() {
                there.progress(Duration::from_millis(10)).unwrap();
                while let Some((request, from)) = there.recv() {
                    for message in answer(&request) {
                        there.send(from, &message).unwrap();
                    }
                }
            }
            dialling.join().unwrap()
        })
    };
    let error = answer(&|_| vec![b"what?".to_vec()]);
    assert!(matches!(error, HandshakeError::Wire(WireError::NoHandshake)), "{error}");
    let error = answer(&|request| vec![request.to_vec()]);
    assert!(matches!(error, HandshakeError::OutOfTurn), "{error}");
    let reply = |request: &[u8]| [&b"UPOS\x01\x02"[..], &request[6..]].concat();
    let error = answer(&|request| vec![reply(request)[..40].to_vec()]);
    assert!(matches!(error, HandshakeError::Wire(WireError::Length { .. })), "{error}");
    // A late reply to another request is left aside.
    let error = answer(&|request| {
        let mut late = reply(request);
        late[9] ^= 1;
        vec![late, [&b"UPOS\x01\x04\0\x03"[..], &request[8..16]].concat()]
    });
    assert!(matches!(error, HandshakeError::Refused(Refusal::NoResources)), "{error}");
    drop(there);
    let error = dial(PATIENCE);
    assert!(matches!(error, HandshakeError::Lost(_)), "{error}");
}
