//! Whatever goes wrong is told in one line, with its cause, and a non-zero exit code.

#![forbid(unsafe_code)]

mod common;

use std::process::{Command, Output};

use common::Lab;

#[test]
fn wrong_arguments() {
    for (arguments, cause) in [
        (&["echo", "--addr", "10.7.0.2/24"][..], "--device"),
        (&["echo", "--device", "packet:veth0"], "--addr"),
        (&["echo", "--device", "floppy:a", "--addr", "10.7.0.2/24"], "floppy"),
        (&["echo", "--device", "packet:", "--addr", "10.7.0.2/24"], "--device"),
        (&["echo", "--device", "packet:veth0", "--addr", "10.7.0.2"], "--addr"),
        (&["ech"], "echo"),
        (
            &[
                "http-serve",
                "--root",
                "/no/such/dir",
                "--device",
                "packet:lo",
                "--addr",
                "10.7.0.2/24",
            ],
            "/no/such/dir",
        ),
    ] {
        check(&underpass(arguments).output().unwrap(), cause);
    }
}

#[test]
fn missing_interface() {
    let arguments = ["echo", "--device", "packet:missing0", "--addr", "10.7.0.2/24"];
    check(&underpass(&arguments).output().unwrap(), "missing0");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn no_permission() {
    for lab in [Lab::packet(), Lab::tap()] {
        let attached = lab.underpass(&["echo"]);
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]);
        command.arg(attached.get_program()).args(attached.get_args());
        check(&lab.run_ours(command), "CAP_NET_");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn gateway_off_the_link() {
    check(&Lab::packet().run(&["echo", "--gateway", "10.8.0.1"]), "10.8.0.1");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn device_in_use() {
    let lab = Lab::tap();
    let _server = lab.serve(&["echo"]);
    check(&lab.run(&["echo"]), "in use");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn device_goes_away() {
    let lab = Lab::packet();
    let mut server = lab.serve(&["http-serve", "--root", "."]);
    lab.delete_our_end("veth0");
    let (exit, stdout) = server.wait();
    assert_eq!(exit.code(), Some(1), "{stdout}");
    assert!(server.stderr().contains("error: accepting connections: "));
}

fn underpass(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
    command.args(arguments);
    command
}

fn check(output: &Output, cause: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.contains(cause), "{cause}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
