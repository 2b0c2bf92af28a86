//! Nothing is allocated per frame: custom protocols on their steady path, counted by the allocator.

use std::time::Duration;

use underpass::devices::{
    Device, Instant, MacAddr, MemoryConfig, MemoryDevice, RxQueue, Selector, TxMeta, TxQueue,
};
use underpass::protocols::beacon::{Announcement, Beacon, BeaconConfig, BeaconHeader, Change};
use underpass::protocols::header::Header;
use underpass::protocols::probe::{Outcome, Probe, ProbeConfig, ProbeHeader, Request};
use underpass::protocols::{Incoming, Outbox, Protocol, Refused};
use underpass::{ProtocolHandle, Shard, Stack};

const FRAMES: u64 = 1000;

struct Pair {
    stacks: [Stack; 2],
    shards: [Shard<MemoryDevice>; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let (left, right) = MemoryDevice::pair(MemoryConfig::default());
        let build = |device, address: &str| {
            Stack::builder().address(address.parse().unwrap()).seed(1).build_shard(device).unwrap()
        };
        let (left, right) = (build(left, "10.0.0.1/24"), build(right, "10.0.0.2/24"));
        Self { stacks: [left.0, right.0], shards: [left.1, right.1], now: Instant::ZERO }
    }

    /// Turns both shards some times, a millisecond apart.
    fn run(&mut self, turns: u64) {
        for _ in 0..turns {
            self.now += Duration::from_millis(1);
            for shard in &mut self.shards {
                shard.turn(self.now).unwrap();
            }
        }
    }
}

/// Allocations of `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

/// It sends back what comes.
struct Mirror;

impl Protocol for Mirror {
    fn on_frame(
        &mut self,
        _: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused> {
        let sent = out.send(frame.from, frame.payload.len(), |slot| {
            slot.copy_from_slice(frame.payload);
        });
        sent.map_err(|_| Refused)
    }

    fn poll_transmit(&mut self, _: Instant, _: &mut Outbox<'_>) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![7_u8; 100]))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn frames_of_an_ethertype_there_and_back() {
    let (us, them) = (MacAddr::local(1), MacAddr::local(2));
    let config = MemoryConfig { macs: [us, them], ..MemoryConfig::default() };
    let (device, mut wire) = MemoryDevice::pair(config);
    let builder = Stack::builder().address("10.0.0.1/24".parse().unwrap());
    let (stack, mut shard) = builder.build_shard(device).unwrap();
    let mirror = stack.attach(Selector::EtherType(0x88b5), Mirror).unwrap();
    let frame = [&us.0[..], &them.0, &[0x88, 0xb5], &[7; 986]].concat();
    let mut turn = |millis| {
        let now = Instant::from_millis(millis);
        let (_, tx) = wire.split();
        for _ in 0..16 {
            tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(&frame)).unwrap();
        }
        tx.flush(now).unwrap();
        shard.turn(now).unwrap();
        let (rx, _) = wire.split();
        rx.fill(now).unwrap();
        while let Some(back) = rx.next() {
            assert_eq!(back.bytes[14..], frame[14..]);
        }
        rx.release();
    };
    (0..100).for_each(&mut turn);
    assert_eq!(allocations(|| (100..200).for_each(&mut turn)), 0);
    assert_eq!((mirror.counters().received, mirror.counters().sent), (3200, 3200));
}

#[test]
fn probes_and_their_replies() {
    let mut pair = Pair::new();
    let attach = |stack: &Stack| {
        stack.attach(ProbeHeader::SELECTOR, Probe::new(ProbeConfig::default())).unwrap()
    };
    let [near, far] = pair.stacks.each_ref().map(attach);
    let exchange = |pair: &mut Pair, near: &ProtocolHandle<Probe>| {
        let request = Request { payload: 100, ..Request::to([10, 0, 0, 2].into()) };
        near.with(|near| near.request(request)).unwrap();
        pair.run(2);
        let result = near.with(Probe::result).unwrap();
        assert!(matches!(result.outcome, Outcome::Reply { .. }), "{result:?}");
    };
    // The neighbour's address is learned, and buffers grow to their size.
    near.with(|near| near.request(Request::to([10, 0, 0, 2].into()))).unwrap();
    pair.run(10);
    near.with(Probe::result).unwrap();
    (0..10).for_each(|_| exchange(&mut pair, &near));
    let count = allocations(|| (0..FRAMES).for_each(|_| exchange(&mut pair, &near)));
    assert_eq!(count, 0);
    assert!(far.counters().sent > FRAMES);
}

#[test]
fn beacons_of_a_station_that_is_known() {
    let mut pair = Pair::new();
    let attach = |(stack, incarnation): (&Stack, u64)| {
        let interval = Duration::from_millis(10);
        let config = BeaconConfig { interval, ..BeaconConfig::new(incarnation) };
        let said = Announcement {
            shards: 1,
            addresses: vec![[10, 0, 0, incarnation as u8].into()],
            services: vec![80],
        };
        stack.attach(BeaconHeader::SELECTOR, Beacon::new(config, said).unwrap()).unwrap()
    };
    let [near, far] = [(&pair.stacks[0], 1), (&pair.stacks[1], 2)].map(attach);
    pair.run(5000);
    for beacon in [&near, &far] {
        assert_eq!(beacon.with(Beacon::event).unwrap().change, Change::Up);
    }
    let before = near.counters().received;
    assert_eq!(allocations(|| pair.run(10 * FRAMES)), 0);
    assert!(near.counters().received > before + FRAMES * 8 / 10);
    assert_eq!(near.with(Beacon::event), None);
}
