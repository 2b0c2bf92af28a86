//! Frames of an attacker: each is taken, or counted as dropped.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use underpass::devices::{Instant, MacAddr, MemoryConfig, MemoryDevice, Selector, VlanId};
use underpass::protocols::header::{Checksum, Header};
use underpass::protocols::probe::{Probe, ProbeConfig, ProbeHeader};
use underpass::{DropReason, ProtocolHandle, Shard, Stack};

use super::wire::{self, UDP, Wire};
use super::{EXPERIMENT, ip};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PORT: u16 = 7;

/// What a protocol answers if it likes, whatever it arrives in.
fn message(kind: u8, rest: &[u8]) -> Vec<u8> {
    let header = ProbeHeader {
        version: 1,
        kind,
        checksum: Checksum::default(),
        session: 0.into(),
        sequence: 0.into(),
        sent_at: 0.into(),
        hop_limit: 64,
        hops_there: 0,
        reserved: 0.into(),
    };
    let mut message = [&[0; ProbeHeader::LEN][..], rest].concat();
    header.emit(&mut message).unwrap();
    message
}

fn frame(shape: u8, v6: bool, to: MacAddr, payload: &[u8]) -> Vec<u8> {
    let ends: [IpAddr; 2] =
        if v6 { ["fd00::2", "fd00::1"] } else { ["10.0.0.2", "10.0.0.1"] }.map(ip);
    let ends = (ends[0], ends[1]);
    match shape {
        0 => wire::ethernet(to, THEM, EXPERIMENT, payload),
        1 => wire::ethernet(to, THEM, 0x8100, &[&[0, 7, 0x88, 0xb5], payload].concat()),
        2 => wire::ethernet(to, THEM, 0x8100, payload),
        3 => wire::ip_frame((to, THEM), ends, 253, payload),
        _ => {
            let len = 8 + payload.len() as u16;
            let [high, low] = len.to_be_bytes();
            let header = [0, 9, 0, PORT as u8, high, low, 0, 0];
            wire::ip_frame((to, THEM), ends, UDP, &[&header[..], payload].concat())
        }
    }
}

/// A stack with the same protocol on every kind of selector.
struct Target {
    stack: Stack,
    shard: Shard<MemoryDevice>,
    wire: Wire,
    handles: [ProtocolHandle<Probe>; 4],
}

impl Target {
    fn new() -> Self {
        let config = MemoryConfig { macs: [US, THEM], ..MemoryConfig::default() };
        let (device, wire) = MemoryDevice::pair(config);
        let (stack, shard) = Stack::builder()
            .address("10.0.0.1/24".parse().unwrap())
            .address("fd00::1/64".parse().unwrap())
            .seed(1)
            .build_shard(device)
            .unwrap();
        let handles = [
            Selector::EtherType(EXPERIMENT),
            Selector::Tagged(VlanId::new(7).unwrap(), EXPERIMENT),
            Selector::ip_protocol(None, 253),
            Selector::udp_port(None, PORT),
        ]
        .map(|selector| stack.attach(selector, Probe::new(ProbeConfig::default())).unwrap());
        Self { stack, shard, wire: Wire(wire), handles }
    }

    fn receive(&mut self, frame: &[u8]) {
        self.wire.send(frame);
        self.shard.turn(Instant::ZERO).unwrap();
        self.wire.recv();
    }

    /// Frames taken or dropped. Answers may be dropped, too, while they wait for their next hop.
    fn noticed(&self) -> u64 {
        let counters = self.handles.iter().map(ProtocolHandle::counters);
        let taken: u64 = counters.map(|counters| counters.received - counters.refused).sum();
        let drops = self.stack.stats().drops;
        taken + drops.total() - drops[DropReason::NeighborQueueFull]
    }
}

#[test]
fn a_request_is_answered_whatever_it_comes_in() {
    let mut target = Target::new();
    for (n, shape) in [0, 1, 3, 4].into_iter().enumerate() {
        target.receive(&frame(shape, true, US, &message(1, b"hello")));
        let counters = target.handles[n].counters();
        assert_eq!((counters.received, counters.refused, counters.sent), (1, 0, 1), "{shape}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_is_taken_or_counted(
        frames in vec((0..5_u8, any::<bool>(), any::<bool>(), prop::option::of(0..4_u8),
            vec(any::<u8>(), 0..64), prop::option::weighted(0.2, any::<prop::sample::Index>())), 1..30),
    ) {
        let mut target = Target::new();
        for (shape, v6, to_all, kind, payload, cut) in frames {
            let payload = kind.map_or(payload.clone(), |kind| message(kind, &payload));
            let to = if to_all { MacAddr::BROADCAST } else { US };
            let mut frame = frame(shape, v6, to, &payload);
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()).max(14));
            }
            let before = target.noticed();
            target.receive(&frame);
            let drops = target.stack.stats().drops;
            prop_assert_eq!(target.noticed(), before + 1, "{:?} {:02x?}", drops, frame);
        }
    }
}
