//! Stations on a simulated network, in virtual time and from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use underpass_devices::Instant;
use underpass_protocols::courier::{Config, Courier, Event};

/// Addresses are places in [`World::stations`].
pub(crate) type Address = usize;

/// What the network does to packets; probabilities are per packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    /// Up to this much more.
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    /// Held back for up to ten times the delay.
    pub(crate) reorder: f64,
    /// Each station receives so many bits per second, through a queue of so many bytes.
    pub(crate) bottleneck: Option<(u64, u64)>,
}

impl Link {
    pub(crate) const PERFECT: Self = Self {
        delay: Duration::from_micros(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicate: 0.0,
        corrupt: 0.0,
        reorder: 0.0,
        bottleneck: None,
    };
    pub(crate) const BAD: Self = Self {
        delay: Duration::from_micros(10),
        jitter: Duration::from_micros(3),
        loss: 0.05,
        duplicate: 0.02,
        corrupt: 0.02,
        reorder: 0.05,
        bottleneck: None,
    };
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) link: Link,
    pub(crate) stations: Vec<Courier<Address>>,
    pub(crate) rng: ChaCha8Rng,
    /// Says the seed if the test fails while this lives.
    _seed: SeedPrinter,
    flying: BinaryHeap<Reverse<(Instant, u64, Address, Address)>>,
    packets: Vec<Option<Vec<u8>>>,
    free: Vec<usize>,
    /// When the bottleneck of each station will be idle.
    idle_at: Vec<Instant>,
}

struct SeedPrinter(u64);

impl Drop for SeedPrinter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64, stations: usize, link: Link, config: Config) -> Self {
        let idle_at = vec![Instant::ZERO; stations];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let stations = (0..stations).map(|_| Courier::new(config, rng.random())).collect();
        Self {
            now: Instant::from_millis(1),
            link,
            stations,
            rng,
            _seed: SeedPrinter(seed),
            flying: BinaryHeap::new(),
            packets: Vec::new(),
            free: Vec::new(),
            idle_at,
        }
    }

    /// Begins a new life of the station.
    pub(crate) fn restart(&mut self, station: Address, config: Config) {
        self.stations[station] = Courier::new(config, self.rng.random());
    }

    /// Sends what stations have to send, then lets time pass until something happens. False: nothing
    /// will ever happen.
    pub(crate) fn step(&mut self) -> bool {
        self.step_until(Instant::MAX)
    }

    /// Steps until this time.
    pub(crate) fn run_until(&mut self, end: Instant) {
        while self.step_until(end) {}
        self.now = end;
    }

    /// The same as [`step`](Self::step) if something happens until `end`.
    fn step_until(&mut self, end: Instant) -> bool {
        self.transmit();
        let timers = self.stations.iter().filter_map(Courier::next_timer).min();
        let arrival = self.flying.peek().map(|Reverse((at, ..))| *at);
        let next = timers.into_iter().chain(arrival).min();
        let Some(next) = next.filter(|next| *next <= end) else { return false };
        self.now = self.now.max(next);
        self.arrive();
        for station in &mut self.stations {
            station.on_timer(self.now);
        }
        true
    }

    fn arrive(&mut self) {
        while let Some(Reverse((at, packet, from, to))) = self.flying.peek().copied() {
            if at > self.now {
                break;
            }
            self.flying.pop();
            let place = (packet & 0xffff_ffff) as usize;
            if let Some(bytes) = self.packets[place].take() {
                self.stations[to].on_packet(self.now, from, &bytes);
                self.free.push(place);
            }
        }
    }

    pub(crate) fn event(&mut self, station: Address) -> Option<Event<Address>> {
        self.stations[station].poll_event()
    }

    /// Steps until this station has an event.
    pub(crate) fn wait(&mut self, station: Address) -> Event<Address> {
        loop {
            if let Some(event) = self.event(station) {
                return event;
            }
            assert!(self.step(), "nothing will ever happen");
        }
    }

    /// Puts a packet on the network.
    pub(crate) fn inject(&mut self, from: Address, to: Address, bytes: Vec<u8>, after: Duration) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.packets.push(None);
            self.packets.len() - 1
        });
        self.packets[place] = Some(bytes);
        let order = u64::from(self.rng.random::<u32>());
        let at = self.now + after;
        // Packets of one time arrive in any order if the link reorders, and in order otherwise.
        let order = if self.link.reorder > 0.0 {
            order
        } else {
            self.stations[from].counters().sent_packets
        };
        self.flying.push(Reverse((at, order << 32 | place as u64, from, to)));
    }

    pub(crate) fn transmit(&mut self) {
        for from in 0..self.stations.len() {
            loop {
                let mut sent = Vec::new();
                self.stations[from].poll_transmit(self.now, 1, |packet| {
                    let mut slot = vec![0; packet.len()];
                    assert!(packet.write(&mut slot));
                    sent.push((packet.to, slot));
                    true
                });
                let Some((to, bytes)) = sent.pop() else { break };
                self.carry(from, to, &bytes);
            }
        }
    }

    fn carry(&mut self, from: Address, to: Address, bytes: &[u8]) {
        let copies = if self.chance(self.link.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance(self.link.loss) {
                continue;
            }
            let mut bytes = bytes.to_vec();
            if self.chance(self.link.corrupt) {
                let bit = self.rng.random_range(0..bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let Some(queued) = self.queue(to, bytes.len()) else { continue };
            let mut after = self.link.delay + queued;
            if self.link.jitter > Duration::ZERO {
                after += self.link.jitter.mul_f64(self.rng.random::<f64>());
            }
            if self.chance(self.link.reorder) {
                after += self.link.delay.mul_f64(10.0 * self.rng.random::<f64>());
            }
            self.inject(from, to, bytes, after);
        }
    }

    /// How long the packet takes through the bottleneck; `None`: its queue is full.
    fn queue(&mut self, to: Address, len: usize) -> Option<Duration> {
        let Some((rate, queue_bytes)) = self.link.bottleneck else { return Some(Duration::ZERO) };
        let time = |bytes: u64| Duration::from_nanos(bytes * 8 * 1_000_000_000 / rate);
        let idle_at = self.idle_at[to].max(self.now);
        if idle_at.since(self.now) > time(queue_bytes) {
            return None;
        }
        // Preamble, Ethernet header, checksum and gap.
        self.idle_at[to] = idle_at + time(len as u64 + 38);
        Some(self.idle_at[to].since(self.now))
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability)
    }
}
