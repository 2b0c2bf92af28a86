//! What DPDK needs of a machine, as the kernel shows it in `/sys`: huge pages, an IOMMU, `vfio-pci`, and
//! network cards to drive with it.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::sysfs::{names, read};
use super::{Backend, Status, setting};

/// A network card on the PCI bus, which DPDK might drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Its address, such as `0000:01:00.0`.
    pub address: String,
    /// The interfaces that the kernel has on it.
    pub interfaces: Vec<String>,
    /// The kernel's driver, if it has one.
    pub driver: Option<String>,
    /// How to use it as `dpdk:ADDRESS`.
    pub advice: String,
    /// The commands for that, to be run as root in this order.
    pub commands: Vec<String>,
}

/// Drivers that leave a device to userspace.
const USERSPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers that share a device with DPDK.
const SHARING: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];
/// PCI class of network controllers.
const NETWORK: &str = "0x02";

/// What DPDK may need besides itself.
pub(super) fn facilities() -> [Backend; 3] {
    let sys = Path::new("/sys");
    [
        Backend { name: "huge pages", status: huge_pages(sys) },
        Backend { name: "iommu", status: iommu(sys) },
        Backend { name: "vfio-pci", status: vfio(sys) },
    ]
}

/// The network cards of this machine.
pub(super) fn nics() -> Vec<Nic> {
    nics_in(Path::new("/sys"))
}

fn huge_pages(sys: &Path) -> Status {
    let mut found: Vec<String> = names(&sys.join("kernel/mm/hugepages"))
        .into_iter()
        .filter_map(|size| {
            let free = read(&sys.join("kernel/mm/hugepages").join(&size).join("free_hugepages"))?;
            let size = size.strip_prefix("hugepages-")?;
            (free != "0").then(|| format!("{free} of {size} are free"))
        })
        .collect();
    found.sort();
    if found.is_empty() {
        return Status::Missing {
            cause: "none is free".to_owned(),
            remedy: "sysctl vm.nr_hugepages=256; dpdk: devices do without, but for network cards"
                .to_owned(),
        };
    }
    Status::Works { detail: found.join(", ") }
}

fn iommu(sys: &Path) -> Status {
    match names(&sys.join("kernel/iommu_groups")).len() {
        0 => Status::Missing {
            cause: "the kernel has no IOMMU groups".to_owned(),
            remedy: "switch it on in the firmware (VT-d, AMD-Vi) and boot with intel_iommu=on; \
                     vfio-pci has a mode without"
                .to_owned(),
        },
        groups => Status::Works { detail: format!("{groups} groups") },
    }
}

fn vfio(sys: &Path) -> Status {
    if sys.join("bus/pci/drivers/vfio-pci").exists() {
        return Status::Works { detail: "the driver is loaded".to_owned() };
    }
    let release = setting("kernel.osrelease").unwrap_or_default();
    let modules = read(&Path::new("/lib/modules").join(release).join("modules.dep"));
    if modules.is_some_and(|modules| modules.contains("/vfio-pci.ko")) {
        return Status::Missing {
            cause: "the driver is not loaded".to_owned(),
            remedy: "modprobe vfio-pci".to_owned(),
        };
    }
    Status::Missing {
        cause: "the kernel lacks the driver (CONFIG_VFIO_PCI)".to_owned(),
        remedy: "use a kernel that is built with it; virtual dpdk: devices need none".to_owned(),
    }
}

fn nics_in(sys: &Path) -> Vec<Nic> {
    let devices = sys.join("bus/pci/devices");
    let has_iommu = !names(&sys.join("kernel/iommu_groups")).is_empty();
    let mut nics: Vec<Nic> = names(&devices)
        .into_iter()
        .filter(|address| {
            read(&devices.join(address).join("class")).is_some_and(|c| c.starts_with(NETWORK))
        })
        .map(|address| nic(sys, address, has_iommu))
        .collect();
    nics.sort_by(|a, b| a.address.cmp(&b.address));
    nics
}

fn nic(sys: &Path, address: String, has_iommu: bool) -> Nic {
    let device = sys.join("bus/pci/devices").join(&address);
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let interfaces = interfaces(&device);
    let is = |kinds: &[&str]| driver.as_deref().is_some_and(|driver| kinds.contains(&driver));
    let (advice, commands) = if is(&USERSPACE) {
        (format!("ready: dpdk:{address}"), Vec::new())
    } else if is(&SHARING) {
        (format!("ready, beside the kernel: dpdk:{address}"), Vec::new())
    } else {
        let up = |name: &&String| {
            read(&sys.join("class/net").join(name).join("operstate")).is_some_and(|s| s == "up")
        };
        let loses = match interfaces.iter().find(up) {
            Some(name) => format!("; this machine loses {name}, which is in use"),
            None => String::new(),
        };
        let advice = format!("bind it to vfio-pci for dpdk:{address}{loses}");
        (advice, binding(&address, &interfaces, driver.is_some(), has_iommu))
    };
    Nic { address, interfaces, driver, advice, commands }
}

/// Linux: Documentation/driver-api/vfio.rst, Documentation/ABI/testing/sysfs-bus-pci.
fn binding(address: &str, interfaces: &[String], has_driver: bool, has_iommu: bool) -> Vec<String> {
    let mut commands = vec!["modprobe vfio-pci".to_owned()];
    if !has_iommu {
        let switch = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
        commands.push(format!("echo 1 > {switch}"));
    }
    commands.extend(interfaces.iter().map(|name| format!("ip link set {name} down")));
    let device = format!("/sys/bus/pci/devices/{address}");
    commands.push(format!("echo vfio-pci > {device}/driver_override"));
    if has_driver {
        commands.push(format!("echo {address} > {device}/driver/unbind"));
    }
    commands.push(format!("echo {address} > /sys/bus/pci/drivers_probe"));
    commands
}

/// Those of the device, and those of a virtio device behind it.
fn interfaces(device: &Path) -> Vec<String> {
    let mut found = names(&device.join("net"));
    for child in names(device).iter().filter(|name| name.starts_with("virtio")) {
        found.extend(names(&device.join(child).join("net")));
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A `/sys` of our own.
    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("underpass-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn dir(&self, path: &str) {
            fs::create_dir_all(self.0.join(path)).unwrap();
        }

        fn card(&self, address: &str, driver: Option<&str>) {
            let device = format!("bus/pci/devices/{address}");
            self.file(&format!("{device}/class"), "0x020000\n");
            if let Some(driver) = driver {
                let to = format!("../../drivers/{driver}");
                symlink(to, self.0.join(device).join("driver")).unwrap();
            }
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_card_of_the_kernel_is_bound_by_these_commands() {
        let sys = Sys::new("bound");
        sys.card("0000:01:00.0", Some("e1000"));
        sys.dir("bus/pci/devices/0000:01:00.0/net/eth7");
        sys.file("class/net/eth7/operstate", "up\n");
        sys.file("bus/pci/devices/0000:00:02.0/class", "0x030000\n");
        let found = nics_in(&sys.0);
        assert_eq!(found.len(), 1, "a display is no network card: {found:?}");
        assert_eq!(
            (&found[0].interfaces[..], found[0].driver.as_deref()),
            (&["eth7".to_owned()][..], Some("e1000"))
        );
        assert!(found[0].advice.ends_with("this machine loses eth7, which is in use"));
        let expected = [
            "modprobe vfio-pci",
            "echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            "ip link set eth7 down",
            "echo vfio-pci > /sys/bus/pci/devices/0000:01:00.0/driver_override",
            "echo 0000:01:00.0 > /sys/bus/pci/devices/0000:01:00.0/driver/unbind",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers_probe",
        ];
        assert_eq!(found[0].commands, expected);
        sys.dir("kernel/iommu_groups/0");
        assert_eq!(nics_in(&sys.0)[0].commands.len(), expected.len() - 1);
    }

    #[test]
    fn cards_that_are_ready_and_those_of_virtio_are_known() {
        let sys = Sys::new("ready");
        sys.card("0000:01:00.0", Some("vfio-pci"));
        sys.card("0000:02:00.0", Some("mlx5_core"));
        sys.card("0000:03:00.0", Some("virtio-pci"));
        sys.dir("bus/pci/devices/0000:03:00.0/virtio1/net/eth0");
        sys.card("0000:04:00.0", None);
        let found = nics_in(&sys.0);
        assert_eq!(found[0].advice, "ready: dpdk:0000:01:00.0");
        assert_eq!(found[1].advice, "ready, beside the kernel: dpdk:0000:02:00.0");
        assert_eq!(found[2].interfaces, ["eth0"]);
        assert!(!found[3].commands.iter().any(|command| command.contains("unbind")));
    }

    #[test]
    fn huge_pages_that_are_free_are_counted() {
        let sys = Sys::new("pages");
        sys.file("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n");
        assert!(matches!(huge_pages(&sys.0), Status::Missing { .. }));
        sys.file("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "12\n");
        let detail = "12 of 2048kB are free".to_owned();
        assert_eq!(huge_pages(&sys.0), Status::Works { detail });
        assert!(matches!(iommu(&sys.0), Status::Missing { .. }));
    }
}
