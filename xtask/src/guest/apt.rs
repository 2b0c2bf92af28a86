//! Packages of Debian's archive, downloaded and not installed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{output, prepare};

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
    prepare(apt("apt-get").args(["--quiet", "update"]))?;
    let offered = output(apt("apt-cache").args(["madison", package]))?;
    require(package, version, &offered)?;
    prepare(apt("apt-get").args(["--quiet", "download", &format!("{package}={version}")]))?;
    let mut files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let deb = files.find(|path| path.extension() == Some(OsStr::new("deb")));
    deb.with_context(|| format!("apt-get download {package} left no package"))
}

/// Fails unless the version is among those that `apt-cache madison` prints.
fn require(package: &str, version: &str, offered: &str) -> Result<()> {
    let mut versions: Vec<&str> =
        offered.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim())).collect();
    if versions.contains(&version) {
        return Ok(());
    }
    if versions.is_empty() {
        versions.push("no version at all");
    }
    bail!(
        "the headers installed here are those of version {version}, of {package} the archive has {}: \
         apt-get update && apt-get install linux-headers-amd64 brings headers that fit",
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::require;

    #[test]
    fn a_version_that_is_gone_is_named_beside_those_that_are_there() {
        let offered = "linux-image | 6.1.190-1 | http://deb.debian.org/debian bookworm/main\n\
                       linux-image | 6.1.192-2 | http://deb.debian.org/debian-security main\n";
        require("linux-image", "6.1.192-2", offered).unwrap();
        let error = require("linux-image", "6.1.180-1", offered).unwrap_err().to_string();
        assert!(error.contains("version 6.1.180-1"), "{error}");
        assert!(error.contains("has 6.1.190-1, 6.1.192-2: "), "{error}");
        let error = require("linux-image", "6.1.180-1", "").unwrap_err().to_string();
        assert!(error.contains("has no version at all"), "{error}");
    }
}
