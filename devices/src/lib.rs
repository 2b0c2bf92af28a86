//! What a packet device is.
//!
//! A [`Device`] is **one queue pair owned by one shard**. It lends frames where the NIC or the
//! kernel wrote them ([`RxQueue`]) and lends transmit slots to be filled in place ([`TxQueue`]):
//! no copy between ring and stack, no allocation per packet, one doorbell per burst.
//!
//! Beside the contract, the crate holds
//! - the devices that exist in memory alone: [`MemoryDevice`], two ends that pass frames as fast as
//!   memory allows, and [`SimDevice`], two ends of a simulated link in virtual time;
//! - the devices around a device: [`Fault`] loses and damages frames, [`Pcap`] writes them to a
//!   capture file, [`Trace`] logs them, [`Vlan`] tags them, [`Filter`] drops what [`Rule`]s say, and
//!   [`Hooked`] does whatever your [`Hook`] says;
//! - [`Selection`], what a stack wants of a device that shares its interface with the kernel;
//! - [`segment`] and [`checksum`], offloads carried out in software, and [`Steering`], which tells
//!   the queue of a flow where there are several;
//! - `conformance`, the kit that every device must pass (feature `conformance`).
//!
//! Devices backed by a kernel object live in `underpass-drivers`.

#![forbid(unsafe_code)]

mod caps;
pub mod checksum;
#[cfg(feature = "conformance")]
pub mod conformance;
mod device;
mod fault;
mod filter;
mod forward;
mod hook;
mod mac;
mod memory;
mod meta;
mod packet_key;
mod pcap;
pub mod segment;
mod selector;
mod sim;
mod steering;
mod summary;
mod time;
mod trace;
mod vlan;

pub use caps::{Caps, Medium};
pub use device::{Buffers, Counters, Device, Frame, RxQueue, SendError, TxQueue, Wake};
pub use fault::{Fault, FaultConfig, FaultHook, FaultStats};
pub use filter::{
    Action, Filter, FilterHandle, FilterLimits, FilterRx, MAX_RULES, Rate, Rule, RuleError,
    RuleMatch, RuleReport, RuleTable, Service, Tally, VerdictCounts,
};
pub use hook::{Hook, Hooked, HookedRx, HookedTx, Received};
pub use mac::{MacAddr, ParseMacError};
pub use memory::{MemoryConfig, MemoryDevice, MemoryRx, MemoryTx};
pub use meta::{PartialChecksum, RxChecksum, RxMeta, SegmentKind, Segmentation, TxMeta};
pub use packet_key::PacketKey;
pub use pcap::{Pcap, PcapHook};
pub use selector::{IpSelector, Selection, Selector};
pub use sim::{LinkConfig, LinkStats, SimDevice, SimLink, SimRx, SimTx};
pub use steering::{FlowHash, SOFTWARE_HASH_FACTORS, Steering, software_hash};
pub use summary::FrameSummary;
pub use time::Instant;
pub use trace::{Trace, TraceHook};
pub use vlan::{NoVlanId, Vlan, VlanId, VlanRx, VlanTx};
