//! `underpass doctor`

use std::process::ExitCode;

use anyhow::Result;
use underpass_drivers::doctor::{Report, Status, check};

/// Tries every way to reach the network, and prints what works.
pub(crate) fn run(json: bool) -> Result<ExitCode> {
    let report = check();
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    println!("kernel {}", report.kernel);
    println!();
    for backend in &report.backends {
        let (status, detail) = match &backend.status {
            Status::Works { detail } => ("works", detail.clone()),
            Status::Missing { cause, remedy } => ("missing", format!("{cause}; {remedy}")),
            Status::Untried { reason } => ("untried", reason.clone()),
        };
        println!("{:<16} {status:<8} {detail}", backend.name);
    }
    println!();
    for limit in &report.limits {
        println!("{:<46} {:<10} {}", limit.name, limit.value, limit.limits);
    }
}
