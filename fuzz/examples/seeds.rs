//! Writes the seeds of the targets that read bytes as they are on the wire into `seeds/`:
//! `cargo +nightly run --example seeds` in `fuzz/`. The same every time.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use underpass::devices::MacAddr;
use underpass_fuzz::frames::{encode, meta};
use underpass_fuzz::station::{OUR_MAC, PEER_MAC, PEER_PORT, Station, TCP_PORT, UDP_PORT, address};
use underpass_fuzz::tcp::{ACK, FIN, RST, SYN, Segment};

use wire::{ICMP, ICMPV6, TCP, UDP};

#[path = "../../stack/tests/wire/mod.rs"]
mod wire;

const HEADER_LEN: usize = 14;

fn main() -> std::io::Result<()> {
    let mut seeds = Seeds::default();
    let ours = sent_by_a_stack();
    let theirs = [client_frames(), server_frames(&ours), errors()].concat();
    for (n, frame) in theirs.iter().enumerate() {
        // One alone, and one after the other.
        seeds.add("frame_into_shard", encode([&frame[..]]));
        if n % 4 == 0 {
            let following = theirs[n..].iter().map(Vec::as_slice);
            seeds.add("frame_into_shard", encode(following));
        }
    }
    for frame in ours.iter().chain(&theirs) {
        let Some(packet) = frame.get(HEADER_LEN..) else { continue };
        let (target, transport_at) = match packet.first().map(|first| first >> 4) {
            Some(4) => ("differential_ipv4", 20),
            Some(6) => ("differential_ipv6", 40),
            _ => continue,
        };
        seeds.add(target, packet.to_vec());
        if let Some(transport) = packet.get(transport_at..) {
            seeds.add("differential_tcp_udp_icmp", transport.to_vec());
        }
        let dhcp = packet.get(28..).filter(|_| packet.get(20..24) == Some(&[0, 67, 0, 68]));
        seeds.add_some("dhcp_message", dhcp);
        let dns = packet.get(28..).filter(|_| packet.get(20..22) == Some(&[0, 53]));
        seeds.add_some("dns_message", dns);
    }
    for text in SPECS {
        seeds.add("device_spec", text.as_bytes().to_vec());
    }
    for text in RANGES {
        seeds.add("http_range", [text.as_bytes(), &[100, 0, 0, 0, 0, 0, 0, 0]].concat());
    }
    for message in rdma_handshakes() {
        seeds.add("rdma_handshake", message);
    }
    seeds.write(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds")))
}

/// A request with two regions, a reply with none, and what follows; and a region alone.
fn rdma_handshakes() -> [Vec<u8>; 5] {
    let head = |kind: u8, detail: u8| {
        [&b"UPOS\x01"[..], &[kind, 0, detail], b"\x01\x02\x03\x04\x05\x06\x07\x08"].concat()
    };
    let mut station = Ipv4Addr::new(10, 9, 0, 2).to_ipv6_mapped().octets().to_vec();
    station.extend([0, 0, 0, 0x11, 0, 0x12, 0x34, 0x56, 0x10, 0, 16, 16]);
    let region =
        [0, 0, 0x7f, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 0, 7];
    [
        [&head(1, 2), &station, &region[..], &region].concat(),
        [head(2, 0), station].concat(),
        head(3, 0),
        head(4, 1),
        region.to_vec(),
    ]
}

const SPECS: [&str; 7] = [
    "tap:upg0,offload=off,mac=02:00:00:00:00:01,mtu=9000,host=10.7.0.1/24,host=fd00::1/64",
    "tap:upg0,io=plain,queues=2,slots=64,vlan=7",
    "packet:eth1,fanout=7,rx-slots=512,tx-slots=9,qdisc-bypass=on",
    "packet:eth1,mac=02:00:00:00:00:01,offload=off,vlan=4094",
    "memory:,offload=on,mtu=9000,slots=16",
    "dpdk:net_af_packet0,iface=eth1,eal=--no-huge -m 64,mtu=9000,vlan=7",
    "xdp:eth1,queue=3,mode=skb,only=tcp/80,ether-type=0x88b5",
];

const RANGES: [&str; 5] = ["bytes=0-0", "bytes=2-500", "Bytes=9-", "bytes=-3", "bytes=0-1,4-5"];

/// The seeds of each target, none twice.
#[derive(Default)]
struct Seeds(Vec<(&'static str, Vec<u8>)>);

impl Seeds {
    fn add(&mut self, target: &'static str, seed: Vec<u8>) {
        if !self.0.contains(&(target, seed.clone())) {
            self.0.push((target, seed));
        }
    }

    fn add_some(&mut self, target: &'static str, seed: Option<&[u8]>) {
        if let Some(seed) = seed {
            self.add(target, seed.to_vec());
        }
    }

    fn write(&self, folder: &Path) -> std::io::Result<()> {
        for (n, (target, seed)) in self.0.iter().enumerate() {
            let folder = folder.join(target);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(format!("seed-{n:03}")), seed)?;
        }
        Ok(())
    }
}

/// What a stack sends that starts, looks for a lease, a router and a name, and serves a connection.
fn sent_by_a_stack() -> Vec<Vec<u8>> {
    let mut station = Station::busy();
    let mut sent = std::mem::take(&mut station.sent);
    for frame in client_frames() {
        station.inject(&frame, meta(&frame, false));
    }
    station.run_for(Duration::from_secs(1));
    sent.append(&mut station.sent);
    sent
}

fn packet(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ends = (address(v6, 2), address(v6, 1));
    wire::ip_frame((OUR_MAC, PEER_MAC), ends, protocol, payload)
}

fn segment(v6: bool, segment: &Segment) -> Vec<u8> {
    packet(v6, TCP, &segment.to_bytes())
}

/// What clients and neighbours send.
fn client_frames() -> Vec<Vec<u8>> {
    let mut station = Station::busy();
    let (known, _stream) = station.handshake(false, 2, PEER_PORT).unwrap();
    let ports = (PEER_PORT, TCP_PORT);
    let (seq, ack, window) = (known.seq, known.ack, 8192);
    let data = Segment { ports, seq, ack, window, flags: ACK, ..Segment::default() };
    let syn = Segment {
        ports: (3000, TCP_PORT),
        flags: SYN,
        window,
        options: vec![2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
        ..Segment::default()
    };
    let udp = [&1234_u16.to_be_bytes()[..], &UDP_PORT.to_be_bytes(), &[0, 12, 0, 0], b"ping"];
    let [any, our, peer] = [[0; 4], [10, 0, 0, 1], [10, 0, 0, 2]];
    let mut frames = vec![
        segment(false, &Segment { data: b"hello".to_vec(), ..data.clone() }),
        segment(false, &Segment { seq: seq + 9, data: b"later".to_vec(), ..data.clone() }),
        segment(false, &Segment { flags: ACK | FIN, ..data.clone() }),
        segment(false, &Segment { flags: RST, ..data.clone() }),
        segment(false, &syn),
        segment(true, &syn),
        packet(false, UDP, &udp.concat()),
        packet(true, UDP, &udp.concat()),
        packet(false, ICMP, &[8, 0, 0, 0, 0, 1, 0, 1, 7, 7]),
        packet(true, ICMPV6, &[128, 0, 0, 0, 0, 1, 0, 1, 7, 7]),
        packet(false, 253, b"raw"),
        wire::ethernet(
            MacAddr::BROADCAST,
            PEER_MAC,
            wire::ARP,
            &wire::arp(1, (PEER_MAC, peer), (MacAddr::default(), our)),
        ),
        wire::ethernet(
            OUR_MAC,
            PEER_MAC,
            wire::ARP,
            &wire::arp(2, (PEER_MAC, our), (OUR_MAC, any)),
        ),
        packet(true, ICMPV6, &wire::ndp(135, 0, address(true, 1), PEER_MAC)),
        packet(true, ICMPV6, &wire::ndp(136, 0x60, address(true, 2), PEER_MAC)),
        // Hop-by-hop options, destination options, and an atomic fragment in front of UDP.
        packet(
            true,
            0,
            &[
                &[60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0][..],
                &[17, 0, 0, 0, 0, 0, 0, 1],
                &udp.concat(),
            ]
            .concat(),
        ),
    ];
    // Two fragments of a datagram.
    for (field, len) in [(0x2000_u16, 24), (0x0003, 16)] {
        let mut frame = packet(
            false,
            UDP,
            &[&[0, 9, 0, UDP_PORT as u8, 0, 40, 0, 0][..], &vec![1; len - 8]].concat(),
        );
        frame[18..20].copy_from_slice(&[0, 5]);
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        wire::fix_checksums(&mut frame);
        frames.push(frame);
    }
    frames
}

/// What servers and routers answer to the frames of a stack.
fn server_frames(asked: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for frame in asked.iter().filter(|frame| frame.len() > 54 && frame[23] == UDP) {
        let (udp, data) = (&frame[34..42], &frame[42..]);
        let answer = match udp[2..4] {
            [0, 67] => dhcp_answers(data),
            [0, 53] => dns_answers(data),
            _ => continue,
        };
        for answer in answer {
            let len = (8 + answer.len() as u16).to_be_bytes();
            let ports = [&udp[2..4], &udp[..2], &len, &[0, 0]].concat();
            frames.push(packet(false, UDP, &[ports, answer].concat()));
        }
    }
    // A router's advertisement: itself, its MTU, a prefix.
    let link_local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 2]);
    let all_nodes = IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]);
    let mut advertisement = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    advertisement.extend([1, 1, 2, 0, 0, 0, 0, 2, 5, 1, 0, 0, 0, 0, 5, 0]);
    advertisement.extend([3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0]);
    advertisement.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let group = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    frames.push(wire::ip_frame((group, PEER_MAC), (link_local, all_nodes), ICMPV6, &advertisement));
    frames
}

fn dhcp_answers(question: &[u8]) -> Vec<Vec<u8>> {
    let answer = |kind: u8, options: &[u8]| {
        let mut message = vec![0; 240];
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[4..8].copy_from_slice(&question[4..8]);
        message[16..20].copy_from_slice(&[10, 0, 0, 77]);
        message[28..34].copy_from_slice(&question[28..34]);
        message[236..240].copy_from_slice(&[99, 130, 83, 99]);
        message.extend([53, 1, kind, 54, 4, 10, 0, 0, 2, 51, 4, 0, 0, 14, 16]);
        message.extend([options, &[255]].concat());
        message
    };
    let full = [
        &[1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 2, 6, 4, 10, 0, 0, 2][..],
        &[15, 4, b't', b'e', b's', b't', 26, 2, 5, 0, 58, 4, 0, 0, 7, 8, 59, 4, 0, 0, 12, 78],
        &[121, 8, 24, 192, 0, 2, 10, 0, 0, 2],
    ];
    vec![
        answer(2, &full.concat()),
        answer(5, &full.concat()),
        answer(5, &[52, 1, 3]),
        answer(6, &[]),
    ]
}

fn dns_answers(question: &[u8]) -> Vec<Vec<u8>> {
    // Without the OPT record.
    let end = question.len() - 11;
    let answer = |flags: [u8; 2], counts: [u8; 4], records: &[u8]| {
        let mut message = question[..end].to_vec();
        message[2..4].copy_from_slice(&flags);
        for (field, count) in message[4..12].chunks_mut(2).zip(counts) {
            field.copy_from_slice(&[0, count]);
        }
        message.extend(records);
        message
    };
    let address = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1];
    let alias = [0xc0, 12, 0, 5, 0, 1, 0, 0, 1, 0, 0, 4, 1, b'x', 0xc0, 16];
    // The address of the name that the alias has named.
    let behind = [0xc0, end as u8 + 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1];
    let soa = [
        &[0xc0, 16, 0, 6, 0, 1, 0, 0, 1, 0, 0, 24, 1, b'a', 0, 0][..],
        &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 60],
    ]
    .concat();
    vec![
        answer([0x81, 0x80], [1, 1, 0, 0], &address),
        answer([0x81, 0x80], [1, 2, 0, 0], &[alias, behind].concat()),
        answer([0x81, 0x80], [1, 1, 0, 0], &alias),
        answer([0x81, 0x83], [1, 0, 1, 0], &soa),
        answer([0x83, 0x80], [1, 0, 0, 0], &[]),
        answer([0x81, 0x82], [1, 0, 0, 0], &[]),
    ]
}

/// Errors that quote a segment of the open connection.
fn errors() -> Vec<Vec<u8>> {
    let mut station = Station::busy();
    let (known, stream) = station.handshake(false, 2, PEER_PORT).unwrap();
    std::io::Write::write_all(&mut &stream, &[7; 600]).unwrap();
    station.sent.clear();
    station.turn();
    let is_data = |frame: &&Vec<u8>| Segment::read(frame).is_some_and(|(_, s)| s.ack == known.seq);
    let sent = station.sent.iter().find(is_data).map(|frame| frame[14..14 + 28].to_vec());
    let quoted = sent.unwrap_or_default();
    let error = |kind: u8, code: u8, mtu: u8| {
        packet(false, ICMP, &[&[kind, code, 0, 0, 0, 0, mtu, 0][..], &quoted].concat())
    };
    vec![error(3, 4, 3), error(3, 1, 0), error(3, 3, 0), error(11, 0, 0), error(12, 0, 0)]
}
