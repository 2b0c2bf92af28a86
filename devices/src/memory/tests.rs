use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::{PartialChecksum, RxChecksum};

const NOW: Instant = Instant::ZERO;

fn pair(slots: usize) -> (MemoryDevice, MemoryDevice) {
    MemoryDevice::pair(MemoryConfig { slots, ..MemoryConfig::default() })
}

fn send(device: &mut MemoryDevice, byte: u8) -> Result<(), SendError> {
    device.split().1.send(60, TxMeta::default(), |frame| frame.fill(byte))
}

fn receive(device: &mut MemoryDevice) -> Vec<u8> {
    let (rx, _) = device.split();
    rx.fill(NOW).unwrap();
    let bytes = std::iter::from_fn(|| rx.next().map(|frame| frame.bytes[0])).collect();
    rx.release();
    bytes
}

#[test]
fn nothing_leaves_before_the_flush() {
    let (mut a, mut b) = pair(4);
    send(&mut a, 1).unwrap();
    assert!(receive(&mut b).is_empty());
    a.split().1.flush(NOW).unwrap();
    assert_eq!(receive(&mut b), [1]);
}

#[test]
fn a_full_link_pushes_back_and_is_counted() {
    let (mut a, mut b) = pair(3);
    for byte in 0..3 {
        send(&mut a, byte).unwrap();
    }
    assert_eq!(a.tx.room(), 0);
    assert_eq!(send(&mut a, 9), Err(SendError::Full));
    a.split().1.flush(NOW).unwrap();
    assert_eq!(send(&mut a, 9), Err(SendError::Full), "the other end has not released");
    assert_eq!(receive(&mut b), [0, 1, 2]);
    assert_eq!(a.tx.room(), 3);
    send(&mut a, 3).unwrap();
    assert_eq!((a.counters().tx_full, a.counters().tx_frames), (2, 4));
}

#[test]
fn offload_requests_travel_as_they_are() {
    let config = MemoryConfig { offloads: true, ..MemoryConfig::default() };
    let (mut a, mut b) = MemoryDevice::pair(config);
    let checksum = PartialChecksum { start: 34, offset: 16 };
    let meta = TxMeta {
        checksum: Some(checksum),
        segmentation: Some(crate::Segmentation {
            kind: crate::SegmentKind::Tcp4,
            size: 1460.try_into().unwrap(),
            header_len: 54,
        }),
    };
    let len = a.caps().max_tx_frame();
    a.tx.send(len, meta, |frame| frame.fill(3)).unwrap();
    a.tx.flush(NOW).unwrap();
    assert_eq!(b.rx.fill(NOW).unwrap(), 1);
    let frame = b.rx.next().unwrap();
    assert_eq!(frame.bytes, vec![3; 65_549]);
    assert_eq!(frame.meta.checksum, RxChecksum::Partial(checksum));
    assert_eq!(frame.meta.segmentation.map(u16::from), Some(1460));

    let (mut plain, _peer) = pair(4);
    assert_eq!(plain.tx.send(100, meta, |_| ()), Err(SendError::Unsupported));
    assert_eq!(plain.counters().tx_unsupported, 1);
}

#[test]
fn the_end_of_a_dropped_peer_drains_and_then_fails() {
    let (mut a, mut b) = pair(4);
    send(&mut a, 1).unwrap();
    a.tx.flush(NOW).unwrap();
    drop(a);
    assert_eq!(receive(&mut b), [1]);
    assert_eq!(b.rx.fill(NOW).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(b.wake().unwrap(), Wake::Ready));
}

#[test]
fn frames_to_a_dropped_peer_are_errors_and_their_buffers_return() {
    let (mut a, mut b) = pair(4);
    for byte in 0..3 {
        send(&mut a, byte).unwrap();
    }
    a.tx.flush(NOW).unwrap();
    b.rx.fill(NOW).unwrap();
    b.rx.next().unwrap();
    b.rx.release();
    drop(b); // with two frames that it had taken, of which none was lost on the link
    send(&mut a, 3).unwrap();
    a.tx.flush(NOW).unwrap();
    assert_eq!(a.counters().tx_errors, 1);
    for byte in 0..4 {
        send(&mut a, byte).unwrap();
    }
    a.tx.flush(NOW).unwrap();
    assert_eq!(a.counters().tx_errors, 5);
    assert_eq!((a.buffers().tx_free, a.buffers().tx_busy), (4, 0));
}

#[test]
fn frames_that_a_dropped_peer_never_took_are_errors_too() {
    let (mut a, b) = pair(4);
    send(&mut a, 0).unwrap();
    a.tx.flush(NOW).unwrap();
    drop(b);
    a.tx.flush(NOW).unwrap();
    a.tx.flush(NOW).unwrap();
    assert_eq!(a.counters().tx_errors, 1);
    assert_eq!(a.buffers().tx_free, 4);
}

fn readable(wake: &Wake<'_>, timeout: Duration) -> bool {
    let Wake::Fd(fd) = wake else { panic!("{wake:?}") };
    let timeout = Timespec::try_from(timeout).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

#[test]
fn dropping_one_end_wakes_the_other() {
    let (a, mut b) = pair(4);
    let wake = b.wake().unwrap();
    assert!(!readable(&wake, Duration::ZERO));
    drop(a);
    assert!(readable(&wake, Duration::ZERO));
}

#[test]
fn an_end_that_is_awake_costs_its_peer_no_wake_up() {
    let (mut a, mut b) = pair(4);
    assert!(matches!(b.wake().unwrap(), Wake::Fd(_)));
    for _ in 0..3 {
        send(&mut a, 1).unwrap();
        a.tx.flush(NOW).unwrap();
    }
    assert_eq!(receive(&mut b).len(), 3);
    let wake = b.wake().unwrap();
    assert!(!readable(&wake, Duration::ZERO), "the one ring was drained");
}

#[test]
fn two_threads_exchange_frames_and_sleep_without_losing_a_wake_up() {
    const FRAMES: u64 = 50_000;
    let (mut a, mut b) = pair(8);
    let sender = thread::spawn(move || {
        let mut sent = 0_u64;
        while sent < FRAMES {
            let write = |frame: &mut [u8]| frame[..8].copy_from_slice(&sent.to_be_bytes());
            match a.tx.send(60, TxMeta::default(), write) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
            if sent.is_multiple_of(3) || a.tx.room() == 0 {
                a.tx.flush(NOW).unwrap();
            }
        }
        a.tx.flush(NOW).unwrap();
        a
    });
    let mut expected = 0_u64;
    while expected < FRAMES {
        if b.rx.fill(NOW).unwrap() == 0
            && let wake @ Wake::Fd(_) = b.wake().unwrap()
        {
            assert!(readable(&wake, Duration::from_secs(10)), "asleep at frame {expected}");
        }
        while let Some(frame) = b.rx.next() {
            assert_eq!(frame.bytes[..8], expected.to_be_bytes());
            expected += 1;
        }
        b.rx.release();
        assert!(b.buffers().add_up());
    }
    let a = sender.join().unwrap();
    assert!(a.buffers().add_up());
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Flush,
    Fill,
    Next(usize),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (14..1515_usize).prop_map(Step::Send),
        Just(Step::Flush),
        Just(Step::Fill),
        (1..4_usize).prop_map(Step::Next),
        Just(Step::Release),
    ]
}

proptest! {
    /// Whatever the order of calls: frames arrive once, whole and in order, and every buffer is
    /// somewhere.
    #[test]
    fn frames_and_buffers_are_conserved(steps in prop::collection::vec(step(), 1..300)) {
        let (mut a, mut b) = pair(5);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Send(len) => {
                    let byte = sent.len() as u8;
                    let room = a.tx.room();
                    match a.tx.send(len, TxMeta::default(), |frame| frame.fill(byte)) {
                        Ok(()) => sent.push(vec![byte; len]),
                        Err(e) => prop_assert!(e == SendError::Full && room == 0),
                    }
                }
                Step::Flush => a.tx.flush(NOW).unwrap(),
                Step::Fill => prop_assert_eq!(b.rx.fill(NOW).unwrap(), b.buffers().rx_ready),
                Step::Next(count) => {
                    for _ in 0..count {
                        received.extend(b.rx.next().map(|frame| frame.bytes.to_vec()));
                    }
                }
                Step::Release => b.rx.release(),
            }
            prop_assert!(a.buffers().add_up() && b.buffers().add_up());
        }
        prop_assert!(sent.starts_with(&received));
        a.tx.flush(NOW).unwrap();
        b.rx.fill(NOW).unwrap();
        received.extend(std::iter::from_fn(|| b.rx.next().map(|frame| frame.bytes.to_vec())));
        prop_assert_eq!(sent, received);
    }
}
