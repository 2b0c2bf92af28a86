//! How many frames per second does a device receive and send, without a stack? Beside DPDK's
//! `dpdk-testpmd` on the same link, in turns: with the same driver if ours is one of DPDK's, with
//! `net_af_xdp` otherwise. Needs root, and `xdp`, `kring` and `dpdk-…` the cargo features of those names.
//!
//! Every measurement has a link of its own: a veth pair, whose ends are in two namespaces, or a TAP. The
//! contender polls on one CPU and does nothing with a frame.
//!
//! - *receive*: on the other CPU the kernel sends one frame over and over
//!   ([`Flood`](underpass_drivers::lab::Flood)). On a veth it is the sender's CPU, too, that runs the
//!   receiver's XDP program and copies the frame into its ring: if hardly more have arrived than were
//!   taken, the kernel was the limit and not the contender. Counted: frames that the contender got.
//! - *send*: nobody listens at the other end. Counted: frames that left, by the interface's counter.
//!   Through a TAP they come to the kernel, which looks at them before it drops them.
//!
//! A size is the length of the frame without its check sequence: 60 is what Ethernet calls 64 bytes.

#![forbid(unsafe_code)]

mod frame;
mod generator;
mod link;
mod ours;
mod peer;
mod report;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use underpass::devices::MacAddr;
use underpass_benches::cpus::Cpus;
use underpass_benches::testpmd::{self, Pmd, Settings};
use underpass_drivers::Spec;

use crate::link::{Link, OWN};
use crate::report::{Row, print, rows};

/// Frames per second of a device.
#[derive(Parser)]
struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measurements per contender.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Devices to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Packet])]
    device: Vec<Kind>,
    /// Other devices to measure, such as packet:own,qdisc-bypass=on; the interface is called `own`.
    #[arg(long)]
    spec: Vec<Spec>,
    /// Lengths of the frames in bytes, without check sequence.
    #[arg(long, value_delimiter = ',', default_values_t = [60, 1514], value_parser = clap::value_parser!(u16).range(i64::from(frame::SHORTEST)..=i64::from(frame::LONGEST)))]
    size: Vec<u16>,
    /// Frames per burst; several values are measured beside each other.
    #[arg(long, value_delimiter = ',', default_values_t = [64])]
    burst: Vec<usize>,
    /// `busy_budget` of testpmd's driver; several values are measured beside each other.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 64])]
    busy_budget: Vec<u32>,
    /// Measure one direction only.
    #[arg(long, value_enum)]
    only: Option<Direction>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Packet,
    Xdp,
    DpdkPacket,
    DpdkXdp,
    Kring,
    Tap,
}

impl Kind {
    fn spec(self) -> Result<Spec> {
        let text = match self {
            Self::Packet => format!("packet:{OWN}"),
            // Every frame is for us: there is no kernel station on the interface.
            Self::Xdp => format!("xdp:{OWN},share=off"),
            Self::DpdkPacket => format!("dpdk:net_af_packet0,iface={OWN}"),
            // Polling is ours: the kernel need not do it, too.
            Self::DpdkXdp => format!("dpdk:net_af_xdp0,iface={OWN},busy_budget=0"),
            Self::Kring => format!("kring:{OWN},share=off"),
            Self::Tap => format!("tap:{OWN}"),
        };
        Ok(text.parse()?)
    }

    /// What testpmd is to be beside it.
    fn peer(self) -> Pmd {
        match self {
            Self::DpdkPacket => Pmd::AfPacket,
            Self::Packet | Self::Xdp | Self::DpdkXdp | Self::Kring | Self::Tap => Pmd::AfXdp,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Receive,
    Send,
}

/// Who receives or sends.
#[derive(Clone, Debug)]
enum Who {
    /// `beside` is the driver of testpmd that it is compared with.
    Ours {
        spec: Spec,
        burst: usize,
        beside: Pmd,
    },
    Testpmd(Settings),
}

/// One thing to measure.
#[derive(Clone, Debug)]
struct Contender {
    who: Who,
    direction: Direction,
    /// Bytes per frame.
    size: u16,
}

/// What one measurement has found, in frames per second.
#[derive(Clone, Copy, Debug)]
struct Measured {
    rate: f64,
    /// What has arrived at the interface, if it was about receiving.
    arrived: Option<f64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let cpus = Cpus::choose()?;
    let contenders = contenders(&options)?;
    let mut results: Vec<Vec<Measured>> = vec![Vec::new(); contenders.len()];
    for round in 1..=options.rounds {
        for (contender, values) in contenders.iter().zip(&mut results) {
            let Contender { direction, size, .. } = contender;
            let name = contender.who.name();
            eprintln!("round {round}/{}: {name}, {direction:?} {size}", options.rounds);
            let measured = contender.measure(cpus, Duration::from_secs_f64(options.seconds))?;
            ensure!(measured.rate > 0.0, "{name}: nothing arrived");
            values.push(measured);
        }
    }
    let rows: Vec<Row> = rows(&contenders, &results);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows);
    }
    Ok(())
}

fn contenders(options: &Options) -> Result<Vec<Contender>> {
    let mut ours = Vec::new();
    for kind in &options.device {
        ours.push((kind.spec()?, kind.peer()));
    }
    ours.extend(options.spec.iter().map(|spec| (spec.clone(), Pmd::AfXdp)));
    let budgets = options.busy_budget.iter().map(|frames| Pmd::AfXdp.with(Some(*frames)));
    let drivers =
        [(Pmd::AfPacket, vec![Pmd::AfPacket.with(None)]), (Pmd::AfXdp, budgets.collect())];
    let mut everybody = Vec::new();
    for burst in options.burst.iter().copied() {
        for (spec, beside) in &ours {
            everybody.push(Who::Ours { spec: spec.clone(), burst, beside: *beside });
        }
        for (pmd, devices) in &drivers {
            if ours.iter().any(|(_, beside)| beside == pmd) {
                let settings = |device| Who::Testpmd(Settings { device, burst });
                everybody.extend(devices.iter().copied().map(settings));
            }
        }
    }
    if !testpmd::is_installed() {
        eprintln!("dpdk-testpmd is not installed (Debian: {}): ours alone", testpmd::PACKAGE);
        everybody.retain(|who| matches!(who, Who::Ours { .. }));
    }
    let directions = [Direction::Receive, Direction::Send];
    let wanted = |direction: &Direction| options.only.is_none_or(|only| only == *direction);
    let mut list = Vec::new();
    for direction in directions.into_iter().filter(wanted) {
        for size in &options.size {
            list.extend(everybody.iter().map(|who| Contender {
                who: who.clone(),
                direction,
                size: *size,
            }));
        }
    }
    Ok(list)
}

impl Contender {
    fn measure(&self, cpus: Cpus, time: Duration) -> Result<Measured> {
        let link = match &self.who {
            Who::Ours { spec: Spec::Tap { .. }, .. } => Link::tap(),
            _ => Link::veth(),
        }?;
        let size = usize::from(self.size);
        let (own, peer) = (link.own_address()?, MacAddr::local(1));
        let measured = match self.direction {
            Direction::Receive => {
                let frame = frame::datagram(size, own, peer);
                let received = match &self.who {
                    Who::Ours { spec, burst, .. } => {
                        ours::receive(&link, spec, &frame, *burst, cpus, time)
                    }
                    Who::Testpmd(settings) => peer::receive(&link, *settings, &frame, cpus, time),
                }?;
                Measured { rate: received.taken, arrived: Some(received.arrived) }
            }
            Direction::Send => {
                // As testpmd's frames, it is not for the station at the other end.
                let frame = frame::datagram(size, peer, own);
                let rate = match &self.who {
                    Who::Ours { spec, burst, .. } => {
                        ours::transmit(&link, spec, &frame, *burst, cpus, time)
                    }
                    Who::Testpmd(settings) => peer::transmit(&link, *settings, size, cpus, time),
                }?;
                Measured { rate, arrived: None }
            }
        };
        Ok(measured)
    }
}

impl Who {
    fn name(&self) -> String {
        match self {
            Self::Ours { spec, .. } => format!("ours, {spec}"),
            Self::Testpmd(settings) => format!("testpmd, {}", settings.device),
        }
    }

    fn burst(&self) -> usize {
        match self {
            Self::Ours { burst, .. } => *burst,
            Self::Testpmd(settings) => settings.burst,
        }
    }
}
