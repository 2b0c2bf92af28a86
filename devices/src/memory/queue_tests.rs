//! Ends with several queues.

use std::collections::HashMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const NOW: Instant = Instant::ZERO;

/// An Ethernet frame of flow `flow`, of which it is the `number`th.
fn frame(flow: u8, number: u64) -> Vec<u8> {
    let (src, dst) = ends(flow);
    let mut frame = vec![0; 60];
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    for (at, end) in [(26, src), (30, dst)] {
        if let SocketAddr::V4(end) = end {
            frame[at..at + 4].copy_from_slice(&end.ip().octets());
        }
    }
    frame[34..36].copy_from_slice(&src.port().to_be_bytes());
    frame[36..38].copy_from_slice(&dst.port().to_be_bytes());
    frame[42] = flow;
    frame[43..51].copy_from_slice(&number.to_be_bytes());
    frame
}

fn ends(flow: u8) -> (SocketAddr, SocketAddr) {
    let src = SocketAddr::from(([10, 0, 0, 1], 40_000 + u16::from(flow)));
    (src, SocketAddr::from(([10, 0, 0, 2], 80)))
}

fn read(frame: &[u8]) -> (u8, u64) {
    (frame[42], u64::from_be_bytes(frame[43..51].try_into().unwrap()))
}

fn send(device: &mut MemoryDevice, bytes: &[u8]) -> Result<(), SendError> {
    device.tx.send(bytes.len(), TxMeta::default(), |slot| slot.copy_from_slice(bytes))
}

/// Takes `most` frames of what has arrived.
fn receive(device: &mut MemoryDevice, most: usize) -> Vec<(u8, u64)> {
    device.rx.fill(NOW).unwrap();
    let next = || device.rx.next().map(|frame| read(frame.bytes));
    let frames = std::iter::from_fn(next).take(most).collect();
    device.rx.release();
    frames
}

fn devices(slots: usize, queues: usize) -> (Vec<MemoryDevice>, Vec<MemoryDevice>) {
    MemoryDevice::pair_queues(MemoryConfig { slots, ..MemoryConfig::default() }, queues)
}

proptest! {
    /// Whatever the order of calls: each frame arrives once, on the queue of its flow, behind the
    /// earlier ones of its flow and sender, and every buffer is somewhere.
    #[test]
    fn nothing_is_lost_and_flows_stay_in_order(
        queues in 1..5_usize,
        steps in prop::collection::vec((0..4_usize, 0..5_u8, any::<u8>()), 1..400),
    ) {
        let (mut near, mut far) = devices(7, queues);
        let steering = Steering::new(FlowHash::Software, queues);
        let (mut sent, mut received) = (0, HashMap::<(u8, u64), u64>::new());
        let mut arrive = |at: usize, frames: Vec<(u8, u64)>| {
            for (flow, number) in frames {
                let (src, dst) = ends(flow);
                assert_eq!(steering.queue_of(src, dst), at);
                // The number tells the sender, too.
                let last = received.insert((flow, number % 4), number);
                assert!(last.is_none_or(|last| last < number), "{last:?} before {number}");
            }
        };
        let mut arrived = 0;
        for (queue, step, flow) in steps {
            let queue = queue % queues;
            match step {
                0..=2 => {
                    let number = sent * 4 + queue as u64;
                    let room = near[queue].tx.room();
                    match send(&mut near[queue], &frame(flow % 16, number)) {
                        Ok(()) => sent += 1,
                        Err(e) => prop_assert!(e == SendError::Full && room == 0),
                    }
                }
                3 => near[queue].tx.flush(NOW).unwrap(),
                _ => {
                    let frames = receive(&mut far[queue], usize::from(flow % 8));
                    arrived += frames.len();
                    arrive(queue, frames);
                }
            }
            prop_assert!(near.iter().chain(&far).all(|device| device.buffers().add_up()));
        }
        for device in &mut near {
            device.tx.flush(NOW).unwrap();
        }
        for (queue, device) in far.iter_mut().enumerate() {
            let frames = receive(device, usize::MAX);
            arrived += frames.len();
            arrive(queue, frames);
        }
        prop_assert_eq!(arrived as u64, sent);
        for device in &mut near {
            device.tx.flush(NOW).unwrap();
            let buffers = device.buffers();
            prop_assert_eq!(buffers.tx_free, buffers.tx_total);
        }
    }
}

#[test]
fn frames_of_no_flow_go_to_the_first_queue() {
    let (mut near, mut far) = devices(4, 3);
    send(&mut near[2], &[7; 60]).unwrap();
    near[2].tx.flush(NOW).unwrap();
    assert_eq!(far.iter_mut().map(|d| receive(d, 9).len()).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn a_queue_that_was_dropped_fails_its_own_flows_only() {
    let (mut near, mut far) = devices(8, 2);
    let steering = Steering::new(FlowHash::Software, 2);
    let flow_on = |queue| (0..255).find(|f| steering.queue_of(ends(*f).0, ends(*f).1) == queue);
    let [first, second] = [0, 1].map(|queue| flow_on(queue).unwrap());
    drop(far.remove(1));
    for number in 0..3 {
        send(&mut near[0], &frame(first, number)).unwrap();
        send(&mut near[0], &frame(second, number)).unwrap();
        near[0].tx.flush(NOW).unwrap();
    }
    assert_eq!(near[0].counters().tx_errors, 3);
    assert_eq!(receive(&mut far[0], 9).len(), 3);
    // The other end is there as long as one of its queues is.
    assert_eq!(near[1].rx.fill(NOW).unwrap(), 0);
    drop(far);
    assert_eq!(near[1].rx.fill(NOW).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn every_sender_wakes_a_sleeping_queue() {
    for sender in 0..3 {
        let (mut near, mut far) = devices(4, 3);
        assert!(matches!(far[0].wake().unwrap(), Wake::Fd(_)));
        send(&mut near[sender], &[7; 60]).unwrap();
        near[sender].tx.flush(NOW).unwrap();
        assert!(matches!(far[0].wake().unwrap(), Wake::Ready), "sender {sender}");
        assert!(matches!(far[1].wake().unwrap(), Wake::Fd(_)));
    }
}
