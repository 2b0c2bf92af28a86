//! Finds out what works on this machine by trying it, in private network namespaces: nothing of the
//! machine's own network is touched.

mod dpdk;
mod frames;
mod kernel_module;
mod rdma;
mod sysfs;
mod user_namespace;

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::OpenError;
use crate::lab::{LabError, Namespace};

pub use self::dpdk::Nic;
pub use self::rdma::{RdmaGid, RdmaPort};

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Release of the running kernel, such as `6.18.3`.
    pub kernel: String,
    /// Everything that was tried.
    pub backends: Vec<Backend>,
    /// The network cards that DPDK might drive.
    pub nics: Vec<Nic>,
    /// The ports of the RDMA devices.
    pub rdma_ports: Vec<RdmaPort>,
    /// Settings of the kernel that decide what works and how well.
    pub limits: Vec<Limit>,
}

/// A way to reach the network, or something one of them needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// The kind of a device [`Spec`](crate::Spec), or the name of the facility.
    pub name: &'static str,
    /// Whether it works.
    pub status: Status,
}

/// Whether something works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was tried from end to end.
    Works {
        /// What was seen to work.
        detail: String,
    },
    /// It does not work.
    Missing {
        /// Why not.
        cause: String,
        /// What would help.
        remedy: String,
    },
    /// It could not be tried out.
    Untried {
        /// Why not.
        reason: String,
    },
}

/// A setting of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Its name for sysctl(8).
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What it limits.
    pub limits: &'static str,
}

/// Tries everything this program was built with. Takes well under a second when all is well, and a
/// few seconds when frames get lost.
pub fn check() -> Report {
    let rdma_ports = rdma::ports();
    let mut backends = Vec::from([
        #[cfg(feature = "tap")]
        Backend { name: "tap", status: in_a_lab(frames::try_tap, frames::look_at_tap) },
        #[cfg(feature = "packet")]
        Backend { name: "packet", status: in_a_lab(frames::try_packet, frames::look_at_packet) },
        #[cfg(feature = "xdp")]
        Backend { name: "xdp", status: in_a_lab(frames::try_xdp, frames::look_at_xdp) },
        #[cfg(not(feature = "xdp"))]
        Backend {
            name: "xdp",
            status: not_built("xdp", "clang libbpf-dev libelf-dev zlib1g-dev m4 make pkg-config"),
        },
        #[cfg(feature = "dpdk")]
        Backend { name: "dpdk", status: in_a_lab(frames::try_dpdk, frames::look_at_dpdk) },
        #[cfg(not(feature = "dpdk"))]
        Backend {
            name: "dpdk",
            status: not_built("dpdk", "libdpdk-dev libclang-dev gcc pkg-config"),
        },
        Backend { name: "kring", status: kring() },
        Backend { name: "rdma", status: rdma::status(&rdma_ports) },
        #[cfg(feature = "tap")]
        Backend { name: "io_uring", status: frames::try_io_uring() },
        Backend { name: "user namespaces", status: user_namespace::try_user_namespace() },
    ]);
    backends.extend(dpdk::facilities());
    Report {
        nics: dpdk::nics(),
        rdma_ports,
        kernel: setting("kernel.osrelease").unwrap_or_else(|| "unknown".to_owned()),
        backends,
        limits: limits(),
    }
}

/// The module first: whether it is there does not depend on how this program was built.
fn kring() -> Status {
    kernel_module::obstacle().unwrap_or_else(|| {
        #[cfg(feature = "kring")]
        return in_a_lab(frames::try_kring, frames::look_at_kring);
        #[cfg(not(feature = "kring"))]
        Status::Untried {
            reason:
                "the kernel module is loaded; this program was built without the device, build \
                     with --features kring"
                    .to_owned(),
        }
    })
}

/// A device whose cargo feature is off, and the Debian packages that it needs to build.
#[cfg(not(all(feature = "xdp", feature = "dpdk", feature = "rdma")))]
fn not_built(feature: &str, packages: &str) -> Status {
    let reason = format!(
        "this program was built without it; apt-get install {packages}, then build with \
         --features {feature}"
    );
    Status::Untried { reason }
}

/// Tries a device in two private network namespaces or, where these are not permitted, by `instead`.
fn in_a_lab(
    attempt: fn(&Namespace, &Namespace) -> Result<String, Failure>,
    instead: fn() -> Status,
) -> Status {
    let namespaces = Namespace::new().and_then(|ours| Ok((ours, Namespace::new()?)));
    let result = match namespaces {
        Ok((ours, theirs)) => attempt(&ours, &theirs),
        Err(LabError::NotPermitted { .. }) => return instead(),
        Err(error) => Err(Failure::Lab(error)),
    };
    match result {
        Ok(detail) => Status::Works { detail },
        Err(failure) => failure.into(),
    }
}

/// Why an attempt failed.
#[derive(Debug)]
enum Failure {
    Open(OpenError),
    Lab(LabError),
    /// No frame came through, or the device failed.
    Traffic(String),
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Open(OpenError::NotPermitted { needs, .. }) => Self::Missing {
                cause: "not permitted".to_owned(),
                remedy: format!("it needs {needs}"),
            },
            Failure::Open(OpenError::KernelLacks { feature, .. }) => Self::Missing {
                cause: format!("the kernel lacks {feature}"),
                remedy: "load the module, or use a kernel that is built with it".to_owned(),
            },
            Failure::Open(error) => {
                Self::Missing { cause: error.to_string(), remedy: "see the cause".to_owned() }
            }
            Failure::Lab(error) => {
                Self::Untried { reason: format!("a private network to try it in: {error}") }
            }
            Failure::Traffic(cause) => Self::Missing {
                cause,
                remedy: "look for rules that drop frames: nft list ruleset, tc filter".to_owned(),
            },
        }
    }
}

fn limits() -> Vec<Limit> {
    let named = [
        ("net.core.wmem_max", "bytes in flight of a packet: device without CAP_NET_ADMIN"),
        #[cfg(any(feature = "xdp", feature = "dpdk"))]
        ("vm.nr_hugepages", "huge pages, for dpdk: devices and xdp: devices with huge-pages=on"),
        #[cfg(feature = "xdp")]
        ("net.core.bpf_jit_enable", "0: the XDP program is interpreted, several times slower"),
        ("net.core.rmem_max", "receive buffer of kernel sockets, for comparisons"),
        ("kernel.io_uring_disabled", "0: anybody may use io_uring, 1: a group, 2: nobody"),
        ("user.max_net_namespaces", "private network namespaces per user"),
        ("user.max_user_namespaces", "user namespaces per user"),
        ("kernel.unprivileged_userns_clone", "0: only root makes user namespaces"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1: user namespaces have no privilege"),
    ];
    named
        .into_iter()
        .filter_map(|(name, limits)| {
            let value = setting(name)?;
            Some(Limit { name, value, limits })
        })
        .collect()
}

/// The value of a kernel setting, if this kernel has it.
fn setting(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
