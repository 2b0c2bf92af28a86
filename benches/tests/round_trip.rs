//! The benchmark of round trips runs on this machine.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn every_contender_answers() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_round_trip"));
    let output = command.args(["--seconds", "0.05", "--rounds", "1", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    // Per device: two times of polling, and inline. The kernel: asleep and spinning.
    assert_eq!(rows.len(), 2 * 3 + 2, "{rows:?}");
    for row in rows {
        assert!(row["p50"]["median"].as_f64() <= row["p99"]["median"].as_f64(), "{row}");
    }
    assert_eq!(rows.iter().filter(|row| row["ratio"].is_object()).count(), 2 * 3, "{rows:?}");
}
