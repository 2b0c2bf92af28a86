//! Stations on the link between rxe0 and rxe1, and what is done to it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant as Clock};

use underpass_devices::{Device, Instant, MacAddr, RxQueue, SendError, TxMeta, TxQueue};
use underpass_drivers::rdma::{RdmaConfig, RdmaDevice};

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn open(name: &str, config: &RdmaConfig) -> RdmaDevice {
    RdmaDevice::open(name, config).unwrap()
}

/// With few buffers.
pub(super) fn small() -> RdmaConfig {
    RdmaConfig { rx_slots: 64, tx_slots: 32, ..RdmaConfig::default() }
}

pub(super) fn now() -> Instant {
    static START: std::sync::LazyLock<Clock> = std::sync::LazyLock::new(Clock::now);
    Instant::ZERO + START.elapsed()
}

/// A frame of 60 bytes that ends with `number`.
pub(super) fn frame(to: MacAddr, number: u8) -> Vec<u8> {
    let mut frame = [&to.0[..], &[2, 0, 0, 0, 0, 9, 0x88, 0xb5]].concat();
    frame.resize(60, number);
    frame
}

pub(super) fn send(device: &mut RdmaDevice, frame: &[u8]) -> Result<(), SendError> {
    let (_, tx) = device.split();
    let result = tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(frame));
    tx.flush(now()).unwrap();
    result
}

/// What arrives within a fifth of a second.
pub(super) fn received(device: &mut RdmaDevice) -> Vec<Vec<u8>> {
    let deadline = Clock::now() + Duration::from_millis(200);
    let mut frames = Vec::new();
    while Clock::now() < deadline {
        let (rx, _) = device.split();
        rx.fill(now()).unwrap();
        while let Some(frame) = rx.next() {
            frames.push(frame.bytes.to_vec());
        }
        rx.release();
    }
    frames
}

/// Both know the way to each other.
pub(super) fn introduce(a: &mut RdmaDevice, b: &mut RdmaDevice) {
    let deadline = Clock::now() + PATIENCE;
    while a.peer_counters().reachable == 0 || b.peer_counters().reachable == 0 {
        assert!(Clock::now() < deadline, "{:?}, {:?}", a.peer_counters(), b.peer_counters());
        for device in [&mut *a, &mut *b] {
            send(device, &frame(MacAddr::BROADCAST, 0)).unwrap();
        }
        for device in [&mut *a, &mut *b] {
            received(device);
        }
    }
}

/// Waits until `holds`.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Clock::now() + PATIENCE;
    while !holds() {
        assert!(Clock::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command, which must succeed.
pub(super) fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}
