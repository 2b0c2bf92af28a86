//! EtherTypes: with and without a VLAN, and a transmit queue without room.

use std::io;

use underpass::devices::{
    Buffers, Caps, Counters, Device, Instant, MacAddr, Medium, MemoryConfig, MemoryDevice,
    Selector, VlanId, Wake,
};
use underpass::protocols::header::Header;
use underpass::protocols::probe::{Outcome, Probe, ProbeConfig, ProbeHeader, Request};
use underpass::protocols::{Reason, Stations};
use underpass::{AttachError, DropReason, ProtocolCounters, ProtocolHandle, Shard, Stack};

use super::chatter::Chatter;
use super::wire::{self, ICMP, Wire};
use super::{EXPERIMENT, host, ip, station};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A stack on a link, and the bare device at its other end.
struct Bench {
    stack: Stack,
    shard: Shard<MemoryDevice>,
    wire: Wire,
}

impl Bench {
    fn new(slots: usize) -> Self {
        let config = MemoryConfig { slots, macs: [US, THEM], ..MemoryConfig::default() };
        let (device, wire) = MemoryDevice::pair(config);
        let (stack, shard) =
            Stack::builder().address("10.0.0.1/24".parse().unwrap()).build_shard(device).unwrap();
        Self { stack, shard, wire: Wire(wire) }
    }

    fn attach(&self, selector: Selector) -> ProtocolHandle<Chatter> {
        self.stack.attach(selector, Chatter::default()).unwrap()
    }

    fn turn(&mut self) {
        self.shard.turn(Instant::ZERO).unwrap();
    }

    /// From the wire to the stack.
    fn send(&mut self, to: MacAddr, types: &[u8], payload: &[u8]) {
        self.wire.send(&[&to.0, &THEM.0, types, payload].concat());
    }

    /// What has come out.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        self.wire.recv().into_iter().map(|(frame, _)| frame).collect()
    }
}

#[test]
fn a_type_and_the_same_type_on_two_vlans() {
    let mut bench = Bench::new(16);
    let vlan = |id| VlanId::new(id).unwrap();
    let untagged = bench.attach(Selector::EtherType(EXPERIMENT));
    let seven = bench.attach(Selector::Tagged(vlan(7), EXPERIMENT));
    let eight = bench.attach(Selector::Tagged(vlan(8), EXPERIMENT));
    bench.send(US, &[0x88, 0xb5], b"untagged");
    // Priorities are not looked at, and a tag with nothing else is none.
    bench.send(MacAddr::BROADCAST, &[0x81, 0, 0xe0, 0, 0x88, 0xb5], b"priority");
    bench.send(US, &[0x81, 0, 0xe0, 7, 0x88, 0xb5], b"seven");
    bench.send(US, &[0x81, 0, 0, 8, 0x88, 0xb5], b"eight");
    for strange in [
        &[0x81, 0, 0, 9, 0x88, 0xb5][..],
        &[0x81, 0, 0x0f, 0xff, 0x88, 0xb5],
        &[0x81, 0, 0, 7, 0x81, 0, 0, 7, 0x88, 0xb5],
        &[0x81, 0, 0, 7, 8, 0],
        &[0x81, 0, 0],
        &[0x88, 0xb6],
    ] {
        bench.send(US, strange, b"");
    }
    bench.send(MacAddr([2, 0, 0, 0, 0, 3]), &[0x88, 0xb5], b"another station");
    bench.turn();

    let received = |handle: &ProtocolHandle<Chatter>| {
        let all = handle.with(|chatter| std::mem::take(&mut chatter.received));
        let payloads =
            all.iter().map(|received| String::from_utf8(received.payload.clone()).unwrap());
        payloads.collect::<Vec<_>>()
    };
    assert_eq!(received(&seven), ["seven"]);
    assert_eq!(received(&eight), ["eight"]);
    let [first, second] =
        [0, 1].map(|n| untagged.with(|chatter| chatter.received.get(n).cloned()).unwrap());
    assert_eq!((first.from, first.to), (station(THEM), station(US)));
    let link = Some(Stations { source: THEM, destination: MacAddr::BROADCAST });
    assert_eq!((second.link, second.hop_limit), (link, None));
    assert_eq!(received(&untagged), ["untagged", "priority"]);
    let drops = bench.stack.stats().drops;
    assert_eq!(drops[DropReason::UnknownEtherType], 4);
    assert_eq!((drops[DropReason::ShortFrame], drops[DropReason::OtherStation]), (2, 1));

    for (handle, payload) in [(&untagged, 1500), (&seven, 1496), (&seven, 1497)] {
        handle.with(|chatter| chatter.say(station(THEM), &vec![1; payload]));
    }
    bench.turn();
    let sent = bench.receive();
    let heads = sent.iter().map(|frame| (frame.len(), frame[12..18].to_vec()));
    let expected = [(1514, vec![0x88, 0xb5, 1, 1, 1, 1]), (1514, vec![0x81, 0, 0, 7, 0x88, 0xb5])];
    assert_eq!(heads.collect::<Vec<_>>(), expected);
    assert_eq!(sent[0][..12], [THEM.0, US.0].concat());
    assert_eq!(seven.counters().unsent, 1);
    assert_eq!((seven.with(|c| c.max_len), eight.counters().received), (1496, 1));
}

#[test]
fn a_full_queue_loses_nothing_and_is_counted() {
    const FRAMES: u32 = 100;
    let mut bench = Bench::new(4);
    let handle = bench.attach(Selector::EtherType(EXPERIMENT));
    handle.with(|chatter| {
        for n in 0..FRAMES {
            chatter.say(station(THEM), &n.to_be_bytes());
        }
    });
    let mut received = Vec::new();
    while received.len() < FRAMES as usize {
        let turn = bench.shard.turn(Instant::ZERO).unwrap();
        let new = bench.receive();
        assert!(turn.busy == (received.len() + new.len() < FRAMES as usize) && !new.is_empty());
        received.extend(new);
    }
    assert!(received.iter().zip(0_u32..).all(|(frame, n)| frame[14..] == n.to_be_bytes()));
    let ProtocolCounters { sent, full, unsent, .. } = handle.counters();
    assert_eq!((sent, full, unsent), (u64::from(FRAMES), u64::from(FRAMES / 4 - 1), 0));
    assert_eq!(bench.stack.stats().drops.total(), 0);
}

#[test]
fn one_protocol_leaves_room_for_others() {
    let mut bench = Bench::new(256);
    let greedy = bench.attach(Selector::EtherType(EXPERIMENT));
    let modest = bench.attach(Selector::EtherType(EXPERIMENT + 1));
    greedy.with(|chatter| (0..100).for_each(|_| chatter.say(station(THEM), b"greedy")));
    modest.with(|chatter| chatter.say(station(THEM), b"modest"));
    bench.turn();
    assert_eq!(bench.receive().len(), 64 + 1);
    assert_eq!((greedy.counters().full, modest.counters().full), (1, 0));
    bench.turn();
    assert_eq!(bench.receive().len(), 36);
}

#[test]
fn detached_protocols_are_asked_no_more() {
    let mut bench = Bench::new(16);
    let handle = bench.attach(Selector::EtherType(EXPERIMENT));
    handle.with(|chatter| chatter.alarms = [Instant::from_millis(5)].into());
    assert_eq!(bench.shard.turn(Instant::ZERO).unwrap().next, Some(Instant::from_millis(5)));
    handle.with(|chatter| chatter.say(station(THEM), b"never sent"));
    drop(handle);
    let turn = bench.shard.turn(Instant::ZERO).unwrap();
    assert_eq!((turn.next, bench.receive().len()), (None, 0));
    bench.send(US, &[0x88, 0xb5], b"x");
    bench.turn();
    assert_eq!(bench.stack.stats().drops[DropReason::UnknownEtherType], 1);
}

/// A link without Ethernet headers.
struct BareIp {
    device: MemoryDevice,
    caps: Caps,
}

impl Device for BareIp {
    type Rx<'a> = <MemoryDevice as Device>::Rx<'a>;
    type Tx<'a> = <MemoryDevice as Device>::Tx<'a>;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        self.device.split()
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        self.device.wake()
    }

    fn counters(&self) -> Counters {
        self.device.counters()
    }

    fn buffers(&self) -> Buffers {
        self.device.buffers()
    }
}

#[test]
fn without_ethernet_there_are_ip_protocols_but_no_ethertypes() {
    let (stack, mut shard, mut wire) = bare_ip();
    let refused = stack.attach(Selector::EtherType(EXPERIMENT), Chatter::default()).unwrap_err();
    assert_eq!(refused, AttachError::NoEthernet);

    let echo = stack.attach(Selector::ip_protocol(None, 253), Chatter::echo()).unwrap();
    let ends = (ip("10.0.0.2"), ip("10.0.0.1"));
    wire.send(&wire::ip_frame((US, THEM), ends, 253, b"hello")[14..]);
    shard.turn(Instant::ZERO).unwrap();
    let received = echo.with(|echo| echo.received.pop_front()).unwrap();
    assert_eq!((received.from, received.link), (host("10.0.0.2"), None));
    let sent = wire.recv();
    assert_eq!((sent.len(), &sent[0].0[20..]), (1, &b"hello"[..]));
}

/// Routers on the way, and a host that does not speak the protocol.
#[test]
fn a_way_is_found_out_hop_by_hop() {
    let (stack, mut shard, mut wire) = bare_ip();
    let probe = Probe::new(ProbeConfig::default());
    let probe = stack.attach(ProbeHeader::SELECTOR, probe).unwrap();
    let host = ip("10.0.0.2");
    for hop_limit in 1..4 {
        probe.with(|probe| probe.request(Request { hop_limit, ..Request::to(host) })).unwrap();
    }
    shard.turn(Instant::ZERO).unwrap();
    for (request, _) in wire.recv() {
        let hop_limit = request[8];
        let (by, kind, code) = match hop_limit {
            3 => ("10.0.0.2".to_owned(), 3, 2),
            hops => (format!("10.0.0.{}", 100 + hops), 11, 0),
        };
        // RFC 792: the header and 8 bytes.
        let error = [&[kind, code, 0, 0, 0, 0, 0, 0], &request[..28]].concat();
        wire.send(&wire::ip_frame((US, THEM), (ip(&by), ip("10.0.0.1")), ICMP, &error)[14..]);
    }
    let now = Instant::from_millis(7);
    shard.turn(now).unwrap();
    let after = now - Instant::ZERO;
    for (by, why) in [
        ("10.0.0.101", Reason::HopLimit),
        ("10.0.0.102", Reason::HopLimit),
        ("10.0.0.2", Reason::Refused),
    ] {
        let result = probe.wait(Probe::result).unwrap();
        assert_eq!(result.outcome, Outcome::Stopped { by: ip(by), why, after });
    }

    // About a host that nothing was sent to.
    let strange = wire::ip(ip("10.0.0.1"), ip("10.0.0.9"), 253, &[1; 20]);
    let error = [&[11, 0, 0, 0, 0, 0, 0, 0], &strange[..]].concat();
    wire.send(&wire::ip_frame((US, THEM), (host, ip("10.0.0.1")), ICMP, &error)[14..]);
    shard.turn(now).unwrap();
    assert_eq!(stack.stats().drops[DropReason::IcmpIgnored], 1);
}

fn bare_ip() -> (Stack, Shard<BareIp>, Wire) {
    let (device, wire) = MemoryDevice::pair(MemoryConfig::default());
    let caps = Caps { medium: Medium::Ip, ..device.caps().clone() };
    let (stack, shard) = Stack::builder()
        .address("10.0.0.1/24".parse().unwrap())
        .build_shard(BareIp { device, caps })
        .unwrap();
    (stack, shard, Wire(wire))
}
