//! tshark with the generated dissector, on a capture of our own.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use underpass::devices::{Device, Instant, MemoryConfig, MemoryDevice, Pcap};
use underpass::protocols::header::{Field, Header};
use underpass::protocols::probe::{Probe, ProbeConfig, ProbeHeader, Request};
use underpass::{Builder, Shard, Stack};

/// A request and a reply over each IP version, seen from one end.
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
    for millis in 0..20 {
        turn(&mut left_shard, millis);
        turn(&mut right_shard, millis);
    }
    assert_eq!(near.counters().received, 2);
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

    let mut tshark = Command::new("tshark");
    tshark.arg("-X").arg(format!("lua_script:{}", script.display())).arg("-r").arg(&captured);
    tshark.args(["-Y", "probe", "-T", "fields", "-E", "separator=,"]);
    for Field { name, .. } in ProbeHeader::FIELDS {
        tshark.args(["-e", &format!("probe.{name}")]);
    }
    tshark.args(["-e", "data.len"]);
    let output = tshark.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut seen = [0; 3];
    for line in lines.lines() {
        let values: Vec<&str> = line.split(',').collect();
        let [version, kind, checksum, session, sequence, sent_at, hop_limit, hops, reserved, data] =
            values[..]
        else {
            panic!("{line}\n{stderr}")
        };
        assert!(values.iter().all(|value| !value.is_empty()), "{line}\n{stderr}");
        assert_eq!((version, session, reserved, data), ("1", "4711", "0", "7"));
        assert!(checksum.starts_with("0x") && sent_at.parse::<u64>().is_ok(), "{line}");
        assert!(["0", "1"].contains(&sequence) && hops == "0", "{line}");
        let is_reply = kind == "2";
        assert_eq!(hop_limit, if is_reply { "64" } else { "9" });
        seen[kind.parse::<usize>().unwrap()] += 1;
    }
    assert_eq!(seen, [0, 2, 2], "requests and replies:\n{lines}{stderr}");
}
