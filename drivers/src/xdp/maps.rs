//! What the maps of the XDP program hold, laid out as in `bpf/underpass.bpf.c`, and their names.

use std::net::IpAddr;

use aya::Pod;

pub(super) use crate::targets::{
    FAMILY_ANY, FAMILY_ETHER_TYPE, FAMILY_IPV4, FAMILY_IPV6, Shape, TARGET_PACKETS, Target,
    address_bytes,
};

pub(super) const SOCKETS: &str = "sockets";
pub(super) const SETTINGS: &str = "settings";
pub(super) const TARGETS: &str = "targets";
pub(super) const RULES: &str = "rules";
pub(super) const RULE_KINDS: &str = "rule_kinds";
pub(super) const TALLIES: &str = "tallies";

/// Entries of [`TARGETS`].
pub(super) const MAX_TARGETS: usize = 4096;
/// Entries of [`RULES`]; slots of their counters are counted from 1.
pub(super) const MAX_RULES: u32 = 1024;
/// Bits of a [`RuleKey`] in front of the address.
pub(super) const RULE_PREFIX: u32 = 32;

/// Every frame is for the stack.
pub(super) const TAKE_ALL: u32 = 1 << 0;
/// The stack's MAC address is not the interface's.
pub(super) const OWN_MAC: u32 = 1 << 1;

/// `struct settings`
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Settings {
    pub(super) flags: u32,
    /// A bit for each [`Target::kind`] in [`TARGETS`].
    pub(super) targets: u32,
    pub(super) vlan: u16,
    pub(super) mac: [u8; 6],
}

/// `struct rule_key` without the prefix length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RuleKey {
    pub(super) protocol: u8,
    pub(super) kind: u8,
    /// Big-endian.
    pub(super) port: [u8; 2],
    pub(super) source: [u8; 16],
}

/// `struct rule`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RuleEntry {
    pub(super) slot: u32,
    pub(super) source_len: u32,
    pub(super) action: u32,
    /// As the rate was given.
    pub(super) per_second: u32,
    pub(super) burst: u32,
    /// Another one each time the rule is written: sources begin afresh.
    pub(super) epoch: u32,
    /// Nanoseconds per packet.
    pub(super) interval: u64,
    /// Nanoseconds.
    pub(super) tolerance: u64,
}

pub(super) const ACTION_ALLOW: u32 = 0;
pub(super) const ACTION_DENY: u32 = 1;
pub(super) const ACTION_LIMIT: u32 = 2;

/// `struct tally`
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct TallyEntry {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// What can happen to a frame, in the order of its counters: to the kernel, to the stack, lost.
pub(super) const VERDICTS: u32 = 3;

// SAFETY: integers and arrays of them, without padding (`Settings` 4 + 4 + 2 + 6).
unsafe impl Pod for Settings {}
// SAFETY: integers and arrays of them, without padding (16 + 2 + 1 + 1).
unsafe impl Pod for Target {}
// SAFETY: integers and arrays of them, without padding (1 + 1 + 2 + 16).
unsafe impl Pod for RuleKey {}
// SAFETY: integers, without padding (4 * 6 + 8 * 2).
unsafe impl Pod for RuleEntry {}
// SAFETY: integers, without padding (8 * 2).
unsafe impl Pod for TallyEntry {}

/// The `HAS_` bit of a key's kind: that a map holds such keys.
pub(super) fn has_bit(kind: u8) -> u32 {
    let (shape, family) = (kind & 0xf0, kind & 0x0f);
    if family == FAMILY_ETHER_TYPE {
        return 1 << 6;
    }
    let any = if family == FAMILY_ANY { 3 } else { 0 };
    match shape {
        0x10 => 1 << any,
        0x20 => 1 << (any + 1),
        _ => 1 << (any + 2),
    }
}

/// The address back from its bytes. `None`: there is no such family.
pub(super) fn address_of(bytes: [u8; 16], family: u8) -> Option<IpAddr> {
    match family {
        FAMILY_IPV4 => Some(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        FAMILY_IPV6 => Some(IpAddr::from(bytes)),
        _ => None,
    }
}
