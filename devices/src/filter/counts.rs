use std::ops::AddAssign;

use serde::Serialize;

use super::Rule;

/// Frames, and their bytes from the first of the Ethernet header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was decided about received frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerdictCounts {
    /// Left to the kernel, which shares the interface.
    pub pass: Tally,
    /// Given to the stack.
    pub redirect: Tally,
    /// Dropped.
    pub drop: Tally,
}

/// A rule, and what it has decided since it was inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// The rule.
    pub rule: Rule,
    /// Of the packets for which it was the one that counts.
    pub counts: VerdictCounts,
}

impl Tally {
    /// One more frame.
    pub const fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// The sum over several queues or rules.
impl AddAssign for VerdictCounts {
    fn add_assign(&mut self, other: Self) {
        self.pass += other.pass;
        self.redirect += other.redirect;
        self.drop += other.drop;
    }
}
