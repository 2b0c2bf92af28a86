//! How fast is one TCP connection, on which device? Every contender runs once per round.
//!
//! - `memory`: both ends of a link in memory, turned by one thread, beside bare smoltcp on the same
//!   link;
//! - `tap`, `packet` and the others: the stack beside the kernel's TCP, whose peer is the kernel's TCP in
//!   a network namespace of its own. Needs root, and `xdp`, `kring` and `dpdk-…` the cargo features of those names.

#![forbid(unsafe_code)]

mod lab;
mod memory;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::builder::PossibleValue;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use underpass_benches::lab::Wire;
use underpass_benches::report::{Spread, print_table};

/// Throughput of one TCP connection.
#[derive(Parser)]
struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measurements per contender.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Devices to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Medium::Memory, Medium::Wire(Wire::Tap), Medium::Wire(Wire::Packet)])]
    device: Vec<Medium>,
    /// Microseconds that the stack's thread polls its device before it sleeps; several values are
    /// measured beside each other.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 50])]
    busy_poll: Vec<u64>,
    /// Measure too with the application on the stack's own thread.
    #[arg(long)]
    inline: bool,
    /// Bytes of each socket buffer of the stack.
    #[arg(long, default_value_t = 512 * 1024)]
    buffer: usize,
    /// Measure only contenders whose name and offload column contain this text, such as `bare` or
    /// `memory on`.
    #[arg(long)]
    only: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Memory,
    Wire(Wire),
}

impl ValueEnum for Medium {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Memory,
            Self::Wire(Wire::Tap),
            Self::Wire(Wire::Packet),
            Self::Wire(Wire::Xdp),
            Self::Wire(Wire::DpdkTap),
            Self::Wire(Wire::DpdkPacket),
            Self::Wire(Wire::DpdkXdp),
            Self::Wire(Wire::Kring),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Memory => Some("memory".into()),
            Self::Wire(wire) => wire.to_possible_value(),
        }
    }
}

/// Who runs the stack.
#[derive(Clone, Copy, Debug)]
enum Driving {
    /// A thread of its own, which polls this long before it sleeps.
    Thread(Duration),
    /// The application, in turns.
    Inline,
}

/// One contender.
#[derive(Clone, Copy, Debug)]
enum Contender {
    Memory { offload: bool, plain: bool },
    Stack { wire: Wire, offload: bool, driving: Driving },
    Kernel { offload: bool },
}

/// Which way the bytes flow, as the contender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Send,
    Receive,
}

/// Gbit/s of one contender.
#[derive(Serialize)]
struct Row {
    contender: String,
    offload: bool,
    direction: Direction,
    gbits: Spread,
    #[serde(skip)]
    kind: Contender,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let contenders = contenders(&options);
    let mut results: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for round in 1..=options.rounds {
        for ((contender, direction), values) in contenders.iter().zip(&mut results) {
            eprintln!("round {round}/{}: {} {direction:?}", options.rounds, contender.name());
            values.push(contender.measure(*direction, &options)?);
        }
    }
    let rows: Vec<Row> = contenders
        .iter()
        .zip(&results)
        .filter_map(|((kind, direction), values)| {
            Some(Row {
                contender: kind.name(),
                offload: kind.offload(),
                direction: *direction,
                gbits: Spread::of(values)?,
                kind: *kind,
            })
        })
        .collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows);
    }
    Ok(())
}

fn contenders(options: &Options) -> Vec<(Contender, Direction)> {
    let mut list = Vec::new();
    let mut drivings: Vec<Driving> =
        options.busy_poll.iter().map(|us| Driving::Thread(Duration::from_micros(*us))).collect();
    if options.inline {
        drivings.push(Driving::Inline);
    }
    for medium in &options.device {
        let wire = match medium {
            Medium::Memory => {
                for (offload, plain) in [(false, false), (false, true), (true, false), (true, true)]
                {
                    list.push((Contender::Memory { offload, plain }, Direction::Send));
                }
                continue;
            }
            Medium::Wire(wire) => *wire,
        };
        let both = [false, true].into_iter().filter(|offload| !offload || wire.has_offloads());
        for offload in both {
            for driving in &drivings {
                let contender = Contender::Stack { wire, offload, driving: *driving };
                list.push((contender, Direction::Send));
                list.push((contender, Direction::Receive));
            }
        }
    }
    if options.device.iter().any(|medium| *medium != Medium::Memory) {
        for offload in [false, true] {
            list.push((Contender::Kernel { offload }, Direction::Send));
        }
    }
    if let Some(text) = &options.only {
        list.retain(|(contender, _)| {
            format!("{} {}", contender.name(), on_off(contender.offload())).contains(text)
        });
    }
    list
}

impl Contender {
    fn name(&self) -> String {
        match self {
            Self::Memory { plain: false, .. } => "stack, memory".into(),
            Self::Memory { plain: true, .. } => "bare smoltcp, memory".into(),
            Self::Kernel { .. } => "kernel, veth".into(),
            Self::Stack { wire, driving, .. } => {
                let wire = wire.name();
                match driving {
                    Driving::Thread(spin) => {
                        format!("stack, {wire}, busy-poll {} us", spin.as_micros())
                    }
                    Driving::Inline => format!("stack, {wire}, inline"),
                }
            }
        }
    }

    fn offload(&self) -> bool {
        match self {
            Self::Memory { offload, .. }
            | Self::Stack { offload, .. }
            | Self::Kernel { offload } => *offload,
        }
    }

    /// Gbit/s.
    fn measure(&self, direction: Direction, options: &Options) -> Result<f64> {
        let time = Duration::from_secs_f64(options.seconds);
        let rate = match *self {
            Self::Memory { offload, plain: false } => memory::stack(offload, options.buffer, time)?,
            Self::Memory { offload, plain: true } => memory::plain(offload, options.buffer, time)?,
            Self::Stack { wire, offload, driving } => {
                lab::stack(wire, offload, driving, direction, options.buffer, time)?
            }
            Self::Kernel { offload } => lab::kernel(offload, time)?,
        };
        ensure!(rate > 0.0, "{}: nothing arrived", self.name());
        Ok(rate)
    }
}

fn print(rows: &[Row]) {
    println!("one TCP connection, MTU 1500, Gbit/s (min/median/max)\n");
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.contender.clone(),
                on_off(row.offload).into(),
                format!("{:?}", row.direction).to_lowercase(),
                format!("{:.2}", row.gbits),
            ]
        })
        .collect();
    print_table(&["contender", "offloads", "direction", "Gbit/s"], &cells);
    println!();
    print_ratios(rows);
}

fn on_off(offload: bool) -> &'static str {
    if offload { "on" } else { "off" }
}

fn print_ratios(rows: &[Row]) {
    let best = |wanted: &dyn Fn(&Row) -> bool| {
        rows.iter().filter(|row| wanted(row)).map(|row| row.gbits.median).reduce(f64::max)
    };
    for offload in [false, true] {
        let of = |bare: bool| {
            best(&|row| {
                row.offload == offload
                    && matches!(row.kind, Contender::Memory { plain, .. } if plain == bare)
            })
        };
        if let (Some(ours), Some(bare)) = (of(false), of(true)) {
            let offload = if offload { "with" } else { "without" };
            println!(
                "memory, {offload} offloads: stack / bare smoltcp {:.2} (goal: at least 0.8)",
                ours / bare
            );
        }
    }
    for wire in Wire::value_variants() {
        for direction in [Direction::Send, Direction::Receive] {
            let of = |offload: bool| {
                best(&|row| {
                    row.offload == offload
                        && row.direction == direction
                        && matches!(row.kind, Contender::Stack { wire: w, .. } if w == *wire)
                })
            };
            for offload in [false, true] {
                let kernel = best(&|row| {
                    row.offload == offload && matches!(row.kind, Contender::Kernel { .. })
                });
                if let (Some(stack), Some(kernel)) = (of(offload), kernel) {
                    println!(
                        "{wire:?} {direction:?}, offloads {}: stack / kernel {:.2}",
                        on_off(offload),
                        stack / kernel
                    );
                }
            }
            if let (Some(off), Some(on)) = (of(false), of(true)) {
                println!(
                    "{wire:?} {direction:?}: offloads on / off {:.1} (goal on TAP: at least 3)",
                    on / off
                );
            }
        }
    }
}
