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
    for nic in &report.nics {
        println!();
        let interfaces = nic.interfaces.join(" ");
        let driver = nic.driver.as_deref().unwrap_or("no driver");
        println!("{:<16} {interfaces} ({driver}): {}", nic.address, nic.advice);
        for command in &nic.commands {
            println!("    {command}");
        }
    }
    for port in &report.rdma_ports {
        println!();
        let name = format!("{} port {}", port.device, port.port);
        println!("{name:<16} {} ({})", port.state, port.link_layer);
        for gid in &port.gids {
            let interface = gid.interface.as_deref().unwrap_or("no interface");
            println!("    gid={:<3} {} ({}, {interface})", gid.index, gid.gid, gid.kind);
        }
    }
    println!();
    for limit in &report.limits {
        println!("{:<46} {:<10} {}", limit.name, limit.value, limit.limits);
    }
}
