//! TCP segments, UDP datagrams and ICMP messages as smoltcp, our own code, etherparse and pnet see
//! them. Checksums are left out: each of the four is told not to look, or does not.

#![no_main]

use etherparse::{Icmpv4Slice, Icmpv6Slice, TcpOptionElement, TcpSlice, UdpSlice};
use libfuzzer_sys::fuzz_target;
use pnet_packet::icmp::IcmpPacket as PnetIcmp;
use pnet_packet::icmpv6::Icmpv6Packet as PnetIcmpv6;
use pnet_packet::tcp::TcpPacket as PnetTcp;
use pnet_packet::udp::UdpPacket as PnetUdp;
use pnet_packet::{Packet, PrimitiveValues};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, Ipv6Address, TcpControl,
    TcpOption, TcpPacket, TcpRepr, UdpPacket, UdpRepr,
};
use underpass_fuzz::differential::{Class, compare, sum};

#[derive(Debug, PartialEq)]
struct Tcp {
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    /// FIN, SYN, RST, ACK.
    flags: [bool; 4],
    window: u16,
    data_len: usize,
    mss: Option<u16>,
    window_scale: Option<u8>,
}

#[derive(Debug, PartialEq)]
struct Udp {
    ports: (u16, u16),
    data_len: usize,
}

#[derive(Debug, PartialEq)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
}

const SOURCE: IpAddress = IpAddress::v4(10, 0, 0, 1);
const DESTINATION: IpAddress = IpAddress::v4(10, 0, 0, 2);
const TIMESTAMPS: [u8; 2] = [13, 14];

/// The bytes in an IPv4 packet, which our own code reads them from.
fn packet(protocol: u8, bytes: &[u8]) -> Vec<u8> {
    let [high, low] = (20 + bytes.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    let checksum = !sum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(bytes);
    packet
}

fn tcp_by_smoltcp(bytes: &[u8]) -> Option<Tcp> {
    let packet = TcpPacket::new_checked(bytes).ok()?;
    let caps = ChecksumCapabilities::ignored();
    let repr = TcpRepr::parse(&packet, &SOURCE, &DESTINATION, &caps).ok()?;
    let control = |control| repr.control == control;
    Some(Tcp {
        ports: (repr.src_port, repr.dst_port),
        seq: repr.seq_number.0 as u32,
        ack: packet.ack_number().0 as u32,
        flags: [
            control(TcpControl::Fin),
            control(TcpControl::Syn),
            control(TcpControl::Rst),
            repr.ack_number.is_some(),
        ],
        window: repr.window_len,
        data_len: repr.payload.len(),
        mss: repr.max_seg_size,
        window_scale: repr.window_scale,
    })
}

fn tcp_by_us(bytes: &[u8]) -> Option<Tcp> {
    let tcp = underpass::fuzzing::tcp(&packet(6, bytes))?;
    let underpass::fuzzing::Tcp { ports, seq, ack, flags, window, data_len, .. } = tcp;
    let (mss, window_scale) = (tcp.mss, tcp.window_scale);
    Some(Tcp { ports, seq, ack, flags, window, data_len, mss, window_scale })
}

fn tcp_by_etherparse(bytes: &[u8]) -> Option<Tcp> {
    let tcp = TcpSlice::from_slice(bytes).ok()?;
    let (mut mss, mut window_scale) = (None, None);
    for option in tcp.options_iterator() {
        match option {
            Ok(TcpOptionElement::MaximumSegmentSize(value)) => mss = Some(value),
            Ok(TcpOptionElement::WindowScale(value)) => window_scale = Some(value.min(14)),
            _ => {}
        }
    }
    Some(Tcp {
        ports: (tcp.source_port(), tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags: [tcp.fin(), tcp.syn(), tcp.rst(), tcp.ack()],
        window: tcp.window_size(),
        data_len: tcp.payload().len(),
        mss,
        window_scale,
    })
}

/// Its options are left out: those of the reference stand in.
fn tcp_by_pnet(bytes: &[u8], reference: Option<&Tcp>) -> Option<Tcp> {
    let tcp = PnetTcp::new(bytes)?;
    let flag = |bit: u8| tcp.get_flags() & bit != 0;
    Some(Tcp {
        ports: (tcp.get_source(), tcp.get_destination()),
        seq: tcp.get_sequence(),
        ack: tcp.get_acknowledgement(),
        flags: [flag(0x01), flag(0x02), flag(0x04), flag(0x10)],
        window: tcp.get_window(),
        data_len: tcp.payload().len(),
        mss: reference.and_then(|tcp| tcp.mss),
        window_scale: reference.and_then(|tcp| tcp.window_scale),
    })
}

fn has_port_zero(bytes: &[u8]) -> bool {
    bytes[..2] == [0, 0] || bytes[2..4] == [0, 0]
}

/// More than one of SYN, FIN and RST.
fn has_flags_that_contradict(bytes: &[u8]) -> bool {
    (bytes[13] & 0x07).count_ones() > 1
}

/// smoltcp refuses the whole segment then.
fn has_malformed_options(bytes: &[u8]) -> bool {
    let mut options = &bytes[20..usize::from(bytes[12] >> 4) * 4];
    while !options.is_empty() {
        match TcpOption::parse(options) {
            Ok((_, TcpOption::EndOfList)) => return false,
            Ok((rest, _)) => options = rest,
            Err(_) => return true,
        }
    }
    false
}

const TCP: [Class<Tcp>; 7] = [
    Class {
        name: "flags that contradict each other",
        parser: "underpass",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && has_flags_that_contradict(bytes)
        },
    },
    Class {
        name: "malformed options",
        parser: "underpass",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && has_malformed_options(bytes)
        },
    },
    Class {
        name: "port zero",
        parser: "etherparse",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && has_port_zero(bytes)
        },
    },
    Class {
        name: "flags that contradict each other",
        parser: "etherparse",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && has_flags_that_contradict(bytes)
        },
    },
    Class {
        name: "malformed options",
        parser: "etherparse",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && has_malformed_options(bytes)
        },
    },
    Class {
        name: "options behind an unknown one",
        parser: "etherparse",
        explains: |bytes, expected, says| {
            let mut options = TcpSlice::from_slice(bytes).ok().into_iter();
            let known = options.all(|tcp| tcp.options_iterator().all(|option| option.is_ok()));
            expected.is_some() && says.is_some() && !known
        },
    },
    Class {
        name: "pnet checks one length",
        parser: "pnet",
        explains: |_, expected, says| expected.is_none() && says.is_some(),
    },
];

fn udp_by_smoltcp(bytes: &[u8]) -> Option<Udp> {
    let packet = UdpPacket::new_checked(bytes).ok()?;
    let caps = ChecksumCapabilities::ignored();
    let repr = UdpRepr::parse(&packet, &SOURCE, &DESTINATION, &caps).ok()?;
    Some(Udp { ports: (repr.src_port, repr.dst_port), data_len: packet.payload().len() })
}

fn udp_by_us(bytes: &[u8]) -> Option<Udp> {
    let udp = underpass::fuzzing::udp(&packet(17, bytes))?;
    Some(Udp { ports: udp.ports, data_len: udp.data_len })
}

fn udp_by_etherparse(bytes: &[u8]) -> Option<Udp> {
    let udp = UdpSlice::from_slice(bytes).ok()?;
    let ports = (udp.source_port(), udp.destination_port());
    Some(Udp { ports, data_len: udp.payload().len() })
}

fn udp_by_pnet(bytes: &[u8]) -> Option<Udp> {
    let udp = PnetUdp::new(bytes)?;
    let ports = (udp.get_source(), udp.get_destination());
    Some(Udp { ports, data_len: udp.payload().len() })
}

const UDP: [Class<Udp>; 4] = [
    Class {
        name: "bytes behind a datagram",
        parser: "pnet",
        explains: |bytes, expected, says| {
            let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            expected.is_some() && says.is_some() && len < bytes.len()
        },
    },
    Class {
        name: "port zero",
        parser: "etherparse",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && has_port_zero(bytes)
        },
    },
    Class {
        name: "length zero in UDP",
        parser: "etherparse",
        explains: |bytes, expected, says| {
            expected.is_none() && says.is_some() && bytes[4..6] == [0, 0]
        },
    },
    Class {
        name: "pnet checks one length",
        parser: "pnet",
        explains: |_, expected, says| expected.is_none() && says.is_some(),
    },
];

fn icmpv4_by_smoltcp(bytes: &[u8]) -> Option<Icmp> {
    let packet = Icmpv4Packet::new_checked(bytes).ok()?;
    let _whatever = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored());
    let (kind, code) = (packet.msg_type().into(), packet.msg_code());
    Some(Icmp { kind, code, checksum: packet.checksum() })
}

fn icmpv4_by_etherparse(bytes: &[u8]) -> Option<Icmp> {
    let icmp = Icmpv4Slice::from_slice(bytes).ok()?;
    let _whatever = icmp.icmp_type();
    Some(Icmp { kind: icmp.type_u8(), code: icmp.code_u8(), checksum: icmp.checksum() })
}

fn icmpv4_by_pnet(bytes: &[u8]) -> Option<Icmp> {
    let icmp = PnetIcmp::new(bytes)?;
    let kind = icmp.get_icmp_type().to_primitive_values().0;
    let code = icmp.get_icmp_code().to_primitive_values().0;
    Some(Icmp { kind, code, checksum: icmp.get_checksum() })
}

const ICMPV4: [Class<Icmp>; 2] = [
    Class {
        name: "length of ICMP timestamps",
        parser: "etherparse",
        explains: |bytes, _, says| says.is_none() && TIMESTAMPS.contains(&bytes[0]),
    },
    Class {
        name: "pnet checks one length",
        parser: "pnet",
        explains: |_, expected, says| expected.is_none() && says.is_some(),
    },
];

fn icmpv6_by_smoltcp(bytes: &[u8]) -> Option<Icmp> {
    let packet = Icmpv6Packet::new_checked(bytes).ok()?;
    let (source, caps) = (Ipv6Address::LOCALHOST, ChecksumCapabilities::ignored());
    let _whatever = Icmpv6Repr::parse(&source, &source, &packet, &caps);
    let (kind, code) = (packet.msg_type().into(), packet.msg_code());
    Some(Icmp { kind, code, checksum: packet.checksum() })
}

fn icmpv6_by_etherparse(bytes: &[u8]) -> Option<Icmp> {
    let icmp = Icmpv6Slice::from_slice(bytes).ok()?;
    let _whatever = icmp.icmp_type();
    Some(Icmp { kind: icmp.type_u8(), code: icmp.code_u8(), checksum: icmp.checksum() })
}

fn icmpv6_by_pnet(bytes: &[u8]) -> Option<Icmp> {
    let icmp = PnetIcmpv6::new(bytes)?;
    let kind = icmp.get_icmpv6_type().to_primitive_values().0;
    let code = icmp.get_icmpv6_code().to_primitive_values().0;
    Some(Icmp { kind, code, checksum: icmp.get_checksum() })
}

const ICMPV6: [Class<Icmp>; 3] = [
    Class {
        name: "headers of ICMPv6 messages",
        parser: "etherparse",
        explains: |_, expected, says| expected.is_none() && says.is_some(),
    },
    Class {
        name: "ICMPv6 messages of four bytes",
        parser: "etherparse",
        explains: |bytes, expected, says| expected.is_some() && says.is_none() && bytes.len() < 8,
    },
    Class {
        name: "headers of ICMPv6 messages",
        parser: "pnet",
        explains: |_, expected, says| expected.is_none() && says.is_some(),
    },
];

fuzz_target!(|bytes: &[u8]| {
    // What fits into an IP packet.
    let bytes = &bytes[..bytes.len().min(0xffff - 20)];
    let reference = tcp_by_smoltcp(bytes);
    let pnet = tcp_by_pnet(bytes, reference.as_ref());
    let all = [
        ("smoltcp", reference),
        ("underpass", tcp_by_us(bytes)),
        ("etherparse", tcp_by_etherparse(bytes)),
        ("pnet", pnet),
    ];
    compare(bytes, &all, &TCP);
    let all = [
        ("smoltcp", udp_by_smoltcp(bytes)),
        ("underpass", udp_by_us(bytes)),
        ("etherparse", udp_by_etherparse(bytes)),
        ("pnet", udp_by_pnet(bytes)),
    ];
    compare(bytes, &all, &UDP);
    let all = [
        ("smoltcp", icmpv4_by_smoltcp(bytes)),
        ("etherparse", icmpv4_by_etherparse(bytes)),
        ("pnet", icmpv4_by_pnet(bytes)),
    ];
    compare(bytes, &all, &ICMPV4);
    let all = [
        ("smoltcp", icmpv6_by_smoltcp(bytes)),
        ("etherparse", icmpv6_by_etherparse(bytes)),
        ("pnet", icmpv6_by_pnet(bytes)),
    ];
    compare(bytes, &all, &ICMPV6);
});
