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
    /// `random` over that of the first row, round by round.
    ratio: Spread,
}

/// One number of connections, set up, and what was measured of it so far.
struct Contender {
    flows: Vec<Flow>,
    pair: Pair,
    plain: Option<(PlainPair, Vec<PlainFlow>)>,
    random: Vec<f64>,
    same: Vec<f64>,
    beside: Vec<f64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut contenders = Vec::new();
    for flows in &options.flows {
        eprintln!("opening {flows} connections ...");
        contenders.push(Contender::new(*flows, &options)?);
    }
    let mut rng = StdRng::seed_from_u64(1);
    // Round by round over all of them, so that a machine that changes its pace changes all alike.
    for round in 1..=options.rounds {
        eprintln!("round {round}/{} ...", options.rounds);
        for contender in &mut contenders {
            contender.measure(&options, &mut rng)?;
        }
    }
    let first = contenders.first().map(|c| c.random.clone()).unwrap_or_default();
    let rows: Vec<Row> = contenders.iter().map(|c| c.row(&first)).collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows);
    }
    Ok(())
}

impl Contender {
    fn new(count: usize, options: &Options) -> Result<Self> {
        let mut limits = Limits::default();
        limits.flows = limits.flows.max(count);
        limits.send_buffer = options.buffer;
        limits.recv_buffer = options.buffer;
        let mut pair = Pair::new(MemoryConfig::default(), &limits)?;
        let flows = pair.connect(count)?;
        let plain = if count <= PLAIN_LIMIT && !options.no_plain {
            let mut pair = PlainPair::new(MemoryConfig::default());
            let flows = pair.connect(count, options.buffer)?;
            Some((pair, flows))
        } else {
            None
        };
        // Buffers get their memory when they are first used.
        for flow in &flows {
            round_trip(&mut pair, flow)?;
        }
        let (random, same, beside) = Default::default();
        Ok(Self { flows, pair, plain, random, same, beside })
    }

    fn measure(&mut self, options: &Options, rng: &mut StdRng) -> Result<()> {
        let count = self.flows.len();
        let (pair, flows) = (&mut self.pair, &self.flows);
        self.random.push(timed(options, || round_trip(pair, &flows[rng.random_range(0..count)]))?);
        self.same.push(timed(options, || round_trip(pair, &flows[count / 2]))?);
        if let Some((pair, flows)) = &mut self.plain {
            self.beside.push(timed(options, || {
                plain_round_trip(pair, flows[rng.random_range(0..count)])
            })?);
        }
        Ok(())
    }

    fn row(&self, first: &[f64]) -> Row {
        let ratios: Vec<f64> = self.random.iter().zip(first).map(|(own, one)| own / one).collect();
        let spread =
            |values: &[f64]| Spread::of(values).unwrap_or(Spread { min: 0., median: 0., max: 0. });
        Row {
            flows: self.flows.len(),
            random: spread(&self.random),
            same: spread(&self.same),
            plain: Spread::of(&self.beside),
            ratio: spread(&ratios),
        }
    }
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
                format!("{:.2}", row.ratio),
                format!("{:.0}", row.same),
                row.plain.map_or("-".into(), |plain| format!("{plain:.0}")),
                row.plain
                    .map_or("-".into(), |plain| format!("{:.1}", plain.median / row.random.median)),
            ]
        })
        .collect();
    let header =
        ["connections", "random", "over first row", "same", "plain smoltcp", "plain / random"];
    print_table(&header, &cells);
    println!("\nGoal: 100,000 connections at most 3 times 1 connection.");
}
