//! IPv4 packets as smoltcp, our own code, etherparse and pnet see them.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use etherparse::Ipv4Slice;
use libfuzzer_sys::fuzz_target;
use pnet_packet::Packet;
use pnet_packet::ipv4::Ipv4Packet as PnetPacket;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Ipv4Packet, Ipv4Repr};
use underpass_fuzz::differential::{Class, compare, sum};

#[derive(Debug, PartialEq)]
struct Fields {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl: u8,
    payload: Range<usize>,
    /// Identification (0 where it does not matter), offset in bytes, and whether more follow.
    fragment: Option<(u16, u16, bool)>,
}

const AUTHENTICATION_HEADER: u8 = 51;

fn fragment(id: u16, offset: u16, more: bool) -> Option<(u16, u16, bool)> {
    (offset != 0 || more).then_some((id, offset, more))
}

fn by_smoltcp(bytes: &[u8]) -> Option<Fields> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let is_fragment = packet.more_frags() || packet.frag_offset() != 0;
    let valid = packet.version() == 4 && packet.verify_checksum();
    // Without its feature for fragments, which the stack does not use, `parse` refuses them.
    let repr = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default());
    assert_eq!(repr.is_ok(), valid && !is_fragment);
    let header_len = usize::from(packet.header_len());
    valid.then(|| Fields {
        source: Ipv4Addr::from(packet.src_addr().octets()).into(),
        destination: Ipv4Addr::from(packet.dst_addr().octets()).into(),
        protocol: packet.next_header().into(),
        ttl: packet.hop_limit(),
        payload: header_len..header_len + packet.payload().len(),
        fragment: fragment(packet.ident(), packet.frag_offset(), packet.more_frags()),
    })
}

fn by_us(bytes: &[u8]) -> Option<Fields> {
    let packet = underpass::fuzzing::ip(bytes).filter(|packet| packet.source.is_ipv4())?;
    Some(Fields {
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        ttl: packet.hop_limit,
        payload: packet.payload,
        fragment: packet.fragment.map(|(id, offset, more)| (id as u16, offset as u16, more)),
    })
}

fn by_etherparse(bytes: &[u8]) -> Option<Fields> {
    let packet = Ipv4Slice::from_slice(bytes).ok()?;
    let header = packet.header();
    let start = header.slice().len();
    let offset = header.fragments_offset().value() * 8;
    Some(Fields {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.protocol().0,
        ttl: header.ttl(),
        payload: start..start + packet.payload().payload.len(),
        fragment: fragment(header.identification(), offset, header.more_fragments()),
    })
}

fn by_pnet(bytes: &[u8]) -> Option<Fields> {
    let packet = PnetPacket::new(bytes)?;
    let start = usize::from(packet.get_header_length()) * 4;
    let more = packet.get_flags() & 1 != 0;
    Some(Fields {
        source: packet.get_source().into(),
        destination: packet.get_destination().into(),
        protocol: packet.get_next_level_protocol().0,
        ttl: packet.get_ttl(),
        payload: start..start + packet.payload().len(),
        fragment: fragment(packet.get_identification(), packet.get_fragment_offset() * 8, more),
    })
}

fn header_len(bytes: &[u8]) -> usize {
    usize::from(bytes[0] & 0x0f) * 4
}

const CLASSES: [Class<Fields>; 3] = [
    Class {
        name: "header checksum not verified",
        parser: "etherparse",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && sum(&bytes[..header_len(bytes)]) != 0xffff
        },
    },
    Class {
        name: "authentication header",
        parser: "etherparse",
        explains: |bytes, _, _| bytes.len() >= 20 && bytes[9] == AUTHENTICATION_HEADER,
    },
    Class {
        name: "pnet checks one length",
        parser: "pnet",
        explains: |_, expected, says| expected.is_none() && says.is_some(),
    },
];

fuzz_target!(|bytes: &[u8]| {
    let check = |bytes: &[u8]| {
        let all = [
            ("smoltcp", by_smoltcp(bytes)),
            ("underpass", by_us(bytes)),
            ("etherparse", by_etherparse(bytes)),
            ("pnet", by_pnet(bytes)),
        ];
        compare(bytes, &all, &CLASSES);
    };
    check(bytes);
    // The same with a right checksum.
    let mut bytes = bytes.to_vec();
    let len = bytes.first().map_or(0, |_| header_len(&bytes));
    if len >= 20 && len <= bytes.len() {
        bytes[10..12].fill(0);
        let checksum = !sum(&bytes[..len]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        check(&bytes);
    }
});
