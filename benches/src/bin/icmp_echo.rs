//! How long does a ping of the kernel take, on which device? Beside `dpdk-testpmd --forward-mode=icmpecho`
//! with the same driver of DPDK, and beside the kernel's own answer. Needs root, the kernel's `ping`, and
//! for `xdp`, `kring` and `dpdk-…` the cargo features of those names.
//!
//! Every contender polls on one CPU; the kernel pings from the other one, each time as soon as it has an
//! answer (`ping -A`).

#![forbid(unsafe_code)]

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant as Clock;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use serde::Serialize;
use underpass::Stack;
use underpass::devices::Instant;
use underpass_benches::cpus::{Cpus, stay_on};
use underpass_benches::lab::{Lab, OWN_INTERFACE, Wire, own_net};
use underpass_benches::report::{Spread, print_table};
use underpass_benches::testpmd::{self, Pmd, Settings, Testpmd};

/// Round trip of a ping.
#[derive(Parser)]
struct Options {
    /// Pings per measurement.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Measurements per contender.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Devices to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Wire::Packet])]
    device: Vec<Wire>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Stack(Wire),
    Testpmd(Pmd),
    Kernel,
}

/// Mean round-trip times in microseconds.
#[derive(Serialize)]
struct Row {
    contender: String,
    mean: Spread,
    /// This contender's / that of testpmd with the same driver, within each round.
    beside_testpmd: Option<Spread>,
    /// This contender's / the kernel's, within each round.
    beside_kernel: Option<Spread>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let cpus = Cpus::choose()?;
    let contenders = contenders(&options.device);
    let mut results: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for round in 1..=options.rounds {
        for (contender, values) in contenders.iter().zip(&mut results) {
            eprintln!("round {round}/{}: {}", options.rounds, contender.name());
            let mean = contender.measure(cpus, options.count);
            values.push(mean.with_context(|| contender.name())?);
        }
    }
    let rows = rows(&contenders, &results);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows);
    }
    Ok(())
}

fn contenders(devices: &[Wire]) -> Vec<Contender> {
    let mut list: Vec<_> = devices.iter().copied().map(Contender::Stack).collect();
    for pmd in [Pmd::AfPacket, Pmd::AfXdp] {
        if devices.iter().any(|wire| wire.pmd() == Some(pmd)) {
            list.push(Contender::Testpmd(pmd));
        }
    }
    if !testpmd::is_installed() && list.iter().any(|who| matches!(who, Contender::Testpmd(_))) {
        eprintln!("dpdk-testpmd is not installed (Debian: {}): left out", testpmd::PACKAGE);
        list.retain(|who| !matches!(who, Contender::Testpmd(_)));
    }
    list.push(Contender::Kernel);
    list
}

impl Contender {
    fn name(self) -> String {
        match self {
            Self::Stack(wire) => format!("stack, {}", wire.name()),
            Self::Testpmd(pmd) => format!("testpmd icmpecho, {}", pmd.with(None)),
            Self::Kernel => "kernel, veth".to_owned(),
        }
    }

    /// The mean round-trip time in microseconds.
    fn measure(self, cpus: Cpus, count: u32) -> Result<f64> {
        let lab = Lab::new()?;
        match self {
            Self::Kernel => {
                lab.kernels(false)?;
                ping(&lab, cpus, count)
            }
            Self::Testpmd(pmd) => {
                lab.veth(false)?;
                let settings = Settings { device: pmd.with(None), burst: 32 };
                let own = (&lab.own, OWN_INTERFACE);
                let testpmd = Testpmd::start(own, settings, cpus, &["set fwd icmpecho", "start"])?;
                let mean = ping(&lab, cpus, count);
                testpmd.leave()?;
                mean
            }
            Self::Stack(wire) => {
                let device = lab.device(wire, false)?;
                let (_stack, mut shard) =
                    Stack::builder().address(own_net()?).build_shard(device)?;
                let stop = AtomicBool::new(false);
                thread::scope(|scope| {
                    let answering = scope.spawn(|| {
                        stay_on(cpus.device)?;
                        let clock = Clock::now();
                        while !stop.load(Ordering::Relaxed) {
                            shard.turn(Instant::from_nanos(clock.elapsed().as_nanos() as u64))?;
                        }
                        anyhow::Ok(())
                    });
                    let mean = ping(&lab, cpus, count);
                    stop.store(true, Ordering::Relaxed);
                    answering.join().map_err(|_| anyhow!("the stack has panicked"))??;
                    mean
                })
            }
        }
    }
}

/// The mean of what the kernel of the other namespace measures. All pings are answered.
fn ping(lab: &Lab, cpus: Cpus, count: u32) -> Result<f64> {
    let station = own_net()?.addr().to_string();
    let ping = |count: u32| {
        let mut command = Command::new("ping");
        command.args(["-q", "-A", "-n", "-W", "5", "-c", &count.to_string(), &station]);
        // A process is where the thread was that made it.
        let output = lab.peer.run(|| stay_on(cpus.generator).map(|()| command.output()))?;
        let output = output.context("running ping (Debian: iputils-ping)")?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // Addresses are found out, and caches warm, before the first that counts.
    ping(10)?;
    let report = ping(count)?;
    ensure!(report.contains(" 0% packet loss"), "pings were lost:\n{report}");
    let times = report.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let mean = times.and_then(|times| times.split('/').nth(1)?.parse::<f64>().ok());
    Ok(mean.with_context(|| format!("ping has said:\n{report}"))? * 1e3)
}

fn rows(contenders: &[Contender], results: &[Vec<f64>]) -> Vec<Row> {
    let of = |who: Contender| contenders.iter().position(|other| *other == who);
    let beside = |values: &[f64], peer: Option<usize>| {
        let peer = results.get(peer?)?;
        Spread::of(&values.iter().zip(peer).map(|(own, peer)| own / peer).collect::<Vec<_>>())
    };
    let row = |(contender, values): (&Contender, &Vec<f64>)| {
        let pmd = match contender {
            Contender::Stack(wire) => wire.pmd(),
            Contender::Testpmd(_) | Contender::Kernel => None,
        };
        let is_kernel = *contender == Contender::Kernel;
        Some(Row {
            contender: contender.name(),
            mean: Spread::of(values)?,
            beside_testpmd: beside(values, pmd.map(Contender::Testpmd).and_then(of)),
            beside_kernel: beside(values, of(Contender::Kernel)).filter(|_| !is_kernel),
        })
    };
    contenders.iter().zip(results).filter_map(row).collect()
}

fn print(rows: &[Row]) {
    println!("mean round trip of a ping of 56 bytes, microseconds (min/median/max)\n");
    let ratio = |ratio: Option<Spread>| ratio.map(|r| format!("{r:.2}")).unwrap_or_default();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mean = row.mean.to_string();
            vec![row.contender.clone(), mean, ratio(row.beside_testpmd), ratio(row.beside_kernel)]
        })
        .collect();
    print_table(&["who answers", "mean", "/ testpmd's", "/ kernel's"], &cells);
}
