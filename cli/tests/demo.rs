//! `underpass demo`.

#![forbid(unsafe_code)]

use std::process::{Command, Output};

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn it_proves_every_device() {
    let output = Command::new(env!("CARGO_BIN_EXE_underpass")).arg("demo").output().unwrap();
    check(&output, &["tap", "packet", "kernel"]);
    if cfg!(feature = "xdp") {
        check(&output, &["xdp"]);
    }
}

/// Without privilege it makes a user namespace of its own.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn it_needs_no_privilege() {
    // A copy, for the directory of the build may be closed to others.
    let dir = tempfile::Builder::new().permissions(mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("underpass");
    std::fs::copy(env!("CARGO_BIN_EXE_underpass"), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .arg("demo")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("creating a user namespace: not permitted") {
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        return;
    }
    // Many systems keep /dev/net/tun for root; the rest works all the same.
    check(&output, &["packet", "kernel"]);
}

fn check(output: &Output, devices: &[&str]) {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    for device in devices {
        let row = text.lines().find(|line| line.starts_with(*device));
        assert!(row.is_some_and(|row| row.contains("Gbit/s")), "{device}: {text}");
    }
}

fn mode(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
