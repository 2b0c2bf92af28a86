//! Whatever bytes arrive: no panic, no memory beyond the limits, no harm to other peers.

use std::time::Duration;

use proptest::prelude::*;
use underpass_devices::Instant;
use underpass_protocols::courier::wire::{self, Kind, Tail};
use underpass_protocols::courier::{
    Config, Courier, DropReason, Event, Header, Hello, Limits, MessageHeader, Packet,
};

/// The address of the attacker, who knows the identifiers of sessions with it.
const ATTACKER: u8 = 66;
/// Someone else.
const FRIEND: u8 = 1;

const LIMITS: Limits = Limits {
    message_bytes: 5000,
    sessions: 6,
    strangers: 3,
    session_calls: 16,
    calls: 20,
    session_receive_bytes: 60_000,
    receive_bytes: 200_000,
    session_send_bytes: 20_000,
    send_bytes: 40_000,
    pool_bytes: 10_000,
    refusals: 5,
};

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Forged { kind: u8, to: usize, header: Forged, tail: (Small, Small, Small, Small), part: u16 },
    Mutated { which: usize, bit: usize },
    Ask(u16),
    Tell(u16),
    Answer,
    Wait(u32),
    Events(u8),
}

/// The fields of a header, near to what they should be.
#[derive(Clone, Debug)]
struct Forged {
    flags: u8,
    seq: Small,
    ack: Small,
    sack: u64,
    credit: Small,
    echo: u32,
}

/// A number that is small as a rule.
type Small = u32;

fn small() -> impl Strategy<Value = Small> {
    prop_oneof![6 => 0_u32..20, 2 => 0_u32..6000, 1 => any::<u32>(), 1 => (0_u32..70).prop_map(|n| 0_u32.wrapping_sub(n))]
}

fn forged() -> impl Strategy<Value = Forged> {
    (any::<u8>(), small(), small(), any::<u64>(), small(), any::<u32>()).prop_map(
        |(flags, seq, ack, sack, credit, echo)| Forged { flags, seq, ack, sack, credit, echo },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..100).prop_map(Step::Bytes),
        12 => (0_u8..9, 0_usize..4, forged(), (small(), small(), small(), small()), 0_u16..1500)
            .prop_map(|(kind, to, header, tail, part)| Step::Forged { kind, to, header, tail, part }),
        3 => (any::<usize>(), any::<usize>()).prop_map(|(which, bit)| Step::Mutated { which, bit }),
        2 => (0_u16..6000).prop_map(Step::Ask),
        1 => (0_u16..6000).prop_map(Step::Tell),
        2 => Just(Step::Answer),
        2 => (0_u32..200_000_000).prop_map(Step::Wait),
        2 => (0_u8..30).prop_map(Step::Events),
    ]
}

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

struct Field {
    now: Instant,
    victim: Courier<u8>,
    /// Identifiers that the victim has told the attacker.
    known: Vec<u64>,
    /// Packets that the victim has sent.
    sent: Vec<Vec<u8>>,
    calls: Vec<underpass_protocols::courier::Call>,
}

impl Field {
    fn new() -> Self {
        let config = Config { limits: LIMITS, ..Config::default() };
        Self {
            now: Instant::from_millis(1),
            victim: Courier::new(config, [9; 16]),
            known: vec![0],
            sent: Vec::new(),
            calls: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Bytes(bytes) => self.victim.on_packet(self.now, ATTACKER, &bytes),
            Step::Forged { kind, to, header, tail, part } => {
                self.forge(kind, to, &header, tail, part);
            }
            Step::Mutated { which, bit } => {
                if self.sent.is_empty() {
                    return;
                }
                let which = which % self.sent.len();
                let mut bytes = self.sent[which].clone();
                let bit = bit % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                self.victim.on_packet(self.now, ATTACKER, &bytes);
                let checksum = crc32c::crc32c(&bytes[4..]);
                bytes[..4].copy_from_slice(&checksum.to_be_bytes());
                self.victim.on_packet(self.now, ATTACKER, &bytes);
            }
            Step::Ask(len) => {
                let _ = self.victim.send_request(self.now, ATTACKER, vec![1; usize::from(len)]);
            }
            Step::Tell(len) => {
                let _ = self.victim.send(self.now, ATTACKER, vec![1; usize::from(len)]);
            }
            Step::Answer => {
                if let Some(call) = self.calls.pop() {
                    let _ = self.victim.respond(self.now, call, vec![2; 300]);
                }
            }
            Step::Wait(nanos) => self.now += Duration::from_nanos(u64::from(nanos)),
            Step::Events(count) => {
                for _ in 0..count {
                    let Some(event) = self.victim.poll_event() else { break };
                    if let Event::Request { call, .. } = event {
                        self.calls.push(call);
                    }
                }
            }
        }
        self.victim.on_timer(self.now);
        self.transmit();
        self.check();
    }

    fn forge(
        &mut self,
        kind: u8,
        to: usize,
        forged: &Forged,
        (slot, number, length, offset): (Small, Small, Small, Small),
        part: u16,
    ) {
        let kind = KINDS[usize::from(kind)];
        // Mostly the identifier heard last.
        let session = self.known[self.known.len().saturating_sub(1 + to)];
        let header = Header {
            flags: forged.flags,
            session: session.into(),
            seq: forged.seq.into(),
            ack: forged.ack.into(),
            sack: forged.sack.into(),
            credit: forged.credit.into(),
            echo: forged.echo.into(),
            ..Header::default()
        };
        let bytes = vec![3; usize::from(part)];
        let tail = match kind {
            Kind::Hello | Kind::Welcome => Tail::Hello(Hello {
                session: u64::from(slot).into(),
                message_bytes: length.into(),
                packet_bytes: 300_u16.wrapping_add(offset as u16).into(),
                calls: 8_u16.wrapping_add(number as u16).into(),
            }),
            Kind::Request | Kind::Response | Kind::Message => {
                // Often a whole body in one packet.
                let length = if length % 2 == 0 { u32::from(part) } else { length };
                let offset = if length == u32::from(part) { 0 } else { offset };
                Tail::Part(
                    MessageHeader {
                        slot: (slot as u16).into(),
                        number: number.into(),
                        length: length.into(),
                        offset: offset.into(),
                        ..MessageHeader::default()
                    },
                    &bytes,
                )
            }
            _ => Tail::None,
        };
        self.deliver(ATTACKER, kind, header, tail);
    }

    fn deliver(&mut self, from: u8, kind: Kind, header: Header, tail: Tail<'_>) {
        let packet = Packet::new((), kind, header, tail);
        let mut bytes = vec![0; packet.len()];
        assert!(packet.write(&mut bytes));
        self.victim.on_packet(self.now, from, &bytes);
    }

    fn transmit(&mut self) {
        let Self { now, victim, known, sent, .. } = self;
        victim.poll_transmit(*now, 1000, |packet| {
            let mut bytes = vec![0; packet.len()];
            assert!(packet.write(&mut bytes));
            let (_, _, tail) = wire::parse(&bytes).expect("our own packet");
            if let Tail::Hello(hello) = tail {
                known.push(hello.session.get());
            }
            sent.push(bytes);
            true
        });
        let old = sent.len().saturating_sub(50);
        sent.drain(..old);
    }

    fn check(&self) {
        let victim = &self.victim;
        assert!(victim.sessions() <= LIMITS.sessions);
        assert!(victim.receive_bytes() <= LIMITS.receive_bytes);
        assert!(victim.send_bytes() <= LIMITS.send_bytes);
        assert!(victim.pool_bytes() <= LIMITS.pool_bytes);
    }

    /// A friend is served in spite of all, and all memory comes back.
    fn end(mut self) {
        self.victim.abort(ATTACKER);
        self.now += Duration::from_secs(100);
        self.victim.on_timer(self.now);
        self.transmit();
        while self.victim.poll_event().is_some() {}
        assert_eq!(self.victim.sessions(), 0);
        assert_eq!((self.victim.receive_bytes(), self.victim.send_bytes()), (0, 0));
        let mut friend = Courier::new(Config::default(), [8; 16]);
        friend.send_request(self.now, 0, vec![5; 400]).unwrap();
        for _ in 0..20 {
            friend.poll_transmit(self.now, 10, |packet| {
                let mut bytes = vec![0; packet.len()];
                assert!(packet.write(&mut bytes));
                self.victim.on_packet(self.now, FRIEND, &bytes);
                true
            });
            if let Some(Event::Request { from, body, .. }) = self.victim.poll_event() {
                assert_eq!((from, body), (FRIEND, vec![5; 400]));
                return;
            }
            self.victim.poll_transmit(self.now, 10, |packet| {
                let mut bytes = vec![0; packet.len()];
                assert!(packet.write(&mut bytes));
                friend.on_packet(self.now, 0, &bytes);
                true
            });
        }
        panic!("the friend was not served");
    }
}

proptest! {
    // Failures are printed with their steps.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_attacker_who_speaks_the_protocol(steps in proptest::collection::vec(step(), 1..150)) {
        let mut field = Field::new();
        for step in steps {
            field.step(step);
        }
        field.end();
    }

    #[test]
    fn random_bytes_are_no_packet(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut station = Courier::new(Config::default(), [7; 16]);
        station.on_packet(Instant::ZERO, 0_u8, &bytes);
        let counters = station.counters();
        let dropped = counters.dropped(DropReason::Short) + counters.dropped(DropReason::Checksum);
        prop_assert_eq!((dropped, station.sessions()), (1, 0));
    }

    #[test]
    fn what_is_written_is_read(
        kind in 2_usize..5, seq: u32, ack: u32, sack: u64, credit: u32, session: u64, length: u32,
        offset: u32, part in proptest::collection::vec(any::<u8>(), 0..1400), padding in 0_usize..60,
    ) {
        let header = Header {
            seq: seq.into(),
            ack: ack.into(),
            sack: sack.into(),
            credit: credit.into(),
            session: session.into(),
            ..Header::default()
        };
        let message = MessageHeader {
            length: length.into(),
            offset: offset.into(),
            ..MessageHeader::default()
        };
        let packet = Packet::new((), KINDS[kind], header, Tail::Part(message, &part));
        let mut bytes = vec![0xee; packet.len() + padding];
        prop_assert!(packet.write(&mut bytes));
        let (read, read_kind, tail) = wire::parse(&bytes).unwrap();
        prop_assert_eq!(read_kind, KINDS[kind]);
        prop_assert_eq!(tail, Tail::Part(message, &part));
        let expected = Header { checksum: read.checksum, kind: read.kind, len: read.len, ..header };
        prop_assert_eq!(*read, expected);
        prop_assert!(!packet.write(&mut bytes[..packet.len() - 1]));
    }
}

/// Hellos from many addresses are forgotten, the oldest first, and cost no more than they may.
#[test]
fn a_flood_of_hellos_is_bounded() {
    let config = Config { limits: LIMITS, ..Config::default() };
    let mut victim = Courier::new(config, [9; 16]);
    for address in 0..10_000_u32 {
        let mut stranger = Courier::new(config, [1; 16]);
        stranger.send(Instant::ZERO, 0_u32, vec![]).unwrap();
        stranger.poll_transmit(Instant::ZERO, 1, |packet| {
            let mut bytes = vec![0; packet.len()];
            assert!(packet.write(&mut bytes));
            victim.on_packet(Instant::ZERO, address, &bytes);
            true
        });
        assert!(victim.sessions() <= LIMITS.strangers);
    }
    let counters = victim.counters();
    assert_eq!(counters.forgotten, 10_000 - LIMITS.strangers as u64);
    // Refusals of packets that no session is known for wait to be sent, a few of them.
    for number in 0..100 {
        let header = Header { session: u64::MAX.into(), ..Header::default() };
        let part = Tail::Part(MessageHeader::default(), &[]);
        let packet = Packet::new(number, Kind::Request, header, part);
        let mut bytes = vec![0; packet.len()];
        assert!(packet.write(&mut bytes));
        victim.on_packet(Instant::ZERO, number, &bytes);
    }
    let counters = victim.counters();
    assert_eq!(counters.unrefused, 100 - LIMITS.refusals as u64);
    assert_eq!(counters.dropped(DropReason::Stranger), 100);
}

/// A session of the attacker's, open, and its identifier.
fn opened(field: &mut Field) -> u64 {
    let hello = Hello {
        session: 77.into(),
        message_bytes: 5000.into(),
        packet_bytes: 1400.into(),
        calls: 16.into(),
    };
    field.deliver(ATTACKER, Kind::Hello, Header::default(), Tail::Hello(hello));
    field.transmit();
    let session = *field.known.last().unwrap();
    let header = Header { session: session.into(), ..Header::default() };
    field.deliver(ATTACKER, Kind::Ack, header, Tail::None);
    assert_eq!(field.victim.counters().opened, 1);
    session
}

fn whole(slot: u16, number: u32, body: &[u8]) -> Tail<'_> {
    let message = MessageHeader {
        slot: slot.into(),
        number: number.into(),
        length: (body.len() as u32).into(),
        ..MessageHeader::default()
    };
    Tail::Part(message, body)
}

#[test]
fn who_ignores_credit_loses_the_session() {
    let mut field = Field::new();
    let session = opened(&mut field);
    let mut sent = 0;
    while field.victim.counters().dropped(DropReason::Violation) == 0 {
        let header = Header { session: session.into(), seq: sent.into(), ..Header::default() };
        field.deliver(ATTACKER, Kind::Message, header, whole(0, sent, &[1; 5000]));
        sent += 1;
    }
    // A body of 5000 bytes takes 32 cells; there were 32 and 64.
    assert_eq!(sent, 4);
    assert_eq!(field.victim.sessions(), 0);
    assert_eq!(field.victim.receive_bytes(), 3 * 32 * 256);
    for _ in 0..3 {
        assert!(matches!(field.victim.poll_event(), Some(Event::Message { .. })));
    }
    assert_eq!((field.victim.poll_event(), field.victim.receive_bytes()), (None, 0));
}

#[test]
fn a_request_that_has_run_does_not_run_again() {
    for answered in [false, true] {
        let mut field = Field::new();
        let session = opened(&mut field);
        let header =
            |seq: u32| Header { session: session.into(), seq: seq.into(), ..Header::default() };
        field.deliver(ATTACKER, Kind::Request, header(0), whole(3, 1, b"once"));
        let Some(Event::Request { call, body, .. }) = field.victim.poll_event() else { panic!() };
        if answered {
            field.victim.respond(field.now, call, body).unwrap();
        }
        // The packet again, and then the request in a packet of another number.
        field.deliver(ATTACKER, Kind::Request, header(0), whole(3, 1, b"once"));
        assert_eq!(field.victim.counters().dropped(DropReason::Duplicate), 1);
        field.deliver(ATTACKER, Kind::Request, header(1), whole(3, 1, b"once"));
        assert_eq!(field.victim.counters().dropped(DropReason::Violation), 1);
        assert_eq!(field.victim.poll_event(), None);
    }
}

#[test]
fn a_packet_from_another_address_belongs_to_no_session() {
    let mut field = Field::new();
    let session = opened(&mut field);
    let header = Header { session: session.into(), ..Header::default() };
    for kind in [Kind::Message, Kind::Close, Kind::Reset] {
        let tail = if kind == Kind::Message { whole(0, 0, b"not mine") } else { Tail::None };
        field.deliver(FRIEND, kind, header, tail);
    }
    assert_eq!(field.victim.counters().dropped(DropReason::Stranger), 3);
    assert_eq!((field.victim.poll_event(), field.victim.sessions()), (None, 1));
}
