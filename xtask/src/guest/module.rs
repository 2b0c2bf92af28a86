//! Our kernel module, built for the kernel of a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache;
use super::kernel::Kernel;
use crate::run::{prepare, root};

/// Builds `kmod/` by Kbuild (Documentation/kbuild/modules.rst), in a copy, which keeps what it makes
/// out of the sources. What has not changed is not built again.
pub(super) fn build(kernel: &Kernel) -> Result<PathBuf> {
    let name = format!("module-{}", kernel.release);
    let _lock = cache::lock(&name)?;
    let folder = cache::folder()?.join(name);
    copy(&root().join("kmod"), &folder)?;
    let mut make = Command::new("make");
    make.arg("--directory").arg(&kernel.headers).arg(format!("M={}", folder.display()));
    prepare(make.args(["--quiet", "modules"]))?;
    Ok(folder.join("underpass_ring.ko"))
}

/// Copies files that differ, so that make sees which are newer than what was made from them.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
            continue;
        }
        let text = fs::read(entry.path())?;
        if fs::read(&to).ok().as_ref() != Some(&text) {
            fs::write(&to, text).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}
