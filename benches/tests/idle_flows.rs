//! What an idle connection may cost in memory.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn an_end_of_an_idle_connection_with_small_buffers_stays_below_its_goal() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idle_flows"));
    let output = command.args(["--flows", "10000", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = |name: &str| report[name].as_u64().unwrap();
    let used = bytes("resident_per_end");
    // It has written to its buffers, or the measurement is wrong.
    assert!((bytes("buffers_per_end")..=bytes("goal_per_end")).contains(&used), "{report}");
}
