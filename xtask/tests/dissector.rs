//! tshark with the generated dissector, on a capture of our own.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use underpass::devices::{
    Device, Instant, MemoryConfig, MemoryDevice, Pcap, Selector, TxMeta, TxQueue,
};
use underpass::protocols::beacon::{Announcement, Beacon, BeaconConfig, BeaconHeader};
use underpass::protocols::courier::{self, Attached, Config, Event, Hello, MessageHeader};
use underpass::protocols::dissector::{Dissector, lua};
use underpass::protocols::header::Header;
use underpass::protocols::probe::{Probe, ProbeConfig, ProbeHeader, Request};
use underpass::protocols::{Peer, header};
use underpass::{Builder, Shard, Stack};
use zerocopy::IntoBytes;
use zerocopy::network_endian::{U32, U64};

/// Requests and replies of probe over each IP version, beacons, and a call of courier, seen from one end.
fn capture(path: &Path) {
    let (left, right) = MemoryDevice::pair(MemoryConfig::default());
    let file = File::create(path).unwrap();
    let left = Pcap::new(left, "left", file, SystemTime::now()).unwrap();
    let (left, mut left_shard) = builder(1).build_shard(left).unwrap();
    let (right, mut right_shard) = builder(2).build_shard(right).unwrap();
    let config = ProbeConfig { session: 4711, ..ProbeConfig::default() };
    let attach = |stack: &Stack| stack.attach(ProbeHeader::SELECTOR, Probe::new(config)).unwrap();
    let (near, _far) = (attach(&left), attach(&right));
    for to in ["10.0.0.2", "fd00::2"] {
        let request = Request { payload: 7, hop_limit: 9, ..Request::to(to.parse().unwrap()) };
        near.with(|near| near.request(request)).unwrap();
    }
    let _beacons = [(&left, 1_u8), (&right, 2)].map(|(stack, n)| {
        let said = Announcement {
            shards: 3,
            addresses: vec![[10, 0, 0, n].into(), "fd00::1".parse().unwrap()],
            services: vec![80],
        };
        let beacon = Beacon::new(BeaconConfig::new(n.into()), said).unwrap();
        stack.attach(BeaconHeader::SELECTOR, beacon).unwrap()
    });
    let [caller, server] = [(&left, 1), (&right, 2)].map(|(stack, secret)| {
        let courier = Attached::new(Config::default(), [secret; 16]);
        stack.attach(courier::Header::SELECTOR, courier).unwrap()
    });
    let to = Peer::Port("10.0.0.2:7000".parse().unwrap());
    caller.with(|caller| caller.send_request(to, vec![1; 2000])).unwrap();
    caller.with(|caller| caller.send(to, b"by the way".to_vec())).unwrap();
    let mut answered = false;
    for millis in 0..20 {
        turn(&mut left_shard, millis);
        turn(&mut right_shard, millis);
        server.with(|server| {
            if let Some(Event::Request { call, .. }) = server.poll_event() {
                server.respond(call, vec![2; 64]).unwrap();
            }
        });
        let event = caller.with(|caller| caller.poll_event());
        answered |= matches!(event, Some(Event::Response { .. }));
    }
    assert_eq!((near.counters().received, answered), (2, true));
}

fn builder(n: u8) -> Builder {
    Stack::builder()
        .address(format!("10.0.0.{n}/24").parse().unwrap())
        .address(format!("fd00::{n}/64").parse().unwrap())
        .seed(n.into())
}

fn turn<D: Device>(shard: &mut Shard<D>, millis: u64) {
    shard.turn(Instant::from_millis(millis)).unwrap();
}

/// What tshark says of these fields, a line per frame.
fn tshark(script: &Path, captured: &Path, filter: &str, fields: &[String]) -> String {
    let mut tshark = Command::new("tshark");
    tshark.arg("-X").arg(format!("lua_script:{}", script.display())).arg("-r").arg(captured);
    tshark.args(["-Y", filter, "-T", "fields", "-E", "separator=,"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs tshark: run by cargo xtask test"]
fn tshark_names_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let (script, captured) = (dir.path().join("underpass.lua"), dir.path().join("probe.pcapng"));
    let xtask = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["dissector", "--out"])
        .arg(&script)
        .status();
    assert!(xtask.unwrap().success());
    capture(&captured);

    let fields = ProbeHeader::FIELDS.iter().map(|field| format!("probe.{}", field.name));
    let fields: Vec<_> = fields.chain(["data.len".to_owned()]).collect();
    let lines = tshark(&script, &captured, "probe", &fields);
    let mut seen = [0; 3];
    for line in lines.lines() {
        let values: Vec<&str> = line.split(',').collect();
        let [version, kind, checksum, session, sequence, sent_at, hop_limit, hops, reserved, data] =
            values[..]
        else {
            panic!("{line}")
        };
        assert!(values.iter().all(|value| !value.is_empty()), "{line}");
        assert_eq!((version, session, reserved, data), ("1", "4711", "0", "7"));
        assert!(checksum.starts_with("0x") && sent_at.parse::<u64>().is_ok(), "{line}");
        assert!(["0", "1"].contains(&sequence) && hops == "0", "{line}");
        let is_reply = kind == "2";
        assert_eq!(hop_limit, if is_reply { "64" } else { "9" });
        seen[kind.parse::<usize>().unwrap()] += 1;
    }
    assert_eq!(seen, [0, 2, 2], "requests and replies:\n{lines}");

    let fields =
        BeaconHeader::FIELDS.iter().map(|field| format!("underpass.beacon.{}", field.name));
    let fields: Vec<_> = fields.chain(["data.len".to_owned()]).collect();
    let lines = tshark(&script, &captured, "underpass.beacon.kind == 2", &fields);
    let mut lines = lines.lines().collect::<Vec<_>>();
    lines.sort_unstable_by_key(|line| line.split(',').nth(3));
    assert_eq!(lines.len(), 2, "a solicitation of each: {lines:?}");
    for (line, incarnation) in lines.into_iter().zip(["1", "2"]) {
        let values: Vec<&str> = line.split(',').collect();
        assert!(values[2].starts_with("0x"), "{line}");
        assert_eq!(values[..2], ["1", "2"], "{line}");
        assert_eq!(values[3..], [incarnation, "0", "1000", "3", "1", "1", "1", "000000", "22"]);
    }

    let packets = named::<courier::Header>(&script, &captured, "underpass.courier", &[]);
    assert!(packets.len() >= 6, "{packets:?}");
    for packet in &packets {
        let kind: u8 = packet[1].parse().unwrap();
        assert!((0x11..=0x19).contains(&kind) && packet.iter().all(|value| !value.is_empty()));
    }
    let data = ["data.len"];
    let parts = named::<MessageHeader>(&script, &captured, "underpass.courier.part.offset", &data);
    let part = |length: &str, offset: &str, data: &str| {
        parts.iter().filter(|part| part[3..] == [length, offset, data]).count()
    };
    assert_eq!(part("2000", "0", "1392") + part("2000", "1392", "608"), 2, "{parts:?}");
    assert_eq!((part("64", "0", "64"), part("10", "0", "10")), (1, 1), "{parts:?}");
    assert_eq!(parts.len(), 4, "{parts:?}");
    let hellos = named::<Hello>(&script, &captured, "underpass.courier.hello.calls", &[]);
    assert_eq!(hellos.len(), 2, "hello and welcome: {hellos:?}");
    for hello in hellos {
        assert_ne!(hello[0], "0");
        assert_eq!(hello[1..], ["262144", "1452", "256"]);
    }
}

/// The different values of all fields of a header, and of others, where the filter has it.
fn named<H: Header>(
    script: &Path,
    captured: &Path,
    filter: &str,
    more: &[&str],
) -> Vec<Vec<String>> {
    let fields = H::FIELDS.iter().map(|field| format!("{}.{}", H::NAME, field.name));
    let fields: Vec<_> = fields.chain(more.iter().map(ToString::to_string)).collect();
    let lines = tshark(script, captured, filter, &fields);
    let mut lines: Vec<Vec<_>> =
        lines.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect();
    // Some were sent twice: the clock here leaps by milliseconds.
    lines.sort_unstable();
    lines.dedup();
    lines
}

header! {
    /// On Ethernet, with "quotes" and a \\ in its title
    struct OnEthernet("on_ethernet", Selector::EtherType(0x88b5)) {
        /// A number
        long: U32,
        /// Others of no number's width
        odd: [u8; 3],
    }
}

header! {
    /// On UDP
    struct OnUdp("on-udp", Selector::udp_port(None, 4711)) {
        /// A number
        longest: U64,
    }
}

#[test]
#[ignore = "needs tshark: run by cargo xtask test"]
fn every_kind_of_selector_leads_to_the_dissector() {
    let dir = tempfile::tempdir().unwrap();
    let (script, captured) = (dir.path().join("test.lua"), dir.path().join("test.pcapng"));
    let dissectors = [Dissector::of::<OnEthernet>(), Dissector::of::<OnUdp>()];
    std::fs::write(&script, lua(&dissectors)).unwrap();

    let on_ethernet = OnEthernet { long: 0x0102_0304.into(), odd: [5, 6, 7] };
    let on_udp = OnUdp { longest: u64::MAX.into() };
    let ipv4 = [0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let udp = [0x12, 0x67, 0x12, 0x67, 0, 16, 0, 0];
    let frames: [&[&[u8]]; 3] = [
        &[&[0x88, 0xb5], on_ethernet.as_bytes()],
        &[&[0x81, 0, 0, 7, 0x88, 0xb5], on_ethernet.as_bytes()],
        &[&[8, 0], &ipv4, &udp, on_udp.as_bytes()],
    ];
    let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
    let file = File::create(&captured).unwrap();
    let mut device = Pcap::new(device, "test", file, SystemTime::now()).unwrap();
    for frame in frames {
        let frame = [&[2; 12], &frame.concat()[..]].concat();
        let write = |slot: &mut [u8]| slot.copy_from_slice(&frame);
        device.split().1.send(frame.len(), TxMeta::default(), write).unwrap();
    }
    device.flush().unwrap();

    let fields = ["on_ethernet.long", "on_ethernet.odd"].map(str::to_owned);
    let lines = tshark(&script, &captured, "on_ethernet", &fields);
    assert_eq!(lines, "16909060,050607\n16909060,050607\n");
    let lines = tshark(&script, &captured, "on-udp", &["on-udp.longest".to_owned()]);
    assert_eq!(lines, "18446744073709551615\n");
}
