//! TCP works in superframes whatever the device can do; one that cuts none, and has few slots, still
//! gets every segment once, and none above its MTU.

mod common;

use std::time::Duration;

use common::Flow;
use underpass::devices::{Instant, MemoryConfig, MemoryDevice};
use underpass::{Shard, Stack, TcpListener, TcpStream};

fn station(n: u8, device: MemoryDevice) -> (Stack, Shard<MemoryDevice>) {
    Stack::builder()
        .address(format!("10.0.0.{n}/24").parse().unwrap())
        .address(format!("fd00::{n}/64").parse().unwrap())
        .seed(n.into())
        .build_shard(device)
        .unwrap()
}

/// Sends a megabyte over a link with `slots` buffers per direction; the frames it took.
fn megabyte(slots: usize, to: &str) -> u64 {
    let config = MemoryConfig { slots, ..MemoryConfig::default() };
    let (a, b) = MemoryDevice::pair(config);
    let ((left, mut left_shard), (right, mut right_shard)) = (station(1, a), station(2, b));
    let listener = TcpListener::bind(&right, to.parse().unwrap()).unwrap();
    listener.set_nonblocking(true);
    let near = TcpStream::start(&left, to.parse().unwrap()).unwrap();
    let mut now = Instant::ZERO;
    let mut turn = || {
        now = now + Duration::from_micros(10);
        left_shard.turn(now).unwrap();
        right_shard.turn(now).unwrap();
    };
    let far = loop {
        turn();
        if let Ok((far, _)) = listener.accept() {
            break far;
        }
    };
    for end in [&near, &far] {
        end.set_nonblocking(true);
    }
    let mut flow = Flow::new(&near, &far, 1 << 20, 3);
    while !flow.pump() {
        turn();
    }
    for stats in [left.stats(), right.stats()] {
        assert_eq!((stats.device.tx_full, stats.device.tx_unsupported), (0, 0), "{stats:?}");
    }
    left.stats().tx_frames
}

#[test]
fn a_device_that_cuts_nothing_gets_segments() {
    for to in ["10.0.0.2:80", "[fd00::2]:80"] {
        let frames = [3, 8, 200].map(|slots| megabyte(slots, to));
        for count in frames {
            // Full segments, but for the ends of superframes.
            assert!((700..1000).contains(&count), "{frames:?}");
        }
    }
}
