//! Any bytes as the answer of a DNS server: whatever is believed follows from the name asked for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use underpass::fuzzing::{DnsQuery, DnsVerdict};
use underpass::{Record, RecordData, RecordType};

const NAME: &str = "www.example.com";
/// Bytes of the header, and of the question with its type and class.
const HEADER_LEN: usize = 12;
const QUESTION_LEN: usize = 17 + 4;

fn check_name(name: &str) {
    assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
    assert!(name.split('.').all(|label| (1..=63).contains(&label.len())), "{name:?}");
    assert!(name.is_ascii() && !name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name:?}");
}

/// Aliases lead from the name to the last one; that is returned.
fn follow(records: &[Record]) -> String {
    let mut name = NAME.to_owned();
    for record in records {
        assert_eq!(record.name, name);
        assert!(i32::try_from(record.ttl).is_ok());
        if let RecordData::Cname(target) = &record.data {
            check_name(target);
            name.clone_from(target);
        }
    }
    name
}

fn check(verdict: &DnsVerdict, kind: RecordType) {
    match verdict {
        DnsVerdict::Found(records) => {
            follow(records);
            let last = records.last().unwrap();
            let is_asked = match kind {
                RecordType::A => matches!(last.data, RecordData::A(_)),
                RecordType::Aaaa => matches!(last.data, RecordData::Aaaa(_)),
            };
            assert!(is_asked, "{last:?}");
        }
        DnsVerdict::Alias(records, name) => {
            assert!(!records.is_empty() && records.len() <= 9);
            assert_eq!(follow(records), *name);
        }
        DnsVerdict::Failure(why) => assert!(!why.is_empty()),
        DnsVerdict::Absent(ttl) => assert!(ttl.is_none_or(|ttl| i32::try_from(ttl).is_ok())),
        DnsVerdict::Mismatch | DnsVerdict::OtherCase | DnsVerdict::Truncated => {}
    }
}

fuzz_target!(|input: &[u8]| {
    for kind in [RecordType::A, RecordType::Aaaa] {
        let query = DnsQuery::new(NAME, kind, 1).unwrap();
        check(&query.check(input), kind);
        // The same with our identifier and our question, as an answer has them.
        let mut message = input.to_vec();
        if message.len() >= HEADER_LEN + QUESTION_LEN {
            message[..2].copy_from_slice(&query.bytes()[..2]);
            message[2] |= 0x80;
            let question = HEADER_LEN..HEADER_LEN + QUESTION_LEN;
            message[question.clone()].copy_from_slice(&query.bytes()[question]);
            message[4..6].copy_from_slice(&[0, 1]);
            check(&query.check(&message), kind);
            check(&query.check_stream(&message), kind);
        }
    }
});
