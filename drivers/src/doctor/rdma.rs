//! The RDMA devices of a machine, as the kernel shows them in `/sys`, and what it takes to have one.

use std::path::Path;

use serde::Serialize;

use super::Status;
use super::sysfs::{names, read};

/// A port of an RDMA device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaPort {
    /// The device, such as `rxe0`.
    pub device: String,
    /// Number of the port, from 1 on.
    pub port: u8,
    /// State of its link, such as `ACTIVE` or `DOWN`.
    pub state: String,
    /// `Ethernet`, which is RoCE, or `InfiniBand`.
    pub link_layer: String,
    /// Its addresses, by number.
    pub gids: Vec<RdmaGid>,
}

/// An address of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaGid {
    /// Its number on the port.
    pub index: u8,
    /// The address, as the kernel writes it.
    pub gid: String,
    /// Such as `RoCE v2`.
    pub kind: String,
    /// The network interface that it belongs to, if there is one.
    pub interface: Option<String>,
}

/// Makes an RDMA device of an Ethernet interface.
const SOFT_ROCE: &str = "as root: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev INTERFACE \
                         (an Ethernet interface that is up and has an address; rdma is in the \
                         package iproute2)";

/// The ports of this machine.
pub(super) fn ports() -> Vec<RdmaPort> {
    ports_in(Path::new("/sys"))
}

/// Whether a device can be opened.
pub(super) fn status(ports: &[RdmaPort]) -> Status {
    let missing = |cause: &str, remedy: &str| Status::Missing {
        cause: cause.to_owned(),
        remedy: remedy.to_owned(),
    };
    let roce = ports.iter().filter(|port| port.link_layer == "Ethernet");
    let Some(port) = roce.clone().find(|port| port.state == "ACTIVE") else {
        return match roce.clone().next() {
            None => missing("there is no RDMA device that speaks RoCE", SOFT_ROCE),
            Some(port) => {
                let interface = port.gids.iter().find_map(|gid| gid.interface.as_deref());
                let (name, interface) = (&port.device, interface.unwrap_or("INTERFACE"));
                missing(
                    &format!("{name} has no link"),
                    &format!("as root: ip link set {interface} up"),
                )
            }
        };
    };
    open(&port.device, port.port)
}

#[cfg(feature = "rdma")]
fn open(device: &str, port: u8) -> Status {
    use crate::open::OpenError;
    use crate::rdma::{RdmaConfig, RdmaDevice};

    match RdmaDevice::open(device, &RdmaConfig { port, ..RdmaConfig::default() }) {
        Ok(opened) => {
            let group = if opened.is_in_group() { "" } else { ", but no multicast group" };
            Status::Works { detail: format!("{device}: a queue pair for datagrams{group}") }
        }
        Err(OpenError::NotPermitted { needs, .. }) => Status::Missing {
            cause: format!("{device}: not permitted"),
            remedy: format!("it needs {needs}"),
        },
        Err(error) => {
            Status::Missing { cause: error.to_string(), remedy: "see the cause".to_owned() }
        }
    }
}

#[cfg(not(feature = "rdma"))]
fn open(device: &str, _port: u8) -> Status {
    let packages = "cmake libclang-dev libibverbs1 ibverbs-providers";
    let Status::Untried { reason } = super::not_built("rdma", packages) else {
        return Status::Untried { reason: format!("{device} is there") };
    };
    Status::Untried { reason: format!("{device} is there; {reason}") }
}

/// Linux: Documentation/ABI/stable/sysfs-class-infiniband.
fn ports_in(sys: &Path) -> Vec<RdmaPort> {
    let class = sys.join("class/infiniband");
    let mut ports: Vec<_> = names(&class)
        .into_iter()
        .flat_map(|device| {
            let folder = class.join(&device).join("ports");
            let numbers = numbers(&folder);
            numbers.into_iter().map(move |number| port(&folder, &device, number))
        })
        .collect();
    ports.sort_by(|a, b| (&a.device, a.port).cmp(&(&b.device, b.port)));
    ports
}

fn port(folder: &Path, device: &str, number: u8) -> RdmaPort {
    let folder = folder.join(number.to_string());
    // Such as `4: ACTIVE`.
    let state = read(&folder.join("state")).unwrap_or_default();
    let state = state.split_once(": ").map_or(state.as_str(), |(_, name)| name).to_owned();
    let gids = numbers(&folder.join("gids"));
    RdmaPort {
        device: device.to_owned(),
        port: number,
        state,
        link_layer: read(&folder.join("link_layer")).unwrap_or_default(),
        gids: gids.into_iter().filter_map(|index| gid(&folder, index)).collect(),
    }
}

/// `None`: the place is empty.
fn gid(port: &Path, index: u8) -> Option<RdmaGid> {
    let gid = read(&port.join(format!("gids/{index}")))?;
    if gid.chars().all(|c| matches!(c, '0' | ':')) {
        return None;
    }
    let attribute = |name| read(&port.join("gid_attrs").join(name).join(index.to_string()));
    let kind = attribute("types").unwrap_or_default();
    Some(RdmaGid { index, gid, kind, interface: attribute("ndevs") })
}

fn numbers(folder: &Path) -> Vec<u8> {
    let mut numbers: Vec<u8> = names(folder).iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A `/sys` of our own, with a device.
    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str, state: &str, link_layer: &str) -> Self {
            let folder = format!("underpass-rdma-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(folder);
            let port = path.join("class/infiniband/rxe0/ports/1");
            let mut files = vec![("state", state), ("link_layer", link_layer)];
            files.extend([
                ("gids/0", "fe80:0000:0000:0000:5054:00ff:fe00:0001\n"),
                ("gids/1", "0000:0000:0000:0000:0000:ffff:0a09:0001\n"),
                ("gids/2", "0000:0000:0000:0000:0000:0000:0000:0000\n"),
                ("gid_attrs/types/1", "RoCE v2\n"),
                ("gid_attrs/ndevs/1", "eth7\n"),
            ]);
            for (file, text) in files {
                let file = port.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            Self(path)
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn ports_and_their_addresses_are_found() {
        let sys = Sys::new("found", "4: ACTIVE\n", "Ethernet\n");
        let ports = ports_in(&sys.0);
        assert_eq!(ports.len(), 1);
        let port = &ports[0];
        assert_eq!((port.device.as_str(), port.port, port.state.as_str()), ("rxe0", 1, "ACTIVE"));
        assert_eq!(port.gids.len(), 2, "one place is empty");
        let expected = RdmaGid {
            index: 1,
            gid: "0000:0000:0000:0000:0000:ffff:0a09:0001".to_owned(),
            kind: "RoCE v2".to_owned(),
            interface: Some("eth7".to_owned()),
        };
        assert_eq!(port.gids[1], expected);
    }

    #[test]
    fn what_is_missing_is_said_with_what_helps() {
        let remedy = |ports: &[RdmaPort]| match status(ports) {
            Status::Missing { remedy, .. } => remedy,
            other => panic!("{other:?}"),
        };
        assert!(remedy(&[]).contains("rdma link add rxe0 type rxe netdev"));
        let down = Sys::new("down", "1: DOWN\n", "Ethernet\n");
        assert_eq!(remedy(&ports_in(&down.0)), "as root: ip link set eth7 up");
        let infiniband = Sys::new("ib", "4: ACTIVE\n", "InfiniBand\n");
        assert!(remedy(&ports_in(&infiniband.0)).contains("modprobe rdma_rxe"));
    }
}
