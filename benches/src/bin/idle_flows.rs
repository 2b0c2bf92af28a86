//! What does an idle connection cost in memory? Opens many between two stacks on a link in memory,
//! sends 64 bytes through each and back so that it has used what it has, and looks at how much this
//! process has grown.
//!
//! Both ends are in this process. An end is everything: socket buffers, the engine's state, flow
//! table, timers, and the handle of the application.

#![forbid(unsafe_code)]

use std::fs;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::Serialize;
use underpass::Limits;
use underpass::devices::MemoryConfig;
use underpass_benches::pair::{Flow, Pair};
use underpass_benches::report::print_table;

/// Bytes that one end of an idle connection with small buffers may cost.
const GOAL: usize = 4096;
/// Connections that are open before the first look, so that rings and queues are in use.
const WARM: usize = 1000;
/// Fields of `/proc/self/statm` in pages (proc_pid_statm(5)).
const RESIDENT: usize = 1;
const DATA: usize = 5;

/// Bytes of memory per idle connection.
#[derive(Parser)]
struct Options {
    /// Connections.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    flows: u32,
    /// Bytes of each socket buffer, of which every end has two.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    buffer: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    flows: usize,
    buffer: usize,
    /// Memory in use, in bytes per connection, which has two ends.
    resident_per_flow: usize,
    resident_per_end: usize,
    /// Memory that was asked for, be it in use or not.
    claimed_per_end: usize,
    /// The part of it that is socket buffers.
    buffers_per_end: usize,
    goal_per_end: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (flows, buffer) = (options.flows as usize, options.buffer as usize);
    let mut limits = Limits::default();
    limits.flows = flows + WARM;
    limits.send_buffer = buffer;
    limits.recv_buffer = buffer;
    let mut pair = Pair::new(MemoryConfig::default(), &limits)?;
    let _warm = open(&mut pair, WARM)?;
    let before = Memory::now()?;
    eprintln!("opening {flows} connections ...");
    let _idle = open(&mut pair, flows)?;
    let after = Memory::now()?;

    let resident = after.resident.saturating_sub(before.resident);
    let report = Report {
        flows,
        buffer,
        resident_per_flow: resident / flows,
        resident_per_end: resident / flows / 2,
        claimed_per_end: after.data.saturating_sub(before.data) / flows / 2,
        buffers_per_end: 2 * buffer,
        goal_per_end: GOAL,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// Opens connections, and uses each once.
fn open(pair: &mut Pair, count: usize) -> Result<Vec<Flow>> {
    let flows = pair.connect(count)?;
    for flow in &flows {
        pair.echo(flow, &[7; 64], &mut [0; 64])?;
    }
    while pair.turn_client()? | pair.turn_server()? {}
    Ok(flows)
}

/// What this process has, in bytes.
struct Memory {
    resident: usize,
    data: usize,
}

impl Memory {
    fn now() -> Result<Self> {
        let statm = fs::read_to_string("/proc/self/statm").context("reading /proc/self/statm")?;
        let bytes = |field: usize| {
            let pages = statm.split_whitespace().nth(field).and_then(|n| n.parse::<usize>().ok());
            pages.map(|n| n * rustix::param::page_size()).context("/proc/self/statm has changed")
        };
        Ok(Self { resident: bytes(RESIDENT)?, data: bytes(DATA)? })
    }
}

fn print(report: &Report) {
    println!("memory per idle connection with buffers of {} bytes\n", report.buffer);
    let cells = [
        report.flows,
        report.resident_per_flow,
        report.resident_per_end,
        report.claimed_per_end,
        report.buffers_per_end,
    ];
    let header = ["connections", "in use, both ends", "one end", "claimed", "its socket buffers"];
    print_table(&header, &[cells.map(|n| n.to_string()).to_vec()]);
    println!("\nGoal: one end at most {} bytes in use.", report.goal_per_end);
}
