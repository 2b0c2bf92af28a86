//! Programs that the tests run as peers of the stack, and libraries that some features need to build.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use self::Sign::{File, Program, Start};
use crate::run::{is_root, prepare};

/// What a Debian package brings that shows it is installed.
#[derive(Clone, Copy)]
enum Sign {
    Program(&'static str),
    File(&'static str),
    /// What the path of a file begins with.
    Start(&'static str),
}

/// What is needed, and the Debian package that brings it.
const NEEDS: [(Sign, &str); 20] = [
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
    // To build the feature `rdma`, with libclang.
    (Program("cmake"), "cmake"),
];

/// What the guest takes on top of that: its kernel is Debian's, for x86-64.
const GUEST_NEEDS: [(Sign, &str); 11] = [
    (File("/bin/busybox"), "busybox-static"),
    (Program("cpio"), "cpio"),
    (Program("ib_send_lat"), "perftest"),
    (Program("ibv_devinfo"), "ibverbs-utils"),
    (File("/etc/libibverbs.d/rxe.driver"), "ibverbs-providers"),
    (Program("modprobe"), "kmod"),
    (Start("/usr/src/linux-headers-"), "linux-headers-amd64"),
    (Program("qemu-system-x86_64"), "qemu-system-x86"),
    (Program("tc"), "iproute2"),
    (Program("xz"), "xz-utils"),
    (Program("zstd"), "zstd"),
];

/// What it takes to build a kernel, beside a compiler.
const KERNEL_NEEDS: [(Sign, &str); 5] = [
    (Program("bc"), "bc"),
    (Program("bison"), "bison"),
    (Program("flex"), "flex"),
    (Program("make"), "make"),
    (File("/usr/include/libelf.h"), "libelf-dev"),
];

/// Installs what is missing. Does nothing, quickly, if nothing is.
pub(crate) fn setup() -> Result<()> {
    let mut missing = missing(&NEEDS);
    if is_debian_on_x86_64() {
        missing.extend(self::missing(&GUEST_NEEDS));
    }
    if missing.is_empty() {
        println!("everything that the tests use is installed");
    }
    install(&missing)
}

/// The same for the programs that build a kernel.
pub(crate) fn kernel_build() -> Result<()> {
    install(&missing(&KERNEL_NEEDS))
}

fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if !installed("apt-get") {
        bail!("missing: {}; install them with this system's package manager", missing.join(", "));
    }
    if !is_root() {
        bail!("missing: {}; run: sudo {by_hand}", missing.join(", "));
    }
    prepare(apt_get().arg("update"))?;
    // The web server is run by the tests alone: its service must not start with the installation.
    prepare(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(missing)
            .env("RUNLEVEL", "1"),
    )
}

/// What keeps the guest from running here, if anything does.
pub(crate) fn guest_obstacle() -> Option<String> {
    if !is_debian_on_x86_64() {
        return Some("Debian on x86-64, whose kernel it boots".to_owned());
    }
    let missing = missing(&GUEST_NEEDS);
    (!missing.is_empty()).then(|| format!("{} (cargo xtask setup)", missing.join(", ")))
}

fn is_debian_on_x86_64() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    cfg!(target_arch = "x86_64") && release.lines().any(|line| line == "ID=debian")
}

/// The packages that bring what is not there.
fn missing(needs: &[(Sign, &'static str)]) -> Vec<&'static str> {
    let lacks = |sign| match sign {
        Program(program) => !installed(program),
        File(path) => !Path::new(path).is_file(),
        Start(path) => !begins_a_file(path),
    };
    needs.iter().filter(|(sign, _)| lacks(*sign)).map(|(_, package)| *package).collect()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn begins_a_file(start: &str) -> bool {
    let (folder, start) = start.rsplit_once('/').unwrap_or((".", start));
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with(start))
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // The path of an ordinary user may lack the sbin directories.
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}
