//! Compiles the XDP program (feature `xdp`).

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const SOURCE: &str = "src/xdp/bpf/underpass.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_XDP").is_none() {
        return;
    }
    let out_dir = env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let mut command = Command::new(&clang);
    // `v3` has the compare-and-swap that the rate limit needs (Linux 5.12).
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // Debian keeps <asm/types.h> where clang looks for it only when the target is the host.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    command.arg(format!("-I/usr/include/{arch}-linux-gnu"));
    command.args(["-c", SOURCE, "-o"]).arg(out_dir.join("underpass.bpf.o"));
    let remedy = "the feature `xdp` needs clang and the headers of libbpf; `cargo xtask setup` \
                  installs everything that it needs on Debian";
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("compiling {SOURCE} failed ({status}): {remedy}")),
        Err(error) => fail(&format!("{}: {error}: {remedy}", clang.display())),
    }
}

fn fail(message: &str) {
    println!("cargo::error={message}");
    exit(1);
}
