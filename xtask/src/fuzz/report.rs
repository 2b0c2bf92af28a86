//! What libFuzzer has said at the end of a run.

use std::fmt::Write;

/// How a target's run has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    target: String,
    executions: u64,
    /// Edges of the program that some input has taken.
    coverage: u64,
    inputs: usize,
    /// The input that made it fail, if it did.
    failed: Option<String>,
}

impl Outcome {
    pub(super) fn read(target: &str, log: &str, succeeded: bool, inputs: usize) -> Self {
        let executions: u64 = numbers(log, "stat::number_of_executed_units: ").sum();
        // Several jobs count as they go instead.
        let counted = numbers(log, "#").max().unwrap_or(0);
        let reproducer = log.lines().find_map(|line| line.split_once("Test unit written to "));
        let reproducer = reproducer.map_or("no reproducer", |(_, path)| path);
        Self {
            target: target.to_owned(),
            executions: if executions > 0 { executions } else { counted },
            coverage: numbers(log, " cov: ").max().unwrap_or(0),
            inputs,
            failed: (!succeeded).then(|| reproducer.to_owned()),
        }
    }

    /// What to do about a failure.
    pub(super) fn crash(&self) -> Option<String> {
        let reproducer = self.failed.as_ref()?;
        let target = &self.target;
        Some(format!(
            "{target} failed: {reproducer}\n  cargo +nightly fuzz run {target} {reproducer}"
        ))
    }
}

/// The numbers behind `key`, at most one of each line.
fn numbers(log: &str, key: &str) -> impl Iterator<Item = u64> {
    log.lines().filter_map(move |line| {
        let (_, rest) = line.split_once(key)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}

/// One line for each.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text =
        format!("{:<26} {:>12} {:>9} {:>7}\n", "target", "executions", "coverage", "corpus");
    for outcome in outcomes {
        let Outcome { target, executions, coverage, inputs, failed } = outcome;
        let end = if failed.is_some() { "  FAILED" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{target:<26} {executions:>12} {coverage:>9} {inputs:>7}{end}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
#2\tINITED cov: 5 ft: 5 corp: 1/1b exec/s: 0 rss: 30Mb
#81\tNEW    cov: 71 ft: 96 corp: 9/31b lim: 4 exec/s: 0 rss: 30Mb L: 3/4 MS: 1 ChangeBit-
stat::number_of_executed_units: 4711
stat::new_units_added:          8
";

    #[test]
    fn a_run_is_read() {
        let outcome = Outcome::read("x", LOG, true, 9);
        assert_eq!((outcome.executions, outcome.coverage, outcome.inputs), (4711, 71, 9));
        assert_eq!(outcome.crash(), None);
        let jobs = "#3157: cov: 12 ft: 9 corp: 9 exec/s: 1 oom/timeout/crash: 0/0/0";
        let outcome = Outcome::read("x", jobs, true, 9);
        assert_eq!((outcome.executions, outcome.coverage), (3157, 12));
    }

    #[test]
    fn a_failure_names_its_reproducer() {
        let log =
            format!("{LOG}artifact_prefix='a/'; Test unit written to a/crash-1\nBase64: AA==\n");
        let outcome = Outcome::read("x", &log, false, 9);
        assert!(outcome.crash().unwrap().starts_with("x failed: a/crash-1"));
        assert!(table(&[outcome]).ends_with("FAILED\n"));
        assert!(Outcome::read("x", "", false, 0).crash().unwrap().contains("no reproducer"));
    }
}
