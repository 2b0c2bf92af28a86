//! The benchmark of devices runs on this machine, with and without its peer.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_device_receives_and_sends_beside_testpmd_if_that_is_installed() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frames"));
    command.args(["--device", "packet", "--seconds", "0.1", "--rounds", "1", "--json"]);
    let output = command.args(["--size", "60", "--busy-budget", "0"]).output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let contenders = if messages.contains("not installed") { 1 } else { 2 };
    assert_eq!(rows.len(), 2 * contenders, "{rows:?}");
    for row in rows {
        assert!(row["frames_per_second"]["median"].as_f64().unwrap() > 1000.0, "{row}");
    }
    let ratios = rows.iter().filter(|row| row["ratio"].is_object()).count();
    assert_eq!(ratios, 2 * (contenders - 1), "{rows:?}");
}
