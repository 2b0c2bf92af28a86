use proptest::prelude::*;

use super::*;

/// An answer, built by hand so that it may be wrong.
struct Message(Vec<u8>);

const ALIAS: u16 = 5;
const SOA: u16 = 6;
const NXDOMAIN: u8 = 3;

impl Message {
    /// The right header and question for `query`, and no records.
    fn to(query: &Query) -> Self {
        let mut bytes = query.bytes().to_vec();
        bytes.truncate(bytes.len() - OPT.len());
        bytes[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
        Self(bytes)
    }

    fn set(mut self, at: usize, byte: u8) -> Self {
        self.0[at] = byte;
        self
    }

    /// Appends a record to the section whose count is at `count` of the header.
    fn record(mut self, count: usize, name: &str, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.0[count] += 1;
        self.0.extend(Name::parse(name).unwrap().to_wire(|| false));
        self.0.extend(kind.to_be_bytes());
        self.0.extend([0, 1]);
        self.0.extend(ttl.to_be_bytes());
        self.0.extend((data.len() as u16).to_be_bytes());
        self.0.extend(data);
        self
    }

    fn answer(self, name: &str, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(7, name, kind, ttl, data)
    }

    fn alias(self, name: &str, target: &str, ttl: u32) -> Self {
        let target = Name::parse(target).unwrap().to_wire(|| false);
        self.answer(name, ALIAS, ttl, &target)
    }

    fn soa(self, zone: &str, ttl: u32, minimum: u32) -> Self {
        let mut data = vec![0; 2 + 16];
        data.extend(minimum.to_be_bytes());
        self.record(9, zone, SOA, ttl, &data)
    }
}

fn query(name: &str) -> Query {
    let question = Question { name: Name::parse(name).unwrap(), kind: RecordType::A };
    Query::new(&question, true, &mut Random::Seeded(7))
}

fn records(reply: Reply) -> Vec<String> {
    match reply {
        Reply::Outcome(Outcome::Found(records)) => {
            records.iter().map(|r| format!("{} {} {:?}", r.name, r.ttl, r.data)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_query_asks_one_question_and_tells_what_fits() {
    let query = query("a.longer-name.example.test");
    let packet = DnsPacket::new_checked(query.bytes()).unwrap();
    assert_eq!((packet.question_count(), packet.additional_record_count()), (1, 1));
    assert_eq!(packet.flags(), DnsFlags::RECURSION_DESIRED);
    let (rest, question) = DnsQuestion::parse(packet.payload()).unwrap();
    assert_eq!(
        Name::from_labels(packet.parse_name(question.name)),
        Some(query.question.name.clone())
    );
    assert_eq!(rest, [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    assert!(question.name.iter().any(u8::is_ascii_uppercase));
    assert!(question.name.iter().any(u8::is_ascii_lowercase));
}

#[test]
fn only_the_answer_to_this_query_counts() {
    let query = query("host.test");
    let right = || Message::to(&query).answer("host.test", 1, 60, &[10, 0, 0, 9]).0;
    assert_eq!(records(query.check(&right())), ["host.test 60 A(10.0.0.9)"]);
    let wrong = |at: usize, xor: u8| {
        let mut message = right();
        message[at] ^= xor;
        query.check(&message)
    };
    for (at, xor, what) in [
        (0, 1, "identifier"),
        (1, 0x80, "identifier"),
        (2, 0x80, "a query, not a response"),
        (2, 0x10, "operation"),
        (5, 3, "count of questions"),
        (13, 1, "letter"),
        (24, 1, "type"),
        (26, 2, "class"),
    ] {
        assert_eq!(wrong(at, xor), Reply::Mismatch, "{what}");
    }
    assert_eq!(wrong(14, 0x20), Reply::OtherCase);
    // On a connection, case does not matter, and nothing else is forgiven.
    let mut message = right();
    message[14] ^= 0x20;
    assert!(matches!(query.check_stream(&message), Reply::Outcome(Outcome::Found(_))));
    message[0] ^= 1;
    assert!(matches!(query.check_stream(&message), Reply::Failure(_)));
}

#[test]
fn aliases_are_followed_and_strangers_are_not_believed() {
    let query = query("www.test");
    let message = Message::to(&query)
        .answer("c.test", 1, 30, &[10, 0, 0, 1])
        .answer("bank.test", 1, 99, &[6, 6, 6, 6])
        .alias("b.test", "c.test", 20)
        .alias("www.test", "b.test", 300)
        .answer("c.test", 28, 30, &[0; 16])
        .answer("c.test", 1, u32::MAX, &[10, 0, 0, 2]);
    assert_eq!(
        records(query.check(&message.0)),
        [
            "www.test 300 Cname(\"b.test\")",
            "b.test 20 Cname(\"c.test\")",
            "c.test 30 A(10.0.0.1)",
            "c.test 0 A(10.0.0.2)",
        ]
    );
    match query.check(&Message::to(&query).alias("www.test", "far.test", 60).0) {
        Reply::Outcome(Outcome::Alias(aliases, target)) => {
            assert_eq!((aliases.len(), target.to_string().as_str()), (1, "far.test"));
        }
        other => panic!("{other:?}"),
    }
    let circle =
        Message::to(&query).alias("www.test", "b.test", 60).alias("b.test", "www.test", 60);
    match query.check(&circle.0) {
        Reply::Outcome(Outcome::Alias(aliases, _)) => assert!(aliases.len() > MAX_ALIASES),
        other => panic!("{other:?}"),
    }
}

#[test]
fn absence_is_remembered_as_the_zone_says() {
    let query = query("no.example.test");
    let no_name = |message: Message| query.check(&message.set(3, 0x80 | NXDOMAIN).0);
    let outcome = Reply::Outcome;
    let soa = || Message::to(&query).soa("example.test", 300, 60);
    assert_eq!(no_name(soa()), outcome(Outcome::NoName(Some(60))));
    assert_eq!(query.check(&soa().0), outcome(Outcome::NoRecord(Some(60))));
    assert_eq!(no_name(Message::to(&query)), outcome(Outcome::NoName(None)));
    // A zone that the name is not in has no say.
    let other = Message::to(&query).soa("other.test", 300, 60);
    assert_eq!(no_name(other), outcome(Outcome::NoName(None)));
    let alias = soa().0;
    assert_eq!(query.check(&alias), outcome(Outcome::NoRecord(Some(60))));
}

#[test]
fn servers_that_cannot_answer_say_why() {
    let query = query("host.test");
    for (rcode, text) in [(1, "FORMERR"), (2, "SERVFAIL"), (5, "REFUSED"), (9, "code 9")] {
        match query.check(&Message::to(&query).set(3, 0x80 | rcode).0) {
            Reply::Failure(why) => assert!(why.contains(text), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(query.check(&Message::to(&query).set(2, 0x83).0), Reply::Truncated);
    let referral = Message::to(&query).set(3, 0).record(9, "test", 2, 60, &[0]);
    assert!(matches!(query.check(&referral.0), Reply::Failure(_)));
    let lying = Message::to(&query).set(7, 9);
    assert!(matches!(query.check(&lying.0), Reply::Failure(_)));
    let odd = Message::to(&query).answer("host.test", ALIAS, 60, b"\x03a b\0");
    assert!(matches!(query.check(&odd.0), Reply::Failure(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let query = query("host.test");
        let _ = query.check(&bytes);
        let _ = query.check_stream(&bytes);
        // With a header that lets them through to the records.
        let mut message = Message::to(&query).0;
        message.extend_from_slice(&bytes);
        for (count, byte) in [(7, 20), (9, 20)] {
            message[count] = byte;
        }
        let _ = query.check(&message);
    }

    #[test]
    fn no_damage_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        pointer in 0_u16..0x4000,
    ) {
        let query = query("www.test");
        let mut message = Message::to(&query)
            .alias("www.test", "b.test", 300)
            .answer("b.test", ALIAS, 60, &(0xc000 | pointer).to_be_bytes())
            .answer("c.test", 1, 30, &[10, 0, 0, 1])
            .soa("test", 1, 1)
            .0;
        let _ = query.check(&message);
        for (index, byte) in changes {
            // The identifier and question stay, so that the damage is seen.
            let at = 26 + index.index(message.len() - 26);
            message[at] = byte;
        }
        let _ = query.check(&message);
    }
}
