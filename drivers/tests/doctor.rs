//! The doctor, where everything works and where nothing is permitted.

#![cfg(feature = "lab")]

use std::collections::HashMap;

use underpass_drivers::doctor::{Status, check};

#[test]
fn every_answer_says_what_works_or_what_would_help() {
    let report = check();
    assert!(report.kernel.chars().next().is_some_and(char::is_numeric), "{report:?}");
    for backend in &report.backends {
        match &backend.status {
            Status::Works { detail } => assert!(!detail.is_empty()),
            Status::Missing { cause, remedy } => {
                assert!(!cause.is_empty() && !remedy.is_empty(), "{backend:?}");
            }
            Status::Untried { reason } => assert!(!reason.is_empty()),
        }
    }
}

#[test]
#[cfg(all(feature = "tap", feature = "packet"))]
#[ignore = "needs root: run by cargo xtask test"]
fn for_root_the_devices_work() {
    let report = check();
    let found: HashMap<_, _> = report.backends.iter().map(|b| (b.name, &b.status)).collect();
    let built = ["tap", "packet"].into_iter().chain(cfg!(feature = "dpdk").then_some("dpdk"));
    for name in built {
        assert!(matches!(found[name], Status::Works { .. }), "{report:?}");
    }
}
