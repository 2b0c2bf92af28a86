//! Packages of Debian's archive, downloaded and not installed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{output, run};

/// Downloads a package of the archive into `folder`, where apt's lists go as well: those of the
/// system may be missing or old, and need root to be renewed.
pub(super) fn download(package: &str, version: &str, folder: &Path) -> Result<PathBuf> {
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder).env("LC_ALL", "C");
        for (key, value) in [("Dir::State::lists", "lists"), ("Dir::Cache", "cache")] {
            command.arg("-o").arg(format!("{key}={}", folder.join(value).display()));
        }
        // Root's downloads are made by a user who may not write here.
        command.args(["-o", "APT::Sandbox::User="]);
        command
    };
    fs::create_dir_all(folder.join("lists/partial"))?;
    fs::create_dir_all(folder.join("cache/archives/partial"))?;
    run(apt("apt-get").args(["--quiet", "update"]))?;
    let versions = output(apt("apt-cache").args(["madison", package]))?;
    let versions: Vec<&str> =
        versions.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim())).collect();
    if !versions.contains(&version) {
        bail!(
            "{package} {version} is no longer to be had, only version {}: \
             apt-get update && apt-get install linux-headers-amd64 brings headers whose kernel is",
            if versions.is_empty() { "none".to_owned() } else { versions.join(", ") }
        );
    }
    run(apt("apt-get").args(["--quiet", "download", &format!("{package}={version}")]))?;
    let mut files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let deb = files.find(|path| path.extension() == Some(OsStr::new("deb")));
    deb.with_context(|| format!("apt-get download {package} left no package"))
}
