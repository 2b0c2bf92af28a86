//! IPv6 packets and their extension headers as smoltcp, our own code, etherparse and pnet see them.

#![no_main]

use std::net::IpAddr;
use std::ops::Range;

use etherparse::{Ipv6HeaderSlice, Ipv6Slice};
use libfuzzer_sys::fuzz_target;
use pnet_packet::Packet;
use pnet_packet::ipv6::Ipv6Packet as PnetPacket;
use smoltcp::wire::{Ipv6Packet, Ipv6Repr};
use underpass_fuzz::differential::{Class, compare};

/// The fixed header.
#[derive(Debug, PartialEq)]
struct Fields {
    source: IpAddr,
    destination: IpAddr,
    next_header: u8,
    hop_limit: u8,
    payload_len: usize,
}

/// What is behind the extension headers.
#[derive(Debug, PartialEq)]
struct Transport {
    protocol: u8,
    at: Range<usize>,
    is_fragment: bool,
}

const HEADER_LEN: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// As many extension headers our own code follows (RFC 8504, section 5.3).
const MAX_EXTENSIONS: usize = 8;

fn by_smoltcp(bytes: &[u8]) -> Option<Fields> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    let repr = Ipv6Repr::parse(&packet);
    assert_eq!(repr.is_ok(), packet.version() == 6);
    let repr = repr.ok()?;
    assert_eq!(packet.payload().len(), repr.payload_len);
    Some(Fields {
        source: IpAddr::from(repr.src_addr.octets()),
        destination: IpAddr::from(repr.dst_addr.octets()),
        next_header: repr.next_header.into(),
        hop_limit: repr.hop_limit,
        payload_len: repr.payload_len,
    })
}

fn by_etherparse(bytes: &[u8]) -> Option<Fields> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let payload_len = usize::from(header.payload_length());
    (bytes.len() >= HEADER_LEN + payload_len).then(|| Fields {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        next_header: header.next_header().0,
        hop_limit: header.hop_limit(),
        payload_len,
    })
}

fn by_pnet(bytes: &[u8]) -> Option<Fields> {
    let packet = PnetPacket::new(bytes)?;
    Some(Fields {
        source: packet.get_source().into(),
        destination: packet.get_destination().into(),
        next_header: packet.get_next_header().0,
        hop_limit: packet.get_hop_limit(),
        payload_len: packet.payload().len(),
    })
}

fn transport_by_us(bytes: &[u8]) -> Option<Transport> {
    let packet = underpass::fuzzing::ip(bytes).filter(|packet| packet.source.is_ipv6())?;
    let is_fragment = packet.fragment.is_some();
    Some(Transport { protocol: packet.protocol, at: packet.payload, is_fragment })
}

fn transport_by_etherparse(bytes: &[u8]) -> Option<Transport> {
    let packet = Ipv6Slice::from_slice(bytes).ok()?;
    let (payload, start) = (packet.payload(), HEADER_LEN + packet.extensions().slice().len());
    Some(Transport {
        protocol: payload.ip_number.0,
        at: start..start + payload.payload.len(),
        is_fragment: payload.fragmented,
    })
}

/// The types of the extension headers of a packet, as far as they can be followed; authentication
/// headers and what follows fragments are among them.
fn chain(bytes: &[u8]) -> Vec<u8> {
    let (mut next, mut rest) = (bytes[6], &bytes[HEADER_LEN..]);
    let mut types = Vec::new();
    while [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION].contains(&next) {
        types.push(next);
        let &[following, len, ..] = rest else { break };
        let len = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        next = following;
        rest = rest.get(len..).unwrap_or_default();
    }
    types
}

const HEADERS: [Class<Fields>; 1] = [Class {
    name: "pnet checks one length",
    parser: "pnet",
    explains: |_, expected, says| expected.is_none() && says.is_some(),
}];

const TRANSPORTS: [Class<Transport>; 5] = [
    Class {
        name: "payload length zero",
        parser: "etherparse",
        explains: |bytes, _, _| bytes.len() > HEADER_LEN && bytes[4..6] == [0, 0],
    },
    Class {
        name: "extension headers in a fragment",
        parser: "etherparse",
        explains: |_, ours, _| ours.is_some_and(|ours| ours.is_fragment),
    },
    Class {
        name: "authentication header",
        parser: "etherparse",
        explains: |_, ours, _| ours.is_some_and(|ours| ours.protocol == AUTHENTICATION),
    },
    Class {
        name: "hop-by-hop options that do not come first",
        parser: "etherparse",
        explains: |bytes, _, says| says.is_none() && chain(bytes)[1..].contains(&HOP_BY_HOP),
    },
    Class {
        name: "many extension headers",
        parser: "etherparse",
        explains: |bytes, ours, _| ours.is_none() && chain(bytes).len() > MAX_EXTENSIONS,
    },
];

fuzz_target!(|bytes: &[u8]| {
    let all = [
        ("smoltcp", by_smoltcp(bytes)),
        ("etherparse", by_etherparse(bytes)),
        ("pnet", by_pnet(bytes)),
    ];
    compare(bytes, &all, &HEADERS);
    let transports =
        [("underpass", transport_by_us(bytes)), ("etherparse", transport_by_etherparse(bytes))];
    compare(bytes, &transports, &TRANSPORTS);
});
