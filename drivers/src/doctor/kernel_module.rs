//! Whether our kernel module is loaded, could be, and how.

use std::fs;
use std::path::Path;

use super::{Status, setting};

const NAME: &str = "underpass_ring";

/// What is missing if the module is not loaded.
pub(super) fn obstacle() -> Option<Status> {
    if Path::new("/sys/module").join(NAME).is_dir() {
        return None;
    }
    let missing = |cause: String, remedy: String| Some(Status::Missing { cause, remedy });
    let elsewhere = "use another kernel; `cargo xtask guest` boots one in a virtual machine";
    if !Path::new("/proc/modules").exists() {
        let cause = "the running kernel loads no modules (CONFIG_MODULES)".to_owned();
        return missing(cause, elsewhere.to_owned());
    }
    if setting("kernel.modules_disabled").as_deref() == Some("1") {
        let cause = "loading modules is switched off until the next boot".to_owned();
        return missing(cause, "kernel.modules_disabled cannot be set back".to_owned());
    }
    let release = setting("kernel.osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(&release);
    if is_installed(&modules) {
        let cause = format!("the kernel module {NAME} is not loaded");
        return missing(cause, format!("as root: modprobe {NAME}"));
    }
    let build = format!("make -C kmod, then as root: insmod kmod/{NAME}.ko (kmod/README.md)");
    let cause = format!("the kernel module {NAME} is not installed");
    if modules.join("build/Makefile").is_file() {
        return missing(cause, format!("build and load it: {build}"));
    }
    let headers = format!("apt-get install linux-headers-{release}");
    missing(cause, format!("the kernel's headers are missing, too: {headers}; then {build}"))
}

/// Whether depmod knows the module.
fn is_installed(modules: &Path) -> bool {
    let index = fs::read_to_string(modules.join("modules.dep")).unwrap_or_default();
    let names = index.lines().filter_map(|line| line.split(':').next());
    names.into_iter().any(|path| path.contains(&format!("/{NAME}.ko")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_module_is_found_in_the_index() {
        let folder = std::env::temp_dir().join(format!("underpass-modules-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(!is_installed(&folder));
        let index = "kernel/net/veth.ko.xz:\nupdates/dkms/underpass_ring.ko: kernel/a.ko\n";
        fs::write(folder.join("modules.dep"), index).unwrap();
        let found = is_installed(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert!(found);
    }

    #[test]
    fn what_is_missing_is_said_with_what_helps() {
        match obstacle() {
            None => assert!(Path::new("/sys/module/underpass_ring").is_dir()),
            Some(Status::Missing { cause, remedy }) => {
                assert!(!cause.is_empty() && !remedy.is_empty());
            }
            Some(other) => panic!("{other:?}"),
        }
    }
}
