//! Programs that the tests run as peers of the stack, and libraries that some features need to build.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use self::Sign::{File, Program};
use crate::run::{is_root, run};

/// What a Debian package brings that shows it is installed.
#[derive(Clone, Copy)]
enum Sign {
    Program(&'static str),
    File(&'static str),
}

/// What is needed, and the Debian package that brings it.
const NEEDS: [(Sign, &str); 19] = [
    (Program("curl"), "curl"),
    (Program("dnsmasq"), "dnsmasq-base"),
    (Program("dpdk-testpmd"), "dpdk-dev"),
    (Program("ethtool"), "ethtool"),
    (Program("nc"), "netcat-openbsd"),
    (Program("ping"), "iputils-ping"),
    (Program("nginx"), "nginx-light"),
    (Program("tshark"), "tshark"),
    (Program("wrk"), "wrk"),
    // To build the feature `xdp`.
    (Program("clang"), "clang"),
    (Program("m4"), "m4"),
    (Program("make"), "make"),
    (Program("pkg-config"), "pkg-config"),
    (File("/usr/include/bpf/bpf_helpers.h"), "libbpf-dev"),
    (File("/usr/include/libelf.h"), "libelf-dev"),
    (File("/usr/include/zlib.h"), "zlib1g-dev"),
    // To build the feature `dpdk`.
    (Program("gcc"), "gcc"),
    (File("/usr/include/dpdk/rte_eal.h"), "libdpdk-dev"),
    (File("/usr/share/doc/libclang-dev/copyright"), "libclang-dev"),
];

/// Installs what is missing. Does nothing, quickly, if nothing is.
pub(crate) fn setup() -> Result<()> {
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|(sign, _)| !match sign {
            Program(program) => installed(program),
            File(path) => Path::new(path).is_file(),
        })
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        println!("everything that the tests use is installed");
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
