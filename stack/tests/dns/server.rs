//! A DNS server that does as it is told.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use underpass::{Stack, TcpListener, TcpStream, UdpSocket};

/// Types of records.
pub(crate) const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;

/// What a server does when it is asked for a name.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Nothing.
    Silence,
    /// Answers with these records, in an error code of 0.
    Answer(Vec<Answer>),
    /// The name does not exist, says the zone `test`, for so many seconds.
    NoName(u32),
    /// There is no such record, likewise.
    NoRecord(u32),
    /// An error code.
    Error(u8),
    /// The right answer, changed before it is sent; then, if `then_right`, the right one as well.
    Forged(Forgery, bool),
    /// Truncated over UDP; the answer over TCP.
    Truncated(Vec<Answer>),
}

/// How an answer is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Forgery {
    Id,
    Question,
    Case,
    SourcePort,
    DestinationPort,
    NotAResponse,
    Garbage,
    /// Longer than the query allows.
    Oversized,
}

/// A record of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Ip(&'static str, u32, IpAddr),
    Alias(&'static str, u32, &'static str),
}

/// One question as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: u16,
    pub(crate) from: SocketAddr,
    /// As it was spelled.
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) tcp: bool,
}

/// At one address of a stack, at port 53.
pub(crate) struct Server {
    udp: UdpSocket,
    /// Another port of the same address, for forged answers.
    elsewhere: UdpSocket,
    tcp: TcpListener,
    streams: Vec<(TcpStream, Vec<u8>)>,
    acts: HashMap<String, Act>,
    pub(crate) asked: Vec<Asked>,
}

/// The address that right answers to forged ones have, and forged ones have not.
pub(crate) const RIGHT_ADDRESS: [u8; 4] = [10, 0, 0, 77];
pub(crate) const FORGED_ADDRESS: [u8; 4] = [6, 6, 6, 6];

impl Server {
    pub(crate) fn new(stack: &Stack, ip: &str) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let udp = UdpSocket::bind(stack, SocketAddr::new(ip, 53)).unwrap();
        let elsewhere = UdpSocket::bind(stack, SocketAddr::new(ip, 5353)).unwrap();
        let tcp = TcpListener::bind(stack, SocketAddr::new(ip, 53)).unwrap();
        udp.set_nonblocking(true);
        tcp.set_nonblocking(true);
        let (acts, streams, asked) = (HashMap::new(), Vec::new(), Vec::new());
        Self { udp, elsewhere, tcp, streams, acts, asked }
    }

    /// Decides what a question for `name` leads to; without a decision, it is SERVFAIL.
    pub(crate) fn on(&mut self, name: &str, act: Act) {
        self.acts.insert(name.to_owned(), act);
    }

    pub(crate) fn asked_for(&self, name: &str) -> usize {
        self.asked.iter().filter(|asked| asked.name.eq_ignore_ascii_case(name)).count()
    }

    /// Serves what has come.
    pub(crate) fn turn(&mut self) {
        let mut buffer = [0; 2000];
        while let Ok((len, from)) = self.udp.recv_from(&mut buffer) {
            self.on_datagram(&buffer[..len], from);
        }
        while let Ok((stream, _)) = self.tcp.accept() {
            stream.set_nonblocking(true);
            self.streams.push((stream, Vec::new()));
        }
        let mut streams = std::mem::take(&mut self.streams);
        streams.retain_mut(|(stream, received)| {
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                received.extend_from_slice(&buffer[..len]);
            }
            if received.len() < 14 {
                return true;
            }
            let query = received.split_off(2);
            let Some(answer) = self.on_stream(&query, stream.peer_addr()) else {
                return false;
            };
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
            false
        });
        self.streams.append(&mut streams);
    }

    fn on_datagram(&mut self, query: &[u8], from: SocketAddr) {
        let act = self.note(query, from, false);
        let right = [Answer::Ip("", 60, RIGHT_ADDRESS.into())];
        let send = |bytes: &[u8]| {
            self.udp.send_to(bytes, from).unwrap();
        };
        match &act {
            Act::Silence => {}
            Act::Truncated(_) => send(&with(reply(query, 0, &[]), |bytes| bytes[2] |= 2)),
            Act::Forged(forgery, then_right) => {
                let lie = reply(query, 0, &[Answer::Ip("", 60, FORGED_ADDRESS.into())]);
                match forgery {
                    Forgery::Id => send(&with(lie, |bytes| bytes[1] ^= 1)),
                    Forgery::Question => send(&with(lie, |bytes| bytes[13] ^= 1)),
                    Forgery::Case => send(&with(lie, |bytes| bytes[13] ^= 0x20)),
                    Forgery::NotAResponse => send(&with(lie, |bytes| bytes[2] &= 0x7f)),
                    Forgery::Garbage => send(&[0xff; 500]),
                    Forgery::Oversized => send(&with(lie, |bytes| bytes.resize(1400, 0))),
                    Forgery::SourcePort => {
                        self.elsewhere.send_to(&lie, from).unwrap();
                    }
                    Forgery::DestinationPort => {
                        let port = from.port() ^ 1;
                        self.udp.send_to(&lie, SocketAddr::new(from.ip(), port)).unwrap();
                    }
                }
                if *then_right {
                    send(&reply(query, 0, &right));
                }
            }
            act => send(&honest(query, act)),
        }
    }

    /// `None`: it hangs up.
    fn on_stream(&mut self, query: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        match self.note(query, from, true) {
            Act::Silence => None,
            Act::Truncated(answers) => Some(reply(query, 0, &answers)),
            Act::Forged(..) => Some(reply(query, 0, &[Answer::Ip("", 60, RIGHT_ADDRESS.into())])),
            act => Some(honest(query, &act)),
        }
    }

    fn note(&mut self, query: &[u8], from: SocketAddr, tcp: bool) -> Act {
        let (name, end) = name_at(query, 12);
        let kind = u16::from_be_bytes([query[end], query[end + 1]]);
        let id = u16::from_be_bytes([query[0], query[1]]);
        let act = self.acts.get(&name.to_ascii_lowercase()).cloned().unwrap_or(Act::Error(2));
        self.asked.push(Asked { id, from, name, kind, tcp });
        act
    }
}

fn honest(query: &[u8], act: &Act) -> Vec<u8> {
    match act {
        Act::Answer(answers) => reply(query, 0, answers),
        Act::NoName(ttl) => soa(reply(query, 3, &[]), *ttl),
        Act::NoRecord(ttl) => soa(reply(query, 0, &[]), *ttl),
        Act::Error(code) => reply(query, *code, &[]),
        Act::Silence | Act::Forged(..) | Act::Truncated(_) => unreachable!("{act:?}"),
    }
}

/// A response with what fits the type that is asked for. An empty name is the one asked for.
fn reply(query: &[u8], code: u8, answers: &[Answer]) -> Vec<u8> {
    let (own, end) = name_at(query, 12);
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let mut bytes = query[..end + 4].to_vec();
    bytes[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
    for answer in answers {
        let (name, record, ttl, data) = match answer {
            Answer::Ip(name, ttl, IpAddr::V4(ip)) if kind == A => {
                (name, A, ttl, ip.octets().to_vec())
            }
            Answer::Ip(name, ttl, IpAddr::V6(ip)) if kind == AAAA => {
                (name, AAAA, ttl, ip.octets().to_vec())
            }
            Answer::Ip(..) => continue,
            Answer::Alias(name, ttl, target) => (name, CNAME, ttl, wire(target)),
        };
        bytes.extend(wire(if name.is_empty() { &own } else { name }));
        bytes.extend(record.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        let count = u16::from_be_bytes([bytes[6], bytes[7]]) + 1;
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
    }
    bytes
}

/// Adds the zone's record, whose own time to live is an hour.
fn soa(mut bytes: Vec<u8>, minimum: u32) -> Vec<u8> {
    bytes[9] = 1;
    bytes.extend(wire("test"));
    bytes.extend([0, SOA as u8, 0, 1, 0, 0, 0x0e, 0x10, 0, 22]);
    bytes.extend([0; 18]);
    bytes.extend(minimum.to_be_bytes());
    bytes
}

fn with(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut bytes);
    bytes
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| {
        std::iter::once(label.len() as u8).chain(label.bytes()).collect::<Vec<u8>>()
    });
    labels.chain([0]).collect()
}

/// The name at an offset, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> (String, usize) {
    let mut labels = Vec::new();
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8(message[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    (labels.join("."), at + 1)
}
