//! The guest's initial file system: busybox, and the modules it takes to mount the host's files.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use crate::run::output;

const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
const BUSYBOX: &str = "/bin/busybox";
const COMMANDS: [&str; 7] = ["sh", "mount", "mkdir", "insmod", "cat", "poweroff", "switch_root"];

/// Makes the archive `initramfs` for a kernel, and the tree it is made from, in `folder`.
pub(super) fn build(kernel: &Kernel, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    for name in ["bin", "modules", "proc", "sys", "dev", "host", "written", "root"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy(BUSYBOX, tree.join("bin/busybox"))
        .with_context(|| format!("{BUSYBOX}: apt-get install busybox-static"))?;
    for command in COMMANDS {
        symlink("busybox", tree.join("bin").join(command))?;
    }
    let init = tree.join("init");
    fs::write(&init, include_str!("init.sh"))?;
    fs::set_permissions(&init, PermissionsExt::from_mode(0o755))?;
    copy_modules(kernel, &tree.join("modules"))?;
    archive(&tree, &folder.join("initramfs"))
}

/// Copies the modules, and writes to `order` their names in the order in which they load.
fn copy_modules(kernel: &Kernel, to: &Path) -> Result<()> {
    let mut modprobe = Command::new("/sbin/modprobe");
    modprobe.arg("--dirname").arg(&kernel.modules).args(["--set-version", &kernel.release]);
    let needed = output(modprobe.args(["--show-depends", "--all"]).args(MODULES))?;
    let mut order = Vec::new();
    // Lines are `insmod PATH` and, for what is in the kernel already, `builtin NAME`.
    for path in needed.lines().filter_map(|line| line.strip_prefix("insmod ")) {
        let path = Path::new(path.trim());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.trim_end_matches(".xz");
        if order.iter().any(|known| known == name) {
            continue;
        }
        unpack(path, &to.join(name)).with_context(|| path.display().to_string())?;
        order.push(name.to_owned());
    }
    let order: String = order.iter().flat_map(|name| [name, "\n"]).collect();
    fs::write(to.join("order"), order).context("the order of modules")
}

fn unpack(module: &Path, to: &Path) -> Result<()> {
    if module.extension().is_some_and(|extension| extension == "xz") {
        let status = Command::new("xz")
            .args(["--decompress", "--stdout"])
            .stdin(File::open(module)?)
            .stdout(File::create(to)?)
            .status()?;
        ensure!(status.success(), "xz: {status}");
    } else {
        fs::copy(module, to)?;
    }
    Ok(())
}

/// Packs a tree into the archive that kernels unpack (Documentation/driver-api/early-userspace).
fn archive(tree: &Path, path: &Path) -> Result<PathBuf> {
    let mut names = Vec::new();
    list(tree, Path::new(""), &mut names)?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=+0:+0", "--null", "--quiet"])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(File::create(path)?)
        .spawn()
        .context("cpio: apt-get install cpio")?;
    let mut input = cpio.stdin.take().context("cpio's input")?;
    input.write_all(names.join("\0").as_bytes())?;
    drop(input);
    let status = cpio.wait()?;
    ensure!(status.success(), "cpio: {status}");
    Ok(path.to_owned())
}

/// The names of everything in `folder` of a tree, folders before what they hold.
fn list(tree: &Path, folder: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(tree.join(folder))? {
        let entry = entry?;
        let name = folder.join(entry.file_name());
        names.push(name.to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            list(tree, &name, names)?;
        }
    }
    Ok(())
}
