//! Does the number of open connections matter? 64-byte echo round trips over one of N connections,
//! beside plain smoltcp with all sockets in one set.
//!
//! Client and server share a thread and a link in memory; a round trip is four turns (or polls). The
//! connection of each round trip is drawn at random, so that a large table also pays for its cache
//! misses; the column "same" uses one connection all the time.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant as Clock};

use anyhow::Result;
use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use underpass::Limits;
use underpass::devices::MemoryConfig;
use underpass_benches::pair::{Flow, Pair};
use underpass_benches::plain::{PlainFlow, PlainPair};
use underpass_benches::report::{Spread, print_table};

/// Open connections above which plain smoltcp is left out: its set-up alone takes minutes.
const PLAIN_LIMIT: usize = 10_000;
/// Round trips between two looks at the clock.
const BATCH: usize = 16;

/// Echo round trips with many open connections.
#[derive(Parser)]
struct Options {
    /// Numbers of open connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000, 10_000, 100_000])]
    flows: Vec<usize>,
    /// Repetitions per contender.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Round trips per repetition at the most.
    #[arg(long, default_value_t = 200_000)]
    round_trips: usize,
    /// Seconds per repetition at the most.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bytes of each socket buffer.
    #[arg(long, default_value_t = 4096)]
    buffer: usize,
    /// Leave plain smoltcp out.
    #[arg(long)]
    no_plain: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Nanoseconds per round trip with `flows` open connections.
#[derive(Serialize)]
struct Row {
    flows: usize,
    random: Spread,
    same: Spread,
    plain: Option<Spread>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut rows = Vec::new();
    for flows in &options.flows {
        eprintln!("{flows} connections ...");
        rows.push(measure(*flows, &options)?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows);
    }
    Ok(())
}

fn measure(count: usize, options: &Options) -> Result<Row> {
    let mut limits = Limits::default();
    limits.flows = limits.flows.max(count);
    limits.send_buffer = options.buffer;
    limits.recv_buffer = options.buffer;
    let mut ours = Pair::new(MemoryConfig::default(), &limits)?;
    let flows = ours.connect(count)?;
    let mut plain = if count <= PLAIN_LIMIT && !options.no_plain {
        let mut pair = PlainPair::new(MemoryConfig::default());
        let flows = pair.connect(count, options.buffer)?;
        Some((pair, flows))
    } else {
        None
    };
    // Buffers get their memory when they are first used.
    for flow in &flows {
        round_trip(&mut ours, flow)?;
    }
    let mut random = Vec::new();
    let mut same = Vec::new();
    let mut beside = Vec::new();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..options.rounds {
        random.push(timed(options, || round_trip(&mut ours, &flows[rng.random_range(0..count)]))?);
        same.push(timed(options, || round_trip(&mut ours, &flows[count / 2]))?);
        if let Some((pair, flows)) = &mut plain {
            beside.push(timed(options, || {
                plain_round_trip(pair, flows[rng.random_range(0..count)])
            })?);
        }
    }
    let spread =
        |values: &[f64]| Spread::of(values).unwrap_or(Spread { min: 0., median: 0., max: 0. });
    Ok(Row {
        flows: count,
        random: spread(&random),
        same: spread(&same),
        plain: Spread::of(&beside),
    })
}

/// Nanoseconds per call.
fn timed(options: &Options, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let limit = Duration::from_secs_f64(options.seconds);
    let start = Clock::now();
    let mut calls = 0;
    while calls < options.round_trips && start.elapsed() < limit {
        for _ in 0..BATCH {
            call()?;
        }
        calls += BATCH;
    }
    Ok(start.elapsed().as_nanos() as f64 / calls as f64)
}

fn round_trip(pair: &mut Pair, flow: &Flow) -> Result<()> {
    pair.echo(flow, &[7; 64], &mut [0; 64])
}

fn plain_round_trip(pair: &mut PlainPair, flow: PlainFlow) -> Result<()> {
    pair.echo(flow, &[7; 64], &mut [0; 64])
}

fn print(rows: &[Row]) {
    println!("64-byte echo round trip, ns (min/median/max)\n");
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.flows.to_string(),
                format!("{:.0}", row.random),
                format!("{:.0}", row.same),
                row.plain.map_or("-".into(), |plain| format!("{plain:.0}")),
                row.plain
                    .map_or("-".into(), |plain| format!("{:.1}", plain.median / row.random.median)),
            ]
        })
        .collect();
    let header = ["connections", "random", "same", "plain smoltcp", "plain / random"];
    print_table(&header, &cells);
    let of = |flows: usize| rows.iter().find(|row| row.flows == flows);
    if let (Some(one), Some(many)) = (of(1), of(100_000)) {
        let ratio = many.random.median / one.random.median;
        println!("\n100,000 connections / 1 connection: {ratio:.2} (goal: at most 3)");
    }
}
