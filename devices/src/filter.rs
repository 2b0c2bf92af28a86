//! A device that drops what rules say.

mod counts;
mod rule;

pub use self::counts::{RuleReport, Tally, VerdictCounts};
pub use self::rule::{Action, Rate, Rule, RuleError, RuleMatch};
