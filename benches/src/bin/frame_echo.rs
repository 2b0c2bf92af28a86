//! How long do a frame and its echo take, on which device, without a stack? Beside our kernel module,
//! which sends the frame back without asking a process (`kring:IFACE,echo=`): the difference is what
//! the way to a process and back costs. Needs root, and `kring` the cargo feature of that name.
//!
//! The other end of the link is an AF_PACKET device that spins on a CPU of its own. Whoever echoes
//! spins on another one, or sleeps until the next frame comes.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use underpass::devices::{
    Device, Instant, MacAddr, RxQueue, Selection, Selector, TxMeta, TxQueue, Wake,
};
use underpass_benches::report::{Spread, print_table};
use underpass_drivers::AnyDevice;
use underpass_drivers::lab::{Namespace, veth};

/// IEEE 802 Local Experimental EtherType 1.
const ETHER_TYPE: u16 = 0x88b5;
/// Bytes of a frame, without check sequence.
const FRAME: usize = 60;
/// A frame that has not come back by then is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest sleep, after which a device looks whether it is over.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Round trip of a frame.
#[derive(Parser)]
struct Options {
    /// Frames per measurement.
    #[arg(long, default_value_t = 20_000)]
    frames: usize,
    /// Measurements per contender.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Who echoes.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Who::Packet, Who::Tap])]
    device: Vec<Who>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    /// The kernel module itself.
    Module,
    Kring,
    Packet,
    Tap,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
struct Contender {
    who: Who,
    sleeps: bool,
}

/// What a contender took, in microseconds.
#[derive(Serialize)]
struct Row {
    contender: String,
    p50: Spread,
    p99: Spread,
    /// Medians of this contender / the first one's, within each round.
    ratio: Spread,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let contenders: Vec<Contender> = options
        .device
        .iter()
        .flat_map(|who| match who {
            Who::Module => vec![Contender { who: *who, sleeps: true }],
            _ => [false, true].map(|sleeps| Contender { who: *who, sleeps }).to_vec(),
        })
        .collect();
    let mut results = vec![Vec::new(); contenders.len()];
    for round in 1..=options.rounds {
        for (contender, values) in contenders.iter().zip(&mut results) {
            eprintln!("round {round}/{}: {}", options.rounds, contender.name());
            values.push(contender.measure(options.frames)?);
        }
    }
    let first: Vec<f64> = results[0].iter().map(|(p50, _)| *p50).collect();
    let rows: Vec<Row> = contenders
        .iter()
        .zip(&results)
        .filter_map(|(contender, values)| {
            let ratios = values.iter().zip(&first).map(|((p50, _), first)| p50 / first);
            Some(Row {
                contender: contender.name(),
                p50: Spread::of(&values.iter().map(|(p50, _)| *p50).collect::<Vec<_>>())?,
                p99: Spread::of(&values.iter().map(|(_, p99)| *p99).collect::<Vec<_>>())?,
                ratio: Spread::of(&ratios.collect::<Vec<_>>())?,
            })
        })
        .collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let Row { contender, p50, p99, ratio } = row;
            vec![contender.clone(), p50.to_string(), p99.to_string(), format!("{ratio:.2}")]
        })
        .collect();
    print_table(&["who echoes", "p50, us", "p99, us", "p50 / the first's"], &cells);
    Ok(())
}

impl Contender {
    fn name(self) -> String {
        let who = match self.who {
            Who::Module => return "kernel module".to_owned(),
            Who::Kring => "kring",
            Who::Packet => "packet",
            Who::Tap => "tap",
        };
        format!("{who}, {}", if self.sleeps { "asleep" } else { "spinning" })
    }

    /// Median and 99th percentile of so many frames, in microseconds.
    fn measure(self, frames: usize) -> Result<(f64, f64)> {
        let (own, peer) = (Namespace::new()?, Namespace::new()?);
        let spec = match self.who {
            Who::Module => format!("kring:own,echo={ETHER_TYPE:#06x}"),
            Who::Kring => "kring:own".to_owned(),
            Who::Packet => "packet:own".to_owned(),
            Who::Tap => "tap:peer,host=10.9.0.1/24".to_owned(),
        };
        if self.who != Who::Tap {
            veth((&own, "own"), (&peer, "peer"))?;
        }
        // A TAP is the kernel's own end of the link, where the peer is.
        let home = if self.who == Who::Tap { &peer } else { &own };
        let mut device =
            home.run(|| AnyDevice::open(&spec.parse()?).with_context(|| spec.clone()))?;
        let selectors = vec![Selector::EtherType(ETHER_TYPE)];
        device.select(&Selection { vlan: None, selectors })?;
        let station = device.caps().mac;
        let mut peer =
            peer.run(|| AnyDevice::open(&"packet:peer".parse()?).context("packet:peer"))?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let echo = scope.spawn(|| match self.who {
                Who::Module => Ok(()),
                _ => echo(&mut device, self.sleeps, &over),
            });
            let times = exchange(&mut peer, station, frames);
            over.store(true, Ordering::Relaxed);
            echo.join().map_err(|_| anyhow!("the echo has panicked"))??;
            let mut times = times?;
            times.sort_by(f64::total_cmp);
            let at = |percent: usize| times.get((times.len() - 1) * percent / 100).copied();
            at(50).zip(at(99)).context("no frame was sent")
        })
    }
}

/// Sends back what comes, until it is over.
fn echo(device: &mut AnyDevice, sleeps: bool, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let (mut rx, mut tx) = device.split();
        let ready = rx.fill(Instant::ZERO)?;
        while let Some(frame) = rx.next() {
            if !is_ours(frame.bytes) {
                continue;
            }
            tx.send(frame.bytes.len(), TxMeta::default(), |slot| {
                slot.copy_from_slice(frame.bytes);
                slot[..6].copy_from_slice(&frame.bytes[6..12]);
                slot[6..12].copy_from_slice(&frame.bytes[..6]);
            })?;
        }
        rx.release();
        tx.flush(Instant::ZERO)?;
        if sleeps
            && ready == 0
            && let Wake::Fd(fd) = device.wake()?
        {
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&NAP))?;
        }
    }
    Ok(())
}

/// Sends frames one at a time; the time until each came back, in microseconds.
fn exchange(device: &mut AnyDevice, station: MacAddr, frames: usize) -> Result<Vec<f64>> {
    let mut frame = [&station.0[..], &device.caps().mac.0, &ETHER_TYPE.to_be_bytes()].concat();
    frame.resize(FRAME, 0);
    let mut times = Vec::with_capacity(frames);
    for _ in 0..frames {
        let start = Clock::now();
        let (mut rx, mut tx) = device.split();
        tx.send(FRAME, TxMeta::default(), |slot| slot.copy_from_slice(&frame))?;
        tx.flush(Instant::ZERO)?;
        let mut back = false;
        while !back {
            rx.fill(Instant::ZERO)?;
            while let Some(frame) = rx.next() {
                back |= is_ours(frame.bytes);
            }
            rx.release();
            if start.elapsed() > PATIENCE {
                bail!("a frame did not come back");
            }
        }
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHER_TYPE.to_be_bytes())
}
