use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limiter::Limiter;
use super::table::{MAX_RULES, RuleTable};
use super::{Action, Rule, RuleError, RuleMatch, RuleReport, Tally, VerdictCounts};
use crate::{Instant, Medium, PacketKey};

/// How much a filter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimits {
    /// Rules; one more is refused.
    pub rules: usize,
    /// Sources that send under a [`Rate`](super::Rate), over all rules; of the one not seen for the longest time
    /// it is forgotten how much it has sent.
    pub sources: NonZeroUsize,
}

/// The rules and counts of a [`Filter`](super::Filter), or of those on several queues. Clones are
/// about the same.
#[derive(Clone)]
pub struct FilterHandle(Arc<Shared>);

struct Shared {
    /// There are rules: without, nobody takes the lock.
    has_rules: AtomicBool,
    judge: Mutex<Judge>,
    redirect: AtomicTally,
    drop: AtomicTally,
}

struct Judge {
    table: RuleTable,
    limiter: Limiter,
}

#[derive(Default)]
struct AtomicTally {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl FilterHandle {
    /// No rules yet.
    pub fn new(limits: FilterLimits) -> Self {
        let table = RuleTable::new(limits.rules);
        let limiter = Limiter::new(limits.sources);
        Self(Arc::new(Shared {
            has_rules: AtomicBool::new(false),
            judge: Mutex::new(Judge { table, limiter }),
            redirect: AtomicTally::default(),
            drop: AtomicTally::default(),
        }))
    }

    /// Adds a rule, or gives the one that is about the same packets this action; its counts stay. A
    /// new rate begins with a full burst for everybody.
    ///
    /// # Errors
    /// [`RuleError::PortWithoutProtocol`], [`RuleError::Full`].
    pub fn insert(&self, rule: Rule) -> Result<(), RuleError> {
        let mut judge = self.0.judge();
        judge.table.insert(rule)?;
        self.0.has_rules.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a rule out, and returns what it has done. `None`: it was not there.
    pub fn remove(&self, matches: &RuleMatch) -> Option<RuleReport> {
        let mut judge = self.0.judge();
        let report = judge.table.remove(matches);
        self.0.has_rules.store(!judge.table.is_empty(), Ordering::Relaxed);
        report
    }

    /// Every rule and what it has done, in order of sources.
    pub fn rules(&self) -> Vec<RuleReport> {
        self.0.judge().table.reports()
    }

    /// What was decided about all frames, those that no rule is about included, up to the last burst
    /// of each queue that was released.
    pub fn totals(&self) -> VerdictCounts {
        VerdictCounts {
            pass: Tally::default(),
            redirect: self.0.redirect.load(),
            drop: self.0.drop.load(),
        }
    }

    /// True if a received frame is to be kept.
    pub(super) fn keeps(&self, now: Instant, medium: Medium, frame: &[u8]) -> bool {
        if !self.0.has_rules.load(Ordering::Relaxed) {
            return true;
        }
        let Some(packet) = PacketKey::of_frame(medium, frame) else { return true };
        let mut judge = self.0.judge();
        let Judge { table, limiter } = &mut *judge;
        let Some(rule) = table.find_mut(&packet) else { return true };
        let keeps = match rule.action {
            Action::Allow => true,
            Action::Deny => false,
            Action::Limit(rate) => limiter.admits(now, rule.id, packet.source, rate),
        };
        let counts = &mut rule.counts;
        let tally = if keeps { &mut counts.redirect } else { &mut counts.drop };
        tally.add(frame.len());
        keeps
    }

    /// Adds the frames of a burst to the totals.
    pub(super) fn count(&self, burst: VerdictCounts) {
        self.0.redirect.add(burst.redirect);
        self.0.drop.add(burst.drop);
    }
}

impl Default for FilterHandle {
    fn default() -> Self {
        Self::new(FilterLimits::default())
    }
}

impl fmt::Debug for FilterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterHandle").field("totals", &self.totals()).finish_non_exhaustive()
    }
}

/// 1024 rules, 65,536 sources.
impl Default for FilterLimits {
    fn default() -> Self {
        Self { rules: MAX_RULES, sources: const { NonZeroUsize::new(1 << 16).unwrap() } }
    }
}

impl Shared {
    fn judge(&self) -> MutexGuard<'_, Judge> {
        // Nothing under the lock panics half-way.
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AtomicTally {
    fn add(&self, more: Tally) {
        if more.packets > 0 {
            self.packets.fetch_add(more.packets, Ordering::Relaxed);
            self.bytes.fetch_add(more.bytes, Ordering::Relaxed);
        }
    }

    fn load(&self) -> Tally {
        let (packets, bytes) = (&self.packets, &self.bytes);
        Tally { packets: packets.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }
}
