//! Questions and answers as they are on the wire (RFC 1035 §4). Parsing is smoltcp's; what may be
//! believed is decided here.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData,
    DnsRepr,
};

use super::name::Name;
use crate::random::Random;

/// Largest datagram we take, which no usual path fragments (RFC 6891 §6.2.5, DNS flag day 2020).
pub(crate) const MAX_UDP: usize = 1232;
/// Aliases one after the other.
pub(crate) const MAX_ALIASES: usize = 8;
/// An OPT record (RFC 6891 §6.1.2) that says [`MAX_UDP`].
const OPT: [u8; 11] = [0, 0, 41, (MAX_UDP >> 8) as u8, MAX_UDP as u8, 0, 0, 0, 0, 0, 0];
/// The count of additional records in the header.
const ARCOUNT: std::ops::Range<usize> = 10..12;

/// Which kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordType {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is, in lower case, without a final dot.
    pub name: String,
    /// Seconds for which it is valid.
    pub ttl: u32,
    /// What it says.
    pub data: RecordData,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name is an alias of this one.
    Cname(String),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
}

/// One message to a server.
#[derive(Debug)]
pub(crate) struct Query {
    id: u16,
    question: Question,
    /// The name as it is spelled in this query.
    spelled: Vec<u8>,
    bytes: Vec<u8>,
}

/// What a message is to a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Not its answer: forged, late, or garbage.
    Mismatch,
    /// Its answer, but for the case of letters.
    OtherCase,
    /// Its answer does not fit into a datagram.
    Truncated,
    /// The server cannot answer; why, as the end of a sentence about it.
    Failure(String),
    /// Its answer.
    Outcome(Outcome),
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Aliases, then what was asked for.
    Found(Vec<Record>),
    /// Aliases only: the last one is to be asked for.
    Alias(Vec<Record>, Name),
    /// There is no such name; valid for this many seconds if the server says so.
    NoName(Option<u32>),
    /// The name has no such record; likewise.
    NoRecord(Option<u32>),
}

impl Query {
    /// A question with a random identifier; with letters in random case, if wanted.
    pub(crate) fn new(question: &Question, mix_case: bool, random: &mut Random) -> Self {
        let id = random.u16();
        let mut bits = 0_u64;
        let mut left = 0_u32;
        let spelled = question.name.to_wire(|| {
            if left == 0 {
                (bits, left) = (random.u64(), u64::BITS);
            }
            left -= 1;
            mix_case && bits >> left & 1 == 1
        });
        let repr = DnsRepr {
            transaction_id: id,
            opcode: DnsOpcode::Query,
            flags: DnsFlags::RECURSION_DESIRED,
            question: DnsQuestion { name: &spelled, type_: question.kind.into() },
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DnsPacket::new_unchecked(bytes.as_mut_slice()));
        bytes[ARCOUNT].copy_from_slice(&1_u16.to_be_bytes());
        bytes.extend_from_slice(&OPT);
        Self { id, question: question.clone(), spelled, bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Judges a message that came from the server and port that were asked, to the port that asked
    /// (RFC 5452 §9.1): it counts only with our identifier and our question.
    pub(crate) fn check(&self, message: &[u8]) -> Reply {
        let Ok(packet) = DnsPacket::new_checked(message) else {
            return Reply::Mismatch;
        };
        let answers_ours = packet.transaction_id() == self.id
            && packet.flags().contains(DnsFlags::RESPONSE)
            && packet.opcode() == DnsOpcode::Query
            && packet.question_count() == 1;
        let Ok((records, question)) = DnsQuestion::parse(packet.payload()) else {
            return Reply::Mismatch;
        };
        if !answers_ours || question.type_ != self.question.kind.into() {
            return Reply::Mismatch;
        }
        // A question stands first: there is nothing before it to point to.
        if question.name != self.spelled {
            let same = question.name.eq_ignore_ascii_case(&self.spelled);
            return if same { Reply::OtherCase } else { Reply::Mismatch };
        }
        self.read(&packet, records)
    }

    /// The same for a message on a connection, which nobody else writes to: case does not matter.
    pub(crate) fn check_stream(&self, message: &[u8]) -> Reply {
        let mut message = message.to_vec();
        if let Some(name) = message.get_mut(12..12 + self.spelled.len())
            && name.eq_ignore_ascii_case(&self.spelled)
        {
            name.copy_from_slice(&self.spelled);
        }
        match self.check(&message) {
            Reply::Mismatch | Reply::OtherCase => {
                Reply::Failure("answered another question".to_owned())
            }
            Reply::Truncated => Reply::Failure("truncated its answer over TCP".to_owned()),
            reply => reply,
        }
    }

    fn read(&self, packet: &DnsPacket<&[u8]>, records: &[u8]) -> Reply {
        if packet.flags().contains(DnsFlags::TRUNCATED) {
            return Reply::Truncated;
        }
        let rcode = packet.rcode();
        if !matches!(rcode, DnsRcode::NoError | DnsRcode::NXDomain) {
            return Reply::Failure(format!("answered {}", rcode_name(rcode)));
        }
        let Some(sections) = Sections::parse(packet, records) else {
            return Reply::Failure("sent a malformed answer".to_owned());
        };
        sections.answer(&self.question, packet)
    }
}

/// The records that matter.
struct Sections<'a> {
    answers: Vec<(Name, DnsRecord<'a>)>,
    /// The zone that says there is nothing, and for how many seconds (RFC 2308 §5).
    soa: Option<(String, u32)>,
    /// The server names others to ask.
    refers: bool,
}

impl<'a> Sections<'a> {
    fn parse(packet: &DnsPacket<&[u8]>, mut rest: &'a [u8]) -> Option<Self> {
        let mut sections = Self { answers: Vec::new(), soa: None, refers: false };
        for _ in 0..packet.answer_record_count() {
            let (next, record) = DnsRecord::parse(rest).ok()?;
            rest = next;
            // Records of names that no host has answer no question of ours.
            if let Some(name) = Name::from_labels(packet.parse_name(record.name)) {
                sections.answers.push((name, record));
            }
        }
        for _ in 0..packet.authority_record_count() {
            let (next, record) = DnsRecord::parse(rest).ok()?;
            rest = next;
            match record.data {
                DnsRecordData::Other(DnsQueryType::Soa, data) => {
                    // MINIMUM is the last field.
                    let minimum = u32::from_be_bytes(*data.last_chunk()?);
                    let zone = match record.name {
                        [0] => Some(String::new()),
                        name => Name::from_labels(packet.parse_name(name)).map(|n| n.to_string()),
                    };
                    let ttl = seconds(record.ttl).min(seconds(minimum));
                    sections.soa = zone.map(|zone| (zone, ttl));
                }
                DnsRecordData::Other(DnsQueryType::Ns, _) => sections.refers = true,
                _ => {}
            }
        }
        Some(sections)
    }

    /// Follows aliases from the name asked for; records of other names are not believed.
    fn answer(&self, question: &Question, packet: &DnsPacket<&[u8]>) -> Reply {
        let mut records = Vec::new();
        let mut name = question.name.clone();
        loop {
            let mut own = self.answers.iter().filter(|(owner, _)| *owner == name);
            let before = records.len();
            records.extend(own.clone().filter_map(|(_, record)| {
                let data = question.kind.address(&record.data)?;
                Some(Record { name: name.to_string(), ttl: seconds(record.ttl), data })
            }));
            if records.len() > before {
                return Reply::Outcome(Outcome::Found(records));
            }
            let alias = own.find_map(|(_, record)| match record.data {
                DnsRecordData::Cname(target) => Some((record.ttl, target)),
                _ => None,
            });
            let Some((ttl, target)) = alias else {
                break;
            };
            let Some(target) = Name::from_labels(packet.parse_name(target)) else {
                return Reply::Failure(format!("gave {name} an alias that no host can have"));
            };
            let data = RecordData::Cname(target.to_string());
            records.push(Record { name: name.to_string(), ttl: seconds(ttl), data });
            if records.len() > MAX_ALIASES {
                return Reply::Outcome(Outcome::Alias(records, target));
            }
            name = target;
        }
        let soa = self.soa.as_ref().filter(|(zone, _)| name.is_within(zone));
        let aliases = records.iter().map(|alias| alias.ttl);
        let ttl = soa.map(|(_, ttl)| aliases.fold(*ttl, u32::min));
        if packet.rcode() == DnsRcode::NXDomain {
            Reply::Outcome(Outcome::NoName(ttl))
        } else if ttl.is_some() {
            Reply::Outcome(Outcome::NoRecord(ttl))
        } else if !records.is_empty() {
            Reply::Outcome(Outcome::Alias(records, name))
        } else if self.refers && !packet.flags().contains(DnsFlags::RECURSION_AVAILABLE) {
            Reply::Failure("does not look up names for others".to_owned())
        } else {
            Reply::Outcome(Outcome::NoRecord(None))
        }
    }
}

impl RecordType {
    /// The address in `data`, if it is of this kind.
    fn address(self, data: &DnsRecordData<'_>) -> Option<RecordData> {
        match (self, data) {
            (Self::A, DnsRecordData::A(ip)) => Some(RecordData::A(*ip)),
            (Self::Aaaa, DnsRecordData::Aaaa(ip)) => Some(RecordData::Aaaa(*ip)),
            _ => None,
        }
    }
}

impl From<RecordType> for DnsQueryType {
    fn from(kind: RecordType) -> Self {
        match kind {
            RecordType::A => Self::A,
            RecordType::Aaaa => Self::Aaaa,
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
        })
    }
}

/// Seconds that are not negative (RFC 2181 §8).
fn seconds(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

fn rcode_name(rcode: DnsRcode) -> String {
    match rcode {
        DnsRcode::FormErr => "FORMERR".to_owned(),
        DnsRcode::ServFail => "SERVFAIL".to_owned(),
        DnsRcode::NotImp => "NOTIMP".to_owned(),
        DnsRcode::Refused => "REFUSED".to_owned(),
        other => format!("with the error code {}", u8::from(other)),
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
