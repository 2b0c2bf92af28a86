//! Debian's kernel: fetched with the package manager and unpacked, not installed.
//!
//! It is the one whose headers are installed, so that a module built against them loads.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::{apt, cache, vmlinux};
use crate::run::{output, prepare};

/// Where the packages of headers put them.
const HEADERS: &str = "/usr/src";

/// The kernel from the cache, or from Debian's archive.
pub(super) fn get() -> Result<Kernel> {
    let release = release()?;
    let folder = cache::once(&release, |folder| fetch(&release, folder))?;
    Ok(Kernel {
        image: folder.join("vmlinux"),
        modules: folder,
        headers: Path::new(HEADERS).join(format!("linux-headers-{release}")),
        parameters: "",
        memory: 0,
        release,
    })
}

/// The newest release whose headers are installed.
pub(super) fn release() -> Result<String> {
    let names = fs::read_dir(HEADERS).into_iter().flatten().flatten();
    names
        .filter_map(|entry| release_of(&entry.file_name().to_string_lossy()).map(str::to_owned))
        .max_by_key(|release| numbers(release))
        .with_context(|| {
            format!("no {HEADERS}/linux-headers-*-amd64: apt-get install linux-headers-amd64")
        })
}

/// The version of the package that brought the headers of a release.
pub(super) fn version(release: &str) -> Result<String> {
    let package = format!("linux-headers-{release}");
    let query = ["--show", "--showformat", "${Version}", &package];
    output(Command::new("dpkg-query").args(query))
}

/// Of `linux-headers-6.1.0-56-amd64` what follows the second dash. The kernels for clouds lack the
/// devices of the guest, those for real time are another world.
fn release_of(name: &str) -> Option<&str> {
    let release = name.strip_prefix("linux-headers-")?;
    let plain =
        release.ends_with("-amd64") && !release.contains("cloud") && !release.contains("rt");
    plain.then_some(release)
}

fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Puts `vmlinux` and `lib/modules` into `folder`.
fn fetch(release: &str, folder: &Path) -> Result<()> {
    let package = format!("linux-image-{release}");
    let version = version(release)?;
    eprintln!("fetching {package} {version}");
    let deb = apt::download(&package, &version, &folder.join("apt"))?;
    prepare(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(folder))?;
    let image = folder.join(format!("boot/vmlinuz-{release}"));
    let image = fs::read(&image).with_context(|| image.display().to_string())?;
    vmlinux::extract(&image, &folder.join("vmlinux"))?;
    prepare(Command::new("/sbin/depmod").arg("--basedir").arg(folder).arg(release))?;
    for done in ["apt", "boot", "usr"] {
        fs::remove_dir_all(folder.join(done)).with_context(|| done.to_owned())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_headers_are_taken() {
        let names = [
            "linux-headers-6.1.0-9-amd64",
            "linux-headers-6.1.0-56-amd64",
            "linux-headers-6.1.0-56-common",
            "linux-headers-6.1.0-57-cloud-amd64",
            "linux-headers-6.1.0-58-rt-amd64",
            "linux-kbuild-6.1",
        ];
        let newest = names.iter().filter_map(|n| release_of(n)).max_by_key(|r| numbers(r));
        assert_eq!(newest, Some("6.1.0-56-amd64"));
        assert!(numbers("6.12.117+deb12-amd64") > numbers("6.1.0-56-amd64"));
    }
}
