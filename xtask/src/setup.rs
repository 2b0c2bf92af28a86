//! Programs that the tests run as peers of the stack.

use std::env;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{is_root, run};

/// Programs, and the Debian package that brings each.
const PROGRAMS: [(&str, &str); 7] = [
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("ethtool", "ethtool"),
    ("nc", "netcat-openbsd"),
    ("ping", "iputils-ping"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
];

/// Installs what is missing. Does nothing, quickly, if nothing is.
pub(crate) fn setup() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        println!("all programs that the tests use are installed");
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !installed("apt-get") {
        bail!("missing: {}; install them with this system's package manager", missing.join(", "));
    }
    if !is_root() {
        bail!("missing: {}; run: sudo {by_hand}", missing.join(", "));
    }
    run(apt_get().arg("update"))?;
    // The web server is run by the tests alone: its service must not start with the installation.
    run(apt_get()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(missing)
        .env("RUNLEVEL", "1"))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // The path of an ordinary user may lack the sbin directories.
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}
