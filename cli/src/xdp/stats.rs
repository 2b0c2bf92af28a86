//! Counters, live.

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};
use underpass::devices::{RuleReport, VerdictCounts};
use underpass_drivers::xdp::XdpControl;

use super::describe;
use crate::interrupt::interrupted;

/// Clears a terminal from its first line on.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Prints a table, or an object, every so often.
pub(super) async fn run(
    interface: &str,
    every: Duration,
    count: Option<u32>,
    json: bool,
) -> Result<()> {
    let control = XdpControl::of_interface(interface)?;
    let mut interrupted = pin!(interrupted()?);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let live = io::stdout().is_terminal() && count != Some(1) && !json;
    let mut before: Option<Sample> = None;
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut interrupted => break,
        }
        let now = Sample::take(&control)?;
        if json {
            println!("{}", now.object(interface));
        } else {
            print!("{}{}", if live { CLEAR } else { "" }, now.table(interface, before.as_ref()));
        }
        before = Some(now);
        printed += 1;
    }
    Ok(())
}

/// All counters at one time.
struct Sample {
    at: Instant,
    rules: Vec<RuleReport>,
    unmatched: VerdictCounts,
}

impl Sample {
    fn take(control: &XdpControl) -> Result<Self> {
        let (rules, unmatched) = (control.rules()?, control.unmatched()?);
        Ok(Self { at: Instant::now(), rules, unmatched })
    }

    fn totals(&self) -> VerdictCounts {
        self.rules.iter().fold(self.unmatched, |mut sum, report| {
            sum += report.counts;
            sum
        })
    }

    fn object(&self, interface: &str) -> serde_json::Value {
        json!({
            "interface": interface,
            "totals": self.totals(),
            "unmatched": self.unmatched,
            "rules": self.rules,
        })
    }

    /// Packets since the program was attached, and per second since the table `before`.
    fn table(&self, interface: &str, before: Option<&Self>) -> String {
        let seconds = before.map(|before| (self.at - before.at).as_secs_f64());
        let header = ["to the stack", "to the kernel", "dropped"];
        let columns = header.map(|name| format!("{name:>16} {:>11}", "per second"));
        let mut table = format!("{interface:<44}{}\n", columns.concat());
        for report in &self.rules {
            let then = before.and_then(|before| {
                before.rules.iter().find(|then| then.rule.matches == report.rule.matches)
            });
            let name = format!("{} {}", report.rule.matches, describe(report.rule.action));
            table += &line(&name, &report.counts, then.map(|then| &then.counts), seconds);
        }
        let then = before.map(|before| &before.unmatched);
        table += &line("no rule", &self.unmatched, then, seconds);
        let then = before.map(Self::totals);
        table += &line("all", &self.totals(), then.as_ref(), seconds);
        table
    }
}

fn line(
    name: &str,
    counts: &VerdictCounts,
    before: Option<&VerdictCounts>,
    seconds: Option<f64>,
) -> String {
    let verdicts = |counts: &VerdictCounts| [counts.redirect, counts.pass, counts.drop];
    let columns = [0, 1, 2].map(|at| {
        let packets = verdicts(counts)[at].packets;
        let rate = before.zip(seconds).map(|(before, seconds)| {
            packets.saturating_sub(verdicts(before)[at].packets) as f64 / seconds
        });
        let rate = rate.map_or("-".to_owned(), |rate| format!("{rate:.0}"));
        format!("{packets:>16} {rate:>11}")
    });
    format!("{name:<44}{}\n", columns.concat())
}
