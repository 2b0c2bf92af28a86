//! A kernel that finds what the stock one overlooks: KASAN, lockdep, kmemleak, reference trackers.
//! Built once, from Debian's sources of the same version and `kmod/debug.config`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use super::{apt, cache, stock};
use crate::run::{output, prepare, root};
use crate::setup;

/// The kernel from the cache, or built there: some ten minutes on two processors.
pub(super) fn get() -> Result<Kernel> {
    let stock = stock::release()?;
    let version = stock::version(&stock)?;
    let folder = cache::folder()?.join(format!("debug-{version}"));
    let config = root().join("kmod/debug.config");
    let config = fs::read_to_string(&config).with_context(|| config.display().to_string())?;
    let _lock = cache::lock("debug")?;
    // What it was built with, once it is.
    let built = folder.join("config");
    if fs::read_to_string(&built).ok().as_ref() != Some(&config) {
        build(&stock, &version, &config, &folder)?;
        fs::write(&built, config).with_context(|| built.display().to_string())?;
    }
    let headers = folder.join("build");
    Ok(Kernel {
        release: kernel_release(&headers)?,
        // Its vmlinux does not start the way QEMU enters one.
        image: headers.join("arch/x86/boot/bzImage"),
        modules: folder.join("modules"),
        headers,
        // The emulated ACPI's programs take a minute under KASAN, and then devices are lost.
        parameters: "pci=noacpi acpi=noirq",
        memory: 512,
    })
}

/// Makes `build` and `modules` in `folder`, which keeps what an interrupted build has done.
fn build(stock: &str, version: &str, config: &str, folder: &Path) -> Result<()> {
    setup::kernel_build()?;
    let series: Vec<&str> = stock.splitn(3, ['.', '-', '+']).take(2).collect();
    let source = format!("linux-source-{}", series.join("."));
    let tree = folder.join(&source);
    if !tree.is_dir() {
        fetch(&source, version, folder)?;
    }
    let build = folder.join("build");
    fs::create_dir_all(&build)?;
    let fragment = build.join("fragment");
    fs::write(&fragment, config)?;
    prepare(
        Command::new("make")
            .arg("--directory")
            .arg(&tree)
            .args(["--quiet", &format!("O={}", build.display()), "allnoconfig"])
            .env("KCONFIG_ALLCONFIG", fragment),
    )?;
    check_config(config, &fs::read_to_string(build.join(".config"))?)?;
    let jobs = available_parallelism().map_or(1, usize::from);
    prepare(make(&build).args([&format!("-j{jobs}"), "bzImage", "modules"]))?;
    let to = format!("INSTALL_MOD_PATH={}", folder.join("modules").display());
    prepare(make(&build).args([&to, "modules_install"]))
}

/// Unpacks Debian's sources.
fn fetch(source: &str, version: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let part = tempfile::Builder::new().prefix("source").tempdir_in(folder)?;
    let deb = apt::download(source, version, part.path())?;
    prepare(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(part.path()))?;
    let archive = part.path().join(format!("usr/src/{source}.tar.xz"));
    let unpack = ["--extract", "--file"];
    prepare(Command::new("tar").current_dir(part.path()).args(unpack).arg(archive))?;
    fs::rename(part.path().join(source), folder.join(source)).context("the kernel's sources")
}

fn make(build: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("--directory").arg(build);
    make
}

fn kernel_release(build: &Path) -> Result<String> {
    output(make(build).args(["--silent", "--no-print-directory", "kernelrelease"]))
}

/// Options that are asked for are lost without a word if another forbids them.
fn check_config(asked: &str, got: &str) -> Result<()> {
    let lost: Vec<&str> = asked
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && !got.lines().any(|other| other == *line))
        .collect();
    if !lost.is_empty() {
        bail!("kmod/debug.config: the kernel's configuration lost {}", lost.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_config;

    #[test]
    fn a_lost_option_is_named() {
        let asked = "# what\nCONFIG_SMP=y\nCONFIG_KASAN=y\n";
        check_config(asked, "CONFIG_KASAN=y\nCONFIG_SMP=y\n").unwrap();
        let error = check_config(asked, "# CONFIG_KASAN is not set\nCONFIG_SMP=y\n").unwrap_err();
        assert!(error.to_string().ends_with("lost CONFIG_KASAN=y"), "{error}");
    }
}
