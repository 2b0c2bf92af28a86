//! The packet devices that exist, one module and one cargo feature each, and the choice between
//! them at run time.
//!
//! | module | device | feature |
//! |---|---|---|
//! | [`tap`] | the Linux kernel as the station at the other end, through io_uring | `tap` |
//! | [`packet`] | an Ethernet interface, through AF_PACKET rings | `packet` |
//! | `dpdk` | a device of DPDK, physical or virtual, through its poll-mode driver | `dpdk` |
//! | `xdp` | an Ethernet interface shared with the kernel, through AF_XDP rings | `xdp` |
//! | `kring` | the same, through rings of our own kernel module (`kmod/`) | `kring` |
//! | `rdma` | an RDMA device, through a queue pair for unreliable datagrams | `rdma` |
//!
//! [`AnyDevice::open`] takes a [`Spec`] such as `packet:eth1`. [`doctor`] says what works on this
//! machine, and [`lab`] makes private networks to try it in (feature `lab`).
//!
//! [`kernel`] holds no devices but message transports over the kernel's own TCP, to compare with
//! (feature `kernel`).
//!
//! This crate holds all unsafe code of the workspace.

mod any;
#[cfg(all(
    feature = "lab",
    any(feature = "tap", feature = "packet", feature = "xdp", feature = "dpdk", feature = "kring")
))]
pub mod doctor;
#[cfg(feature = "dpdk")]
pub mod dpdk;
#[cfg(any(feature = "lab", feature = "xdp"))]
mod ethtool;
#[cfg(all(test, feature = "lab", feature = "xdp"))]
mod frame_cases;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "kernel")]
pub mod kernel;
#[cfg(feature = "kring")]
pub mod kring;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(any(feature = "xdp", feature = "kring", feature = "rdma", feature = "fuzzing"))]
mod ledger;
#[cfg(any(feature = "packet", feature = "xdp", feature = "kring"))]
mod membership;
pub mod netlink;
mod open;
#[cfg(feature = "packet")]
pub mod packet;
#[cfg(any(feature = "dpdk", feature = "xdp", feature = "fuzzing"))]
mod partial_checksum;
#[cfg(feature = "rdma")]
pub mod rdma;
mod spec;
#[cfg(feature = "tap")]
pub mod tap;
#[cfg(any(feature = "xdp", feature = "kring"))]
mod targets;
#[cfg(any(feature = "tap", feature = "packet", feature = "kring"))]
mod vnet_hdr;
#[cfg(feature = "xdp")]
pub mod xdp;
// These need neither DPDK nor libibverbs to be fuzzed.
#[cfg(any(feature = "dpdk", feature = "fuzzing"))]
#[path = "dpdk/request.rs"]
mod dpdk_request;
#[cfg(any(feature = "dpdk", feature = "fuzzing"))]
#[path = "dpdk/segment.rs"]
mod dpdk_segment;
#[cfg(any(feature = "rdma", feature = "fuzzing"))]
#[path = "rdma/datagram.rs"]
mod rdma_datagram;
#[cfg(any(feature = "rdma", feature = "fuzzing"))]
#[path = "rdma/peer.rs"]
mod rdma_peer;
#[cfg(any(feature = "rdma", feature = "fuzzing"))]
#[path = "rdma/peer_table.rs"]
mod rdma_peer_table;
#[cfg(any(feature = "rdma", feature = "fuzzing"))]
#[path = "rdma/one_sided/wire.rs"]
mod rdma_wire;

pub use any::{AnyDevice, AnyRx, AnyTx};
pub use open::OpenError;
pub use spec::{ParseSpecError, Spec};
