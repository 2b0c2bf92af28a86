//! `kmod/include/uapi/underpass_ring.h`, which says what all of this means.

use rustix::ioctl::{Opcode, opcode};

pub(super) const PATH: &str = "/dev/underpass_ring";
pub(super) const ABI: u32 = 1;

pub(super) const MIN_SLOTS: u32 = 2;
pub(super) const MAX_SLOTS: u32 = 32_768;
pub(super) const MIN_FRAME: u32 = 2048;
pub(super) const MAX_FRAME: u32 = 65_536;
pub(super) const MAX_BYTES: u64 = 512 << 20;
pub(super) const MAX_TARGETS: usize = 4096;
pub(super) const MAX_POLL_US: u32 = 1_000_000;

/// `struct underpass_ring_setup`
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Setup {
    pub(super) abi: u32,
    pub(super) rx_slots: u32,
    pub(super) tx_slots: u32,
    pub(super) frame_len: u32,
    pub(super) map_len: u64,
    pub(super) rx_offset: u64,
    pub(super) fill_offset: u64,
    pub(super) tx_offset: u64,
    pub(super) completion_offset: u64,
    pub(super) frames_offset: u64,
}

/// `struct underpass_ring_attach`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Attach {
    pub(super) ifindex: u32,
    pub(super) echo_type: u16,
    pub(super) reserved: u16,
    pub(super) tx_poll_us: u32,
}

/// `struct underpass_ring_rule`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Rule {
    pub(super) flags: u32,
    pub(super) vlan: u16,
    pub(super) mac: [u8; 6],
    pub(super) target_count: u32,
    pub(super) targets: u64,
}

pub(super) const TAKE_ALL: u32 = 1 << 0;
pub(super) const OWN_MAC: u32 = 1 << 1;

/// `struct underpass_ring_target`: the key is a [`Target`](crate::targets::Target).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TargetEntry {
    pub(super) key: crate::targets::Target,
    pub(super) flags: u32,
}

/// Words of `struct underpass_ring_frame`: number, length, and a `virtio_net_hdr` in three.
pub(super) const FRAME_WORDS: usize = 5;

/// Where the words of `struct underpass_ring_control` are, counted in words.
pub(super) mod word {
    const LINE: usize = 16;
    pub(in super::super) const RX_PRODUCER: usize = 0;
    pub(in super::super) const RX_CONSUMER: usize = LINE;
    pub(in super::super) const FILL_PRODUCER: usize = 2 * LINE;
    pub(in super::super) const FILL_CONSUMER: usize = 3 * LINE;
    pub(in super::super) const TX_PRODUCER: usize = 4 * LINE;
    pub(in super::super) const TX_CONSUMER: usize = 5 * LINE;
    pub(in super::super) const COMPLETION_PRODUCER: usize = 6 * LINE;
    pub(in super::super) const COMPLETION_CONSUMER: usize = 7 * LINE;
    pub(in super::super) const RX_WAKEUP: usize = 8 * LINE;
    pub(in super::super) const TX_DOORBELL: usize = 9 * LINE;
    pub(in super::super) const STATE: usize = 10 * LINE;
}

/// `enum underpass_ring_state`
pub(super) mod state {
    pub(in super::super) const DOWN: u32 = 1;
    #[cfg(any(test, feature = "fuzzing"))]
    pub(in super::super) const UP: u32 = 2;
    pub(in super::super) const GONE: u32 = 3;
}

/// Values of `enum underpass_ring_counter`.
pub(super) const COUNTERS: usize = 14;

/// `struct underpass_ring_stats`
pub(super) type Stats = [u64; COUNTERS];

const GROUP: u8 = 0xb7;
pub(super) const SETUP: Opcode = opcode::read_write::<Setup>(GROUP, 0);
pub(super) const ATTACH: Opcode = opcode::write::<Attach>(GROUP, 1);
pub(super) const RULE: Opcode = opcode::write::<Rule>(GROUP, 2);
pub(super) const DOORBELL: Opcode = opcode::none(GROUP, 3);
pub(super) const STATS: Opcode = opcode::read::<Stats>(GROUP, 4);

#[cfg(test)]
mod tests {
    use std::mem::offset_of;
    use std::process::Command;

    use super::*;
    use crate::kring::control::Statistic;
    use crate::targets::{
        FAMILY_ANY, FAMILY_ETHER_TYPE, FAMILY_IPV4, FAMILY_IPV6, Shape, TARGET_NEIGHBOR,
        TARGET_PACKETS, Target,
    };

    /// What the header calls by a name, without its prefix.
    fn constants() -> Vec<(&'static str, u64)> {
        vec![
            ("ABI", u64::from(ABI)),
            ("MIN_SLOTS", MIN_SLOTS.into()),
            ("MAX_SLOTS", MAX_SLOTS.into()),
            ("MIN_FRAME", MIN_FRAME.into()),
            ("MAX_FRAME", MAX_FRAME.into()),
            ("MAX_BYTES", MAX_BYTES),
            ("MAX_TARGETS", MAX_TARGETS as u64),
            ("MAX_POLL_US", MAX_POLL_US.into()),
            ("TAKE_ALL", TAKE_ALL.into()),
            ("OWN_MAC", OWN_MAC.into()),
            ("PACKETS", TARGET_PACKETS.into()),
            ("NEIGHBOR", TARGET_NEIGHBOR.into()),
            ("FAMILY_ANY", FAMILY_ANY.into()),
            ("FAMILY_IPV4", FAMILY_IPV4.into()),
            ("FAMILY_IPV6", FAMILY_IPV6.into()),
            ("ETHER_TYPE", FAMILY_ETHER_TYPE.into()),
            ("SHAPE_WHOLE", Shape::Whole.kind(0).into()),
            ("SHAPE_PROTOCOL", Shape::Protocol.kind(0).into()),
            ("SHAPE_PORT", Shape::Port.kind(0).into()),
            ("DOWN", state::DOWN.into()),
            ("UP", state::UP.into()),
            ("GONE", state::GONE.into()),
            ("COUNTERS", COUNTERS as u64),
            ("RX_FRAMES", Statistic::RxFrames as u64),
            ("RX_NOT_SELECTED", Statistic::RxNotSelected as u64),
            ("RX_NO_FRAME", Statistic::RxNoFrame as u64),
            ("RX_RING_FULL", Statistic::RxRingFull as u64),
            ("RX_TOO_LONG", Statistic::RxTooLong as u64),
            ("RX_NO_MEMORY", Statistic::RxNoMemory as u64),
            ("RX_BAD_FILL", Statistic::RxBadFill as u64),
            ("TX_FRAMES", Statistic::TxFrames as u64),
            ("TX_COPIED", Statistic::TxCopied as u64),
            ("TX_DROPPED", Statistic::TxDropped as u64),
            ("TX_BAD_FRAME", Statistic::TxBadFrame as u64),
            ("TX_COMPLETED", Statistic::TxCompleted as u64),
            ("BAD_INDEX", Statistic::BadIndex as u64),
            ("ECHOES", Statistic::Echoes as u64),
            ("IOC_SETUP", SETUP.into()),
            ("IOC_ATTACH", ATTACH.into()),
            ("IOC_RULE", RULE.into()),
            ("IOC_DOORBELL", DOORBELL.into()),
            ("IOC_STATS", STATS.into()),
        ]
    }

    /// Compiles the header, and an assertion for each number.
    #[test]
    #[cfg_attr(miri, ignore = "it runs a compiler")]
    fn the_layout_is_that_of_the_header() {
        let mut source = vec!["#include <stddef.h>\n#include \"underpass_ring.h\"".to_owned()];
        let mut equal = |c: &str, rust: u64| {
            source.push(format!("_Static_assert({c} == {rust}ULL, \"{c} is not {rust}\");"));
        };
        macro_rules! layout {
            ($rust:ty, $c:literal: $($field:ident),*) => {
                equal(concat!("sizeof(struct underpass_ring_", $c, ")"), size_of::<$rust>() as u64);
                $(equal(
                    concat!("offsetof(struct underpass_ring_", $c, ", ", stringify!($field), ")"),
                    offset_of!($rust, $field) as u64,
                );)*
            };
        }
        layout!(Setup, "setup": abi, rx_slots, tx_slots, frame_len, map_len, rx_offset, fill_offset,
            tx_offset, completion_offset, frames_offset);
        layout!(Attach, "attach": ifindex, echo_type, reserved, tx_poll_us);
        layout!(Rule, "rule": flags, vlan, mac, target_count, targets);
        layout!(TargetEntry, "target": flags);
        layout!(Stats, "stats":);
        let offsets = [("address", 0), ("port", 16), ("protocol", 18), ("kind", 19)];
        assert_eq!(size_of::<Target>(), 20);
        for (field, offset) in offsets {
            equal(&format!("offsetof(struct underpass_ring_target, {field})"), offset);
        }
        equal("sizeof(struct underpass_ring_frame)", 4 * FRAME_WORDS as u64);
        let fields = [("number", 0), ("len", 4), ("flags", 8), ("gso_type", 9), ("hdr_len", 10)];
        let more = [("gso_size", 12), ("csum_start", 14), ("csum_offset", 16), ("reserved", 18)];
        for (field, offset) in fields.into_iter().chain(more) {
            equal(&format!("offsetof(struct underpass_ring_frame, {field})"), offset);
        }
        for (field, at) in [
            ("rx_producer", word::RX_PRODUCER),
            ("rx_consumer", word::RX_CONSUMER),
            ("fill_producer", word::FILL_PRODUCER),
            ("fill_consumer", word::FILL_CONSUMER),
            ("tx_producer", word::TX_PRODUCER),
            ("tx_consumer", word::TX_CONSUMER),
            ("completion_producer", word::COMPLETION_PRODUCER),
            ("completion_consumer", word::COMPLETION_CONSUMER),
            ("rx_wakeup", word::RX_WAKEUP),
            ("tx_doorbell", word::TX_DOORBELL),
            ("state", word::STATE),
        ] {
            equal(&format!("offsetof(struct underpass_ring_control, {field})"), 4 * at as u64);
        }
        for (name, value) in constants() {
            equal(&format!("UNDERPASS_RING_{name}"), value);
        }
        let file = std::env::temp_dir().join(format!("underpass-uapi-{}.c", std::process::id()));
        std::fs::write(&file, source.join("\n")).unwrap();
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../kmod/include/uapi");
        let output = Command::new("cc")
            .args(["-std=c11", "-Wall", "-Wextra", "-fsyntax-only", "-I", include])
            .arg(&file)
            .output()
            .unwrap();
        std::fs::remove_file(&file).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
    }
}
