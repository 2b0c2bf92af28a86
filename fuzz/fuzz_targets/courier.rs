//! Two stations of courier that talk over a link which the input rules, while a stranger sends to both
//! what it likes, with correct checksums. Between the two, requests run at most once and end exactly once,
//! messages arrive in order and unchanged; every limit holds; and in the end all memory is free.

#![no_main]

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass_devices::Instant;
use underpass_protocols::courier::wire::{self, Kind, Tail};
use underpass_protocols::courier::{
    Call as Request, Config, Courier, Event, Header, Hello, Limits, MessageHeader, Packet,
    RequestId,
};

#[derive(Arbitrary, Debug)]
enum Call {
    Ask(bool, u16),
    Tell(bool, u16),
    Answer(bool),
    Events(bool, u8),
    Wait(u16),
    /// Packets on the link: the next one arrives, is lost, comes again later, or has bits flipped.
    Arrive(bool),
    Lose(bool),
    Repeat(bool),
    Delay(bool),
    Damage(bool, u16),
    /// Of the stranger.
    Bytes(bool, Vec<u8>),
    Forged(bool, Forged),
    /// What it has overheard, as its own.
    Overheard(bool, u8),
}

#[derive(Arbitrary, Debug)]
struct Forged {
    kind: u8,
    flags: u8,
    /// One of the identifiers that the station has chosen for the stranger.
    session: u8,
    seq: u8,
    ack: u8,
    sack: u64,
    credit: u16,
    slot: u8,
    number: u8,
    length: u16,
    offset: u16,
    part: u8,
}

const CALLS: usize = 150;
const STRANGER: usize = 2;
const KINDS: [Kind; 9] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Request,
    Kind::Response,
    Kind::Message,
    Kind::Ack,
    Kind::Ping,
    Kind::Reset,
    Kind::Close,
];
const LIMITS: Limits = Limits {
    message_bytes: 3000,
    sessions: 6,
    strangers: 2,
    session_calls: 8,
    calls: 10,
    session_receive_bytes: 60_000,
    receive_bytes: 250_000,
    session_send_bytes: 20_000,
    send_bytes: 40_000,
    pool_bytes: 10_000,
    refusals: 5,
};

/// A station, and what its application knows.
struct Station {
    courier: Courier<usize>,
    /// Packets on their way to it.
    coming: VecDeque<Vec<u8>>,
    asked: HashMap<RequestId, u64>,
    /// Numbers of bodies of the other station that have been given to it.
    served: HashSet<u64>,
    /// The last message from the other station, and the first one that it may send next.
    heard: u64,
    calls: Vec<Request>,
}

struct World {
    now: Instant,
    stations: [Station; 2],
    /// Numbers of bodies.
    next: u64,
    /// The identifiers under which the stations know the stranger.
    known: Vec<u64>,
    overheard: Vec<Vec<u8>>,
}

/// A body that says who has sent it, and its number.
fn body(from: usize, number: u64, len: u16) -> Vec<u8> {
    let mut body = vec![from as u8; 16 + usize::from(len) % 3000];
    body.truncate(LIMITS.message_bytes);
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

fn number(from: usize, body: &[u8]) -> u64 {
    let (number, rest) = body.split_first_chunk().expect("our own body");
    assert!(rest.iter().all(|byte| usize::from(*byte) == from), "a body has changed");
    u64::from_be_bytes(*number)
}

impl World {
    fn new() -> Self {
        let station = |secret| Station {
            courier: Courier::new(Config { limits: LIMITS, ..Config::default() }, [secret; 16]),
            coming: VecDeque::new(),
            asked: HashMap::new(),
            served: HashSet::new(),
            heard: 0,
            calls: Vec::new(),
        };
        Self {
            now: Instant::from_millis(1),
            stations: [station(1), station(2)],
            next: 1,
            known: vec![0],
            overheard: Vec::new(),
        }
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Ask(at, len) => {
                let (at, number) = (usize::from(at), self.next);
                self.next += 1;
                let Station { courier, asked, .. } = &mut self.stations[at];
                if let Ok(id) = courier.send_request(self.now, 1 - at, body(at, number, len)) {
                    assert!(asked.insert(id, number).is_none(), "an id was used again");
                }
            }
            Call::Tell(at, len) => {
                let (at, number) = (usize::from(at), self.next);
                self.next += 1;
                let _ = self.stations[at].courier.send(self.now, 1 - at, body(at, number, len));
            }
            Call::Answer(at) => self.answer(at.into()),
            Call::Events(at, count) => {
                for _ in 0..count {
                    self.event(at.into());
                }
            }
            Call::Wait(micros) => self.now += Duration::from_micros(micros.into()),
            Call::Arrive(at) => self.arrive(at.into()),
            Call::Lose(at) => drop(self.stations[usize::from(at)].coming.pop_front()),
            Call::Repeat(at) => {
                let coming = &mut self.stations[usize::from(at)].coming;
                if coming.len() < 50 {
                    coming.extend(coming.front().cloned());
                }
            }
            Call::Delay(at) => {
                let coming = &mut self.stations[usize::from(at)].coming;
                let delayed = coming.pop_front();
                coming.extend(delayed);
            }
            Call::Damage(at, bit) => {
                if let Some(packet) = self.stations[usize::from(at)].coming.front_mut() {
                    let bit = usize::from(bit) % (packet.len() * 8);
                    packet[bit / 8] ^= 1 << (bit % 8);
                }
            }
            Call::Bytes(to, bytes) => self.stranger(to.into(), &bytes),
            Call::Forged(to, forged) => self.forge(to.into(), &forged),
            Call::Overheard(to, which) => {
                let which = usize::from(which) % self.overheard.len().max(1);
                if let Some(packet) = self.overheard.get(which).cloned() {
                    self.stranger(to.into(), &packet);
                }
            }
        }
        self.turn();
    }

    fn stranger(&mut self, to: usize, packet: &[u8]) {
        self.stations[to].courier.on_packet(self.now, STRANGER, packet);
    }

    fn forge(&mut self, to: usize, forged: &Forged) {
        let kind = KINDS[usize::from(forged.kind) % KINDS.len()];
        let header = Header {
            flags: forged.flags,
            session: self.known[usize::from(forged.session) % self.known.len()].into(),
            seq: u32::from(forged.seq).into(),
            ack: u32::from(forged.ack).into(),
            sack: forged.sack.into(),
            credit: u32::from(forged.credit).into(),
            ..Header::default()
        };
        let part = vec![STRANGER as u8; forged.part.into()];
        let tail = match kind {
            Kind::Hello | Kind::Welcome => Tail::Hello(Hello {
                session: u64::from(forged.slot).into(),
                message_bytes: u32::from(forged.length).into(),
                packet_bytes: forged.offset.into(),
                calls: u16::from(forged.number).into(),
            }),
            Kind::Request | Kind::Response | Kind::Message => Tail::Part(
                MessageHeader {
                    slot: u16::from(forged.slot % 16).into(),
                    number: u32::from(forged.number).into(),
                    length: u32::from(forged.length).into(),
                    offset: u32::from(forged.offset).into(),
                    ..MessageHeader::default()
                },
                &part,
            ),
            _ => Tail::None,
        };
        let packet = Packet::new((), kind, header, tail);
        let mut bytes = vec![0; packet.len()];
        assert!(packet.write(&mut bytes));
        self.stranger(to, &bytes);
    }

    fn answer(&mut self, at: usize) {
        let Station { courier, calls, .. } = &mut self.stations[at];
        if let Some(call) = calls.pop()
            && let Err(refused) = courier.respond(self.now, call, vec![at as u8; 40])
        {
            drop(refused);
        }
    }

    fn arrive(&mut self, at: usize) {
        let Station { courier, coming, .. } = &mut self.stations[at];
        if let Some(packet) = coming.pop_front() {
            courier.on_packet(self.now, 1 - at, &packet);
        }
    }

    fn event(&mut self, at: usize) -> Option<()> {
        let station = &mut self.stations[at];
        match station.courier.poll_event()? {
            Event::Request { from, call, body } => {
                if from != STRANGER {
                    assert!(station.served.insert(number(from, &body)), "a request ran twice");
                }
                station.calls.push(call);
            }
            Event::Message { from, body } => {
                if from != STRANGER {
                    let number = number(from, &body);
                    assert!(number > station.heard, "a message came again, or out of order");
                    station.heard = number;
                }
            }
            Event::Response { id, body } => {
                assert!(station.asked.remove(&id).is_some(), "nobody has asked");
                assert_eq!(body, vec![1 - at as u8; 40]);
            }
            Event::Failed { id, may_have_run, .. } => {
                let number = station.asked.remove(&id).expect("somebody has asked");
                let has_run = self.stations[1 - at].served.contains(&number);
                assert!(may_have_run || !has_run, "it has run");
            }
            Event::Ended { peer, .. } => assert_eq!(peer, 1 - at),
        }
        Some(())
    }

    /// Packets leave; every limit holds.
    fn turn(&mut self) {
        for at in 0..2 {
            let mut sent = Vec::new();
            let courier = &mut self.stations[at].courier;
            courier.on_timer(self.now);
            courier.poll_transmit(self.now, 64, |packet| {
                let mut bytes = vec![0; packet.len()];
                assert!(packet.write(&mut bytes));
                sent.push((packet.to, bytes));
                true
            });
            assert!(courier.sessions() <= LIMITS.sessions);
            assert!(courier.receive_bytes() <= LIMITS.receive_bytes);
            assert!(courier.send_bytes() <= LIMITS.send_bytes);
            assert!(courier.pool_bytes() <= LIMITS.pool_bytes);
            for (to, bytes) in sent {
                let (_, _, tail) = wire::parse(&bytes).expect("our own packet");
                if to == STRANGER {
                    if let Tail::Hello(hello) = tail {
                        self.known.push(hello.session.get());
                    }
                } else {
                    if self.overheard.len() < 50 {
                        self.overheard.push(bytes.clone());
                    }
                    self.stations[1 - at].coming.push_back(bytes);
                }
            }
        }
    }

    /// A perfect link, for long enough: everything that was asked has ended.
    fn end(mut self) {
        for _ in 0..5000 {
            for at in 0..2 {
                while !self.stations[at].coming.is_empty() {
                    self.arrive(at);
                }
                while self.event(at).is_some() {}
                while !self.stations[at].calls.is_empty() {
                    self.answer(at);
                }
            }
            self.turn();
            if self.stations.iter().any(|station| !station.coming.is_empty()) {
                continue;
            }
            let timers = self.stations.iter().filter_map(|station| station.courier.next_timer());
            let Some(next) = timers.min() else { break };
            self.now = self.now.max(next);
            self.turn();
        }
        for station in &mut self.stations {
            assert!(station.asked.is_empty(), "a request has not ended");
            let courier = &mut station.courier;
            for peer in 0..=STRANGER {
                courier.abort(peer);
            }
            while courier.poll_event().is_some() {}
            assert_eq!(courier.sessions(), 0);
            assert_eq!((courier.receive_bytes(), courier.send_bytes()), (0, 0));
        }
    }
}

fuzz_target!(|calls: Vec<Call>| {
    let mut world = World::new();
    for call in calls.into_iter().take(CALLS) {
        world.call(call);
    }
    world.end();
});
