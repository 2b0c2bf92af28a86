use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use underpass_devices::{Caps, Instant, MacAddr};

use super::SmoltcpEngine;
use crate::checksum;
use crate::output::{Outgoing, Output};
use crate::packet::{Packet, TcpSegment, Tuple, protocol};
use crate::tcp::engine::{Connection, Emitted, Engine, Open, State};
use crate::tcp::options::TcpOptions;

const MTU: usize = 1500;

/// Takes packets as a link would, up to `room`.
struct Wire {
    room: usize,
    packets: Vec<(Outgoing, Vec<u8>)>,
}

impl Wire {
    fn new() -> Self {
        Self { room: usize::MAX, packets: Vec::new() }
    }

    /// The only packet since the last call, as its receiver sees it.
    fn one(&mut self) -> (Outgoing, Vec<u8>) {
        assert_eq!(self.packets.len(), 1);
        self.packets.remove(0)
    }
}

impl Output for Wire {
    fn has_room(&self, _: usize) -> bool {
        self.room > 0
    }

    fn path_mtu(&self, _: IpAddr) -> usize {
        MTU
    }

    fn interface_to(&self, _: IpAddr) -> Option<usize> {
        Some(0)
    }

    fn packet<R>(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        self.room = self.room.checked_sub(1)?;
        let mut bytes = vec![0; packet.len];
        let result = write(&mut bytes);
        assert!(checksum::complete(&mut bytes, packet.checksum.unwrap()));
        self.packets.push((packet, bytes));
        Some(result)
    }
}

fn segment(bytes: &[u8]) -> TcpSegment<'_> {
    let packet = Packet::parse(bytes).unwrap();
    let right = checksum::verify_transport(packet.src, packet.dst, protocol::TCP, packet.payload());
    assert!(right, "the transport checksum is wrong");
    TcpSegment::parse(packet).unwrap()
}

fn tuple(v6: bool) -> Tuple {
    let [local, remote]: [IpAddr; 2] = if v6 {
        ["fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()]
    } else {
        ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()]
    };
    Tuple { local: SocketAddr::new(local, 40_000), remote: SocketAddr::new(remote, 80) }
}

fn nodelay() -> TcpOptions {
    TcpOptions { nodelay: true, ..TcpOptions::default() }
}

fn open(isn: u32) -> Open<'static> {
    static OPTIONS: LazyLock<TcpOptions> = LazyLock::new(TcpOptions::default);
    Open { interface: 0, isn, path_mtu: MTU, options: &OPTIONS }
}

fn engine(caps: &Caps) -> SmoltcpEngine {
    SmoltcpEngine::new(std::slice::from_ref(caps), 256 * 1024, 256 * 1024)
}

fn caps() -> Caps {
    Caps::ethernet(MacAddr::local(1), MTU)
}

/// Two engines with one connection between them, up to ESTABLISHED.
fn handshake(caps: &Caps, v6: bool) -> [(SmoltcpEngine, super::SmoltcpConnection); 2] {
    let now = Instant::ZERO;
    let (mut client, mut server, mut wire) = (engine(caps), engine(caps), Wire::new());
    let mut near = client.connect(now, tuple(v6), &open(1000));
    client.emit(now, &mut near, 4, &mut wire);
    let (_, syn) = wire.one();
    let mut far = server.on_syn(now, &segment(&syn), &open(2000));
    server.emit(now, &mut far, 4, &mut wire);
    let (_, syn_ack) = wire.one();
    client.on_segment(now, &mut near, &segment(&syn_ack), &mut wire);
    client.emit(now, &mut near, 4, &mut wire);
    let (_, ack) = wire.one();
    server.on_segment(now, &mut far, &segment(&ack), &mut wire);
    assert_eq!((near.state(), far.state()), (State::Open, State::Open));
    [(client, near), (server, far)]
}

#[test]
fn syns_carry_the_wanted_sequence_numbers_and_the_real_segment_size() {
    let offloads = caps().with_offloads(65_549);
    for (caps, v6) in [(caps(), false), (caps(), true), (offloads.clone(), false), (offloads, true)]
    {
        for isn in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let (mut client, mut server, mut wire) = (engine(&caps), engine(&caps), Wire::new());
            let mut near = client.connect(Instant::ZERO, tuple(v6), &open(isn));
            assert_eq!(near.state(), State::SynSent);
            let emitted = client.emit(Instant::ZERO, &mut near, 4, &mut wire);
            assert!(matches!(emitted, Emitted::Until(Some(timer)) if timer > Instant::ZERO));
            let (_, syn) = wire.one();
            let syn = segment(&syn);
            let mss = if v6 { 1440 } else { 1460 };
            assert_eq!((syn.seq, syn.mss()), (isn, Some(mss)));
            assert_eq!(near.sequence().snd_nxt, isn.wrapping_add(1));

            let mut far = server.on_syn(Instant::ZERO, &syn, &open(!isn));
            assert_eq!(far.state(), State::SynReceived);
            server.emit(Instant::ZERO, &mut far, 4, &mut wire);
            let (_, syn_ack) = wire.one();
            let syn_ack = segment(&syn_ack);
            assert_eq!((syn_ack.seq, syn_ack.mss()), (!isn, Some(mss)));
            assert_eq!(syn_ack.ack, isn.wrapping_add(1));
        }
    }
}

#[test]
fn a_device_that_cuts_gets_superframes_over_both_ip_versions() {
    for (v6, mss) in [(false, 1460), (true, 1440)] {
        let [(mut client, mut near), _] = handshake(&caps().with_offloads(65_549), v6);
        let mut wire = Wire::new();
        near.send(|space| (100_000.min(space.len()), ())).unwrap();
        client.emit(Instant::ZERO, &mut near, 4, &mut wire);
        let (outgoing, bytes) = wire.one();
        let request = outgoing.segment.expect("a segmentation request");
        assert_eq!(request.size.get(), mss);
        assert_eq!(usize::from(request.header_len), if v6 { 60 } else { 40 });
        assert!(segment(&bytes).data_len > usize::from(mss), "smoltcp's first window is 2 kB");
    }
}

#[test]
fn what_is_above_the_mtu_asks_to_be_cut_below_it() {
    let [(mut client, mut near), _] = handshake(&caps(), true);
    let mut wire = Wire::new();
    near.configure(&nodelay());
    near.send(|space| (100_000.min(space.len()), ())).unwrap();
    client.emit(Instant::ZERO, &mut near, 64, &mut wire);
    let (outgoing, bytes) = wire.one();
    assert!(bytes.len() > MTU);
    let cut = outgoing.segment.expect("a segmentation request");
    assert!(usize::from(cut.size.get() + cut.header_len) <= MTU);
}

#[test]
fn a_full_output_loses_nothing() {
    let [(mut client, mut near), (mut server, mut far)] = handshake(&caps(), false);
    let mut wire = Wire { room: 0, packets: Vec::new() };
    near.send(|space| (space[..3].copy_from_slice(b"abc"), (3, ())).1).unwrap();
    assert_eq!(client.emit(Instant::ZERO, &mut near, 4, &mut wire), Emitted::More);
    wire.room = 1;
    let emitted = client.emit(Instant::ZERO, &mut near, 4, &mut wire);
    assert!(matches!(emitted, Emitted::Until(Some(timer)) if timer > Instant::ZERO));
    let (_, data) = wire.one();
    server.on_segment(Instant::ZERO, &mut far, &segment(&data), &mut Wire::new());
    assert_eq!(far.recv(|bytes| (bytes.len(), bytes.to_vec())), Ok(Some(b"abc".to_vec())));
}

#[test]
fn a_recycled_connection_starts_afresh() {
    let [(mut client, mut near), _] = handshake(&caps(), false);
    near.send(|space| (space.len(), ())).unwrap();
    client.recycle(near);
    let mut wire = Wire::new();
    let mut again = client.connect(Instant::ZERO, tuple(true), &open(5));
    assert_eq!((again.send_queue(), again.recv_queue(), again.state()), (0, 0, State::SynSent));
    client.emit(Instant::ZERO, &mut again, 4, &mut wire);
    assert_eq!(segment(&wire.one().1).seq, 5);
}

#[test]
fn extension_headers_do_not_hide_a_segment() {
    let [(mut client, mut near), (mut server, mut far)] = handshake(&caps(), true);
    let mut wire = Wire::new();
    near.send(|space| (space[..2].copy_from_slice(b"hi"), (2, ())).1).unwrap();
    client.emit(Instant::ZERO, &mut near, 4, &mut wire);
    let (_, plain) = wire.one();
    // A destination options header with one PadN option in front of TCP (RFC 8200 §4.6).
    let mut extended = plain[..40].to_vec();
    extended[6] = protocol::DESTINATION_OPTIONS;
    extended[4..6].copy_from_slice(&((plain.len() - 40 + 8) as u16).to_be_bytes());
    extended.extend_from_slice(&[protocol::TCP, 0, 1, 4, 0, 0, 0, 0]);
    extended.extend_from_slice(&plain[40..]);
    server.on_segment(Instant::ZERO, &mut far, &segment(&extended), &mut Wire::new());
    assert_eq!(far.recv_queue(), 2);
}
