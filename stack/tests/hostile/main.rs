//! Whatever arrives, nothing panics, every frame is accounted for, and every connection ends.

mod event;
#[path = "../wire/mod.rs"]
mod wire;
mod world;

use std::io::{Read, Write};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use underpass::devices::{MacAddr, TxMeta};

use event::*;
use wire::{ARP, ICMP, ICMPV6, IPV4, IPV6, TCP, UDP};
use world::*;

/// Whoever knows the ports can send a SYN, whatever its sequence number; it must not decide how a
/// running connection is cut.
#[test]
fn a_stray_syn_does_not_change_the_segment_size() {
    for mss in [0_u16, 1, 88] {
        let mut world = World::live();
        for connection in 0..world.honest.len() {
            let (v6, our_port, peer_port) = world.honest[connection];
            let [high, low] = mss.to_be_bytes();
            let ports = [peer_port.to_be_bytes(), our_port.to_be_bytes()].concat();
            let rest = [1, 2, 3, 4, 0, 0, 0, 0, 6 << 4, 2, 9, 9, 0, 0, 0, 0, 2, 4, high, low];
            let macs = (OUR_MAC, PEER_MAC);
            let syn =
                wire::ip_frame(macs, (peer(v6), ours(v6)), TCP, &[&ports[..], &rest].concat());
            world.inject(&syn, TxMeta::default());
        }
        for stream in &world.streams {
            assert_eq!((&mut &*stream).write(&[5; 8000]).unwrap(), 8000);
        }
        let (frames, _) = world.turn();
        let sizes: Vec<u16> =
            frames.iter().filter_map(|(_, meta)| meta.segmentation.map(u16::from)).collect();
        assert!(sizes.len() >= 4, "{} frames, {sizes:?}", frames.len());
        assert!(sizes.iter().all(|size| *size >= 1400), "cut into pieces of {sizes:?} bytes");
    }
}

/// A peer may ask for tiny segments in its own SYN; one frame must not become tens of thousands
/// (CVE-2019-11479).
#[test]
fn a_tiny_maximum_segment_size_is_not_followed() {
    for mss in [1_u16, 47] {
        let mut world = World::live();
        let honest = std::mem::take(&mut world.honest);
        let [high, low] = mss.to_be_bytes();
        let syn = [
            &[1_u8, 2, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 6 << 4, 2, 99, 99, 0, 0, 0, 0][..],
            &[2, 4, high, low],
        ]
        .concat();
        let ends = (peer(false), ours(false));
        let macs = (OUR_MAC, PEER_MAC);
        world.inject(&wire::ip_frame(macs, ends, TCP, &syn), TxMeta::default());
        let isn = world.sequences[&(false, 80, 0x102)].snd_nxt;
        let ack = [
            &[1_u8, 2, 0, 80, 0, 0, 0, 10][..],
            &isn.to_be_bytes(),
            &[5 << 4, 0x10, 99, 99, 0, 0, 0, 0],
        ]
        .concat();
        world.inject(&wire::ip_frame(macs, ends, TCP, &ack), TxMeta::default());
        let (stream, _) = world.listener.accept().unwrap();
        stream.set_nonblocking(true);
        assert_eq!((&mut &stream).write(&[5; 8000]).unwrap(), 8000);
        let (frames, _) = world.turn();
        assert!(!frames.is_empty());
        for (frame, meta) in &frames {
            let size = meta.segmentation.map_or(frame.len() - 54, |size| usize::from(size.get()));
            assert!(size >= 48, "cut into pieces of {size} bytes");
        }
        world.honest = honest;
    }
}

/// A peer may send on behind its FIN; nobody reads it (RFC 9293 §3.10.7.4).
#[test]
fn nothing_is_read_behind_a_fin() {
    let mut world = World::live();
    for ends in world.honest.clone() {
        let (v6, our_port, peer_port) = ends;
        let known = world.sequences[&ends];
        // The second segment begins behind the FIN, the third at its number.
        for (flags, offset, data) in [(0x11, 0, b"last"), (0x10, 5, b"more"), (0x10, 4, b"more")] {
            let tcp = [
                &peer_port.to_be_bytes()[..],
                &our_port.to_be_bytes(),
                &known.rcv_nxt.wrapping_add(offset).to_be_bytes(),
                &known.snd_nxt.to_be_bytes(),
                &[5 << 4, flags, 99, 99, 0, 0, 0, 0],
                data,
            ];
            let frame =
                wire::ip_frame((OUR_MAC, PEER_MAC), (peer(v6), ours(v6)), TCP, &tcp.concat());
            world.inject(&frame, TxMeta::default());
        }
    }
    let mut buffer = [0; 20];
    for stream in &world.streams {
        assert_eq!((&mut &*stream).read(&mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"last");
        assert_eq!((&mut &*stream).read(&mut buffer).unwrap(), 0);
    }
    world.finish();
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Bytes without any sense are dropped, and counted one by one.
    #[test]
    fn arbitrary_bytes_are_counted(
        frames in vec((prop_oneof![Just(IPV4), Just(IPV6), Just(ARP), any::<u16>()],
            any::<bool>(), vec(any::<u8>(), 0..200)), 1..20),
    ) {
        let mut world = World::quiet();
        for (ether_type, for_us, bytes) in frames {
            let dst = if for_us { OUR_MAC } else { MacAddr::default() };
            let before = world.stats().drops.total();
            world.inject(&wire::ethernet(dst, PEER_MAC, ether_type, &bytes), TxMeta::default());
            prop_assert_eq!(world.stats().drops.total() - before, 1);
        }
        world.check();
    }

    /// A whole IP packet of any protocol is delivered, answered or, in the end, counted as dropped.
    #[test]
    fn no_packet_disappears(
        packets in vec((any::<bool>(),
            prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), any::<u8>()],
            prop_oneof![Just(UDP_PORT), Just(PORTS[0]), any::<u16>()],
            vec(any::<u8>(), 0..100)), 1..20),
    ) {
        let mut world = World::quiet();
        for (v6, protocol, port, mut payload) in packets {
            if let (TCP | UDP, Some(field)) = (protocol, payload.get_mut(2..6)) {
                field[..2].copy_from_slice(&port.to_be_bytes());
                if protocol == UDP {
                    let len = payload.len() as u16;
                    payload[4..6].copy_from_slice(&len.to_be_bytes());
                }
            }
            let macs = (OUR_MAC, PEER_MAC);
            let frame = wire::ip_frame(macs, (peer(v6), ours(v6)), protocol, &payload);
            let before = world.noticed();
            world.inject(&frame, TxMeta::default());
            let delivered = world.udp.recv_from(&mut [0; 200]).is_ok();
            let opened = world.stats().tcp_flows > 0;
            // The first answer to the peer waits for its link address.
            let asked = world.stats().neighbors > 0;
            if !(delivered || opened || asked || world.noticed() > before) {
                // It can be a fragment, which is dropped once the others do not come.
                world.run_for(Duration::from_secs(120));
                prop_assert!(world.noticed() > before, "{}", world.stats());
            }
        }
        world.check();
    }

    /// An attacker who sees every sequence number, while both programs and time go on.
    #[test]
    fn connections_survive_or_end(events in vec(event(), 1..40)) {
        let mut world = World::live();
        for event in &events {
            world.happen(event);
            world.check();
        }
        world.finish();
    }

    /// Fragments of anything, in any order.
    #[test]
    fn fragments_of_anything(
        fragments in vec((any::<bool>(), 0..3_u8,
            prop_oneof![0..64_u16, any::<u16>()], any::<bool>(),
            prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), any::<u8>()],
            prop_oneof![Just(8_usize), Just(16), Just(1480), 0..1480_usize]), 1..60),
    ) {
        let mut world = World::quiet();
        for (v6, id, offset, more, protocol, len) in fragments {
            let macs = (OUR_MAC, PEER_MAC);
            let ends = (peer(v6), ours(v6));
            let frame = if v6 {
                let field = (offset << 3 | u16::from(more)).to_be_bytes();
                let head = [protocol, 0, field[0], field[1], 0, 0, 0, id];
                wire::ip_frame(macs, ends, 44, &[&head[..], &vec![0; len.min(1440)]].concat())
            } else {
                let mut frame = wire::ip_frame(macs, ends, protocol, &vec![0; len]);
                let field = (offset & 0x1fff | u16::from(more) << 13).to_be_bytes();
                frame[18..22].copy_from_slice(&[0, id, field[0], field[1]]);
                wire::fix_checksums(&mut frame);
                frame
            };
            world.inject(&frame, TxMeta::default());
            world.check();
        }
        world.run_for(Duration::from_secs(300));
    }

    /// Errors and other ICMP messages that quote anything, live connections above all.
    #[test]
    fn icmp_that_quotes_anything(
        messages in vec((any::<bool>(), any::<u8>(), any::<u8>(), any::<[u8; 4]>(),
            any::<Index>(), vec((any::<Index>(), any::<u8>()), 0..3), 0..120_usize), 1..20),
    ) {
        let mut world = World::live();
        for (v6, kind, code, rest, connection, changes, len) in messages {
            let (_, our_port, peer_port) = world.honest[connection.index(world.honest.len())];
            let ports = [our_port.to_be_bytes(), peer_port.to_be_bytes()].concat();
            let mut quoted = wire::ip(ours(v6), peer(v6), TCP, &[&ports[..], &[0; 60]].concat());
            for (at, change) in changes {
                *at.get_mut(&mut quoted) ^= change;
            }
            quoted.truncate(len);
            let message = [&[kind, code, 0, 0], &rest[..], &quoted].concat();
            let protocol = if v6 { ICMPV6 } else { ICMP };
            let ends = (peer(v6), ours(v6));
            let frame = wire::ip_frame((OUR_MAC, PEER_MAC), ends, protocol, &message);
            world.inject(&frame, TxMeta::default());
            world.check();
        }
        // None of them ends an established connection (RFC 5927).
        prop_assert_eq!(world.stats().tcp_failures, 0);
        world.finish();
    }
}
