//! Any number of stacks on a switch, each on a simulated link of its own, in virtual time.

use std::time::Duration;

use underpass::devices::{
    Device, Instant, LinkConfig, MacAddr, RxQueue, SimDevice, SimLink, TxMeta, TxQueue,
};
use underpass::protocols::beacon::BeaconHeader;
use underpass::protocols::header::Header;
use underpass::{Shard, Stack};

/// Stations, their links, and a switch that floods.
pub(crate) struct Segment {
    pub(crate) now: Instant,
    pub(crate) stacks: Vec<Stack>,
    shards: Vec<Shard<SimDevice>>,
    links: Vec<SimLink>,
    ports: Vec<SimDevice>,
}

impl Segment {
    /// `count` stations, on links that are noisy in the same way.
    pub(crate) fn new(count: usize, link: LinkConfig) -> Self {
        let (now, shards, stacks) = (Instant::ZERO, Vec::new(), Vec::new());
        let mut segment = Self { now, stacks, shards, links: Vec::new(), ports: Vec::new() };
        for n in 0..count {
            let seed = link.seed.wrapping_mul(0x100).wrapping_add(n as u64);
            let (end, port, link) = SimLink::pair(LinkConfig { seed, ..link });
            let address = format!("10.0.0.{}/24", n + 1).parse().unwrap();
            let builder = Stack::builder().address(address).seed(seed);
            let (stack, shard) = builder.build_shard(end).unwrap();
            segment.stacks.push(stack);
            segment.shards.push(shard);
            segment.links.push(link);
            segment.ports.push(port);
        }
        segment
    }

    /// Under which address the others see a station: those of the links are all the same, so the switch
    /// translates. They differ in several bits, so that a damaged one is not another one.
    pub(crate) fn address(station: usize) -> MacAddr {
        MacAddr::local(0x0101_0101 * (station as u64 + 1))
    }

    /// Nothing is heard of a station any more.
    pub(crate) fn cut_off(&self, station: usize) {
        self.links[station].set_loss(1.0);
    }

    /// Goes on for `time`, and calls `look` with the time of whatever may have happened.
    pub(crate) fn run(&mut self, time: Duration, mut look: impl FnMut(Instant)) {
        let end = self.now + time;
        loop {
            let (at, goes_on) = (self.now, self.step(end));
            look(at);
            if !goes_on {
                return;
            }
        }
    }

    /// As [`Net`](super::common::net::Net) does it.
    fn step(&mut self, end: Instant) -> bool {
        let (mut busy, mut next) = (false, None::<Instant>);
        for shard in &mut self.shards {
            let turn = shard.turn(self.now).unwrap();
            busy |= turn.busy;
            next = next.into_iter().chain(turn.next).min();
        }
        for from in 0..self.ports.len() {
            busy |= self.flood(from);
        }
        if busy {
            return true;
        }
        let arrivals = self.links.iter().filter_map(SimLink::next_arrival);
        match arrivals.chain(next).min().filter(|at| *at < end) {
            Some(at) => {
                self.now = at.max(self.now + Duration::from_nanos(1));
                true
            }
            None => {
                self.now = end;
                false
            }
        }
    }

    /// What has come in at a port, if it is a beacon, goes out at all others.
    fn flood(&mut self, from: usize) -> bool {
        let mut frames = Vec::new();
        let (rx, _) = self.ports[from].split();
        let taken = rx.fill(self.now).unwrap();
        while let Some(frame) = rx.next() {
            // It checks frames as switches do, whose check sequence (FCS) the links do not have.
            if BeaconHeader::parse(&frame.bytes[14..]).is_ok() {
                frames.push(frame.bytes.to_vec());
            }
        }
        rx.release();
        for frame in &mut frames {
            frame[6..12].copy_from_slice(&Self::address(from).0);
        }
        for (_, port) in self.ports.iter_mut().enumerate().filter(|(to, _)| *to != from) {
            let (_, tx) = port.split();
            for frame in &frames {
                tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(frame))
                    .unwrap();
            }
            tx.flush(self.now).unwrap();
        }
        taken > 0
    }
}
