//! Peers that are not there, go away, or break the protocol.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{LIMITS, LONGEST, PATIENCE, Stream, TcpRig, hello, lost_while, step, until};
use crate::transport::{LostCause, TooLong, Transport};

/// A port where the peer that plain connections speak for could listen.
const PORT: u16 = 4242;

pub(super) fn nobody_listens<R: TcpRig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let gone = rig.peer(None, LIMITS).unwrap().local_addr();
    for _ in 0..3 {
        subject.send(gone, b"anybody?").unwrap();
        let lost = lost_while("refused", &mut subject, || ());
        assert_eq!(lost.peer, gone);
        assert!(lost.unsent > 0, "{lost:?}");
        let refused = std::io::ErrorKind::ConnectionRefused;
        assert!(matches!(&lost.cause, LostCause::Io(e) if e.kind() == refused), "{lost:?}");
        assert_eq!(subject.queued(), 0);
    }
    still_works(rig, &mut subject);
}

pub(super) fn reconnect<R: TcpRig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let mut peer = rig.peer(None, LIMITS).unwrap();
    let there = peer.local_addr();
    for n in 0..3u8 {
        subject.send(there, &[n]).unwrap();
        until("message", &mut subject, &mut peer, |_, peer| {
            peer.recv().is_some_and(|(bytes, _)| bytes[..] == [n])
        });
        drop(peer);
        let lost = lost_while("the end of the peer", &mut subject, || ());
        assert_eq!(lost.peer, there);
        peer = rig.peer(Some(there), LIMITS).unwrap();
    }
    assert_eq!(subject.counters().lost, 3);
}

pub(super) fn first_messages<R: TcpRig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let to = subject.local_addr();
    let dial = rig.dialer();
    let starts: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x06SSH-2.0-",
        b"\0\0\0\0",
        b"\0\0\0\x06UPT\x01\0\0",
    ];
    for start in starts {
        watch(&mut subject, || refused(&mut *dial(to).unwrap(), start));
    }
    // Those who say nothing make room for others.
    let silent: Vec<_> = watch(&mut subject, || (0..20).map(|_| dial(to).unwrap()).collect());
    assert!(subject.lost().is_none() && subject.recv().is_none());
    still_works(rig, &mut subject);
    drop(silent);
    assert!(subject.counters().refused >= 5 + 20 - LIMITS.strangers as u64);
}

pub(super) fn lengths<R: TcpRig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let to = subject.local_addr();
    let dial = rig.dialer();
    for len in [LONGEST + 1, 0x7fff_ffff, u32::MAX] {
        let lost = lost_while("a hostile length", &mut subject, || {
            let mut bytes = hello(PORT);
            bytes.extend(b"\0\0\0\x02ok");
            bytes.extend(len.to_be_bytes());
            refused(&mut *dial(to).unwrap(), &bytes);
        });
        let expected = TooLong { len: len as usize, max: LONGEST };
        assert!(matches!(lost.cause, LostCause::TooLong(cause) if cause == expected), "{lost:?}");
        assert_eq!(lost.peer.port(), PORT);
    }
    // The message in front of each was good.
    assert_eq!(subject.counters().received_messages, 3);
    still_works(rig, &mut subject);
}

pub(super) fn lengths_of_the_dialled<R: TcpRig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let (there, accept) = rig.listen().unwrap();
    subject.send(there, b"hello?").unwrap();
    let lost = lost_while("a hostile answer", &mut subject, || {
        let mut stream = accept().unwrap();
        let mut question = [0; 20];
        stream.read_exact(&mut question).unwrap();
        assert_eq!(question[10..], *b"\0\0\0\x06hello?");
        refused(&mut *stream, &[0xff; 4]);
    });
    assert_eq!(lost.peer, there);
    assert!(matches!(lost.cause, LostCause::TooLong(_)), "{lost:?}");
    still_works(rig, &mut subject);
}

pub(super) fn death_in_a_message<R: TcpRig>(rig: &mut R, _: u64) {
    let mut subject = rig.subject(LIMITS).unwrap();
    let to = subject.local_addr();
    let dial = rig.dialer();
    let endings: [&[u8]; 3] = [b"\0", b"\0\0\0\x09", b"\0\0\0\x09in the"];
    for ending in endings {
        let lost = lost_while("a truncated message", &mut subject, || {
            let mut stream = dial(to).unwrap();
            stream.write_all(&hello(PORT)).unwrap();
            stream.write_all(ending).unwrap();
        });
        assert!(matches!(lost.cause, LostCause::Truncated), "{lost:?}");
    }
    assert_eq!(subject.counters().received_messages, 0);
    still_works(rig, &mut subject);
}

/// Writes `bytes` and waits for the other side to hang up.
fn refused(stream: &mut dyn Stream, bytes: &[u8]) {
    // It may be gone before everything is written.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 64];
    match stream.read(&mut answer) {
        Ok(0) => {}
        Ok(len) => panic!("an answer to {bytes:?}: {:?}", &answer[..len]),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}: {error}");
        }
    }
}

/// Lets the subject progress while `other` runs on a thread.
fn watch<T: Transport, R: Send>(subject: &mut T, other: impl FnOnce() -> R + Send) -> R {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        while !other.is_finished() {
            assert!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
            step(subject, Duration::from_millis(1));
        }
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// An honest peer finds nothing changed.
fn still_works<R: TcpRig>(rig: &mut R, subject: &mut R::Subject) {
    let mut peer = rig.peer(None, LIMITS).unwrap();
    let to: SocketAddr = subject.local_addr();
    peer.send(to, b"still there?").unwrap();
    let mut answered = false;
    until("an honest peer", subject, &mut peer, |subject, peer| {
        if let Some((bytes, from)) = subject.recv() {
            assert_eq!(&bytes[..], b"still there?");
            subject.send(from, b"yes").unwrap();
        }
        answered |= peer.recv().is_some_and(|(bytes, _)| &bytes[..] == b"yes");
        answered
    });
}
