//! How long does a frame of an `rdma:` device take, and how many bytes does it carry, beside perftest's
//! messages of the same size on the same two devices? Needs two RDMA devices that reach each other, and the
//! cargo feature `rdma`.
//!
//! Both ends poll, each on a CPU of its own. A round trip is told by half, and bandwidth is what the sender
//! sees, as perftest does.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use serde::Serialize;
use underpass::devices::{Device, Instant, MacAddr, RxQueue, SendError, TxMeta, TxQueue};
use underpass_benches::cpus::{Cpus, stay_on};
use underpass_benches::perftest::{Settings, bandwidth, latency};
use underpass_benches::report::{Spread, print_table};
use underpass_drivers::AnyDevice;

/// IEEE 802 Local Experimental EtherType 1.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Frames that are sent with one doorbell.
const BURST: usize = 32;

/// Frames beside perftest's messages.
#[derive(Parser)]
struct Options {
    /// The device that echoes and receives.
    #[arg(long, default_value = "rxe0")]
    server: String,
    /// The device that asks and sends.
    #[arg(long, default_value = "rxe1")]
    client: String,
    /// Bytes of a frame in a round trip.
    #[arg(long, default_value_t = 64)]
    small: usize,
    /// Bytes of a frame in bulk; at most the MTU of the ports.
    #[arg(long, default_value_t = 4096)]
    large: usize,
    /// Frames per measurement.
    #[arg(long, default_value_t = 2000)]
    frames: usize,
    /// Measurements per contender.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What both made of one question.
#[derive(Serialize)]
struct Row {
    question: String,
    perftest: Spread,
    ours: Spread,
    /// Ours / perftest, within each round.
    ratio: Spread,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let cpus = Cpus::choose()?;
    let settings = |size| Settings {
        server: &options.server,
        client: &options.client,
        size,
        count: options.frames,
    };
    let mut results = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        eprintln!("round {round}/{}", options.rounds);
        let (small, large) = (settings(options.small), settings(options.large));
        results[0].push((latency(&small, cpus)?, Link::open(&small, cpus)?.round_trips()?));
        results[1].push((bandwidth(&large, cpus)?, Link::open(&large, cpus)?.bulk()?));
    }
    let questions = [
        format!("half a round trip of {} bytes, us", options.small),
        format!("bandwidth in {} bytes, MiB/s", options.large),
    ];
    let rows: Vec<Row> = questions.into_iter().zip(&results).filter_map(row).collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|Row { question, perftest, ours, ratio }| {
            vec![question, perftest.to_string(), ours.to_string(), format!("{ratio:.2}")]
        })
        .collect();
    print_table(&["question", "perftest", "rdma:", "rdma: / perftest"], &cells);
    Ok(())
}

fn row((question, values): (String, &Vec<(f64, f64)>)) -> Option<Row> {
    let of =
        |value: fn(&(f64, f64)) -> f64| Spread::of(&values.iter().map(value).collect::<Vec<_>>());
    Some(Row {
        question,
        perftest: of(|(theirs, _)| *theirs)?,
        ours: of(|(_, ours)| *ours)?,
        ratio: of(|(theirs, ours)| ours / theirs)?,
    })
}

/// Two stations that know each other.
struct Link {
    server: AnyDevice,
    client: AnyDevice,
    size: usize,
    count: usize,
    cpus: Cpus,
}

impl Link {
    fn open(settings: &Settings<'_>, cpus: Cpus) -> Result<Self> {
        let open = |name: &str| {
            let spec = format!("rdma:{name}");
            AnyDevice::open(&spec.parse()?).with_context(|| spec)
        };
        let (server, client) = (open(settings.server)?, open(settings.client)?);
        let mut link = Self { server, client, size: settings.size, count: settings.count, cpus };
        link.introduce()?;
        Ok(link)
    }

    /// Until frames go to one station and not to the group.
    fn introduce(&mut self) -> Result<()> {
        for _ in 0..10 {
            let Self { server, client, .. } = self;
            greet(server, client)?;
            greet(client, server)?;
        }
        Ok(())
    }

    /// Median of half a round trip, in microseconds.
    fn round_trips(&mut self) -> Result<f64> {
        let Self { server, client, size, count, cpus } = self;
        let question = frame(server.caps().mac, *size);
        let answer = frame(client.caps().mac, *size);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let echo = scope.spawn(|| -> Result<()> {
                stay_on(cpus.device)?;
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..receive(server)? {
                        send(server, &answer)?;
                    }
                }
                Ok(())
            });
            let times = exchange(client, &question, *count, cpus.generator);
            over.store(true, Ordering::Relaxed);
            echo.join().map_err(|_| anyhow!("the echo has panicked"))??;
            let mut times = times?;
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).map(|time| time / 2.0).context("no frame was sent")
        })
    }

    /// MiB/s, until the sender's device is done with all.
    fn bulk(&mut self) -> Result<f64> {
        let Self { server, client, size, count, cpus } = self;
        let message = frame(server.caps().mac, *size);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let sink = scope.spawn(|| -> Result<()> {
                stay_on(cpus.device)?;
                while !over.load(Ordering::Relaxed) {
                    receive(server)?;
                }
                Ok(())
            });
            let time = blast(client, &message, *count, cpus.generator);
            over.store(true, Ordering::Relaxed);
            sink.join().map_err(|_| anyhow!("the sink has panicked"))??;
            Ok((*size * *count) as f64 / f64::from(1 << 20) / time?.as_secs_f64())
        })
    }
}

/// Sends frames one at a time; the time until each was answered, in microseconds.
fn exchange(device: &mut AnyDevice, frame: &[u8], count: usize, cpu: usize) -> Result<Vec<f64>> {
    stay_on(cpu)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Clock::now();
        send(device, frame)?;
        while receive(device)? == 0 {
            if start.elapsed() > PATIENCE {
                bail!("a frame was not answered");
            }
        }
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// Sends frames as fast as they are taken.
fn blast(device: &mut AnyDevice, frame: &[u8], count: usize, cpu: usize) -> Result<Duration> {
    stay_on(cpu)?;
    let start = Clock::now();
    let mut queued = 0;
    while queued < count || device.buffers().tx_busy > 0 {
        let (_, mut tx) = device.split();
        for _ in 0..BURST.min(count - queued) {
            match tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(frame)) {
                Ok(()) => queued += 1,
                Err(SendError::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        tx.flush(Instant::ZERO)?;
        if start.elapsed() > 10 * PATIENCE {
            bail!("the device does not get done");
        }
    }
    Ok(start.elapsed())
}

/// A broadcast, by which the one learns the way to the other.
fn greet(from: &mut AnyDevice, to: &mut AnyDevice) -> Result<()> {
    send(from, &frame(MacAddr::BROADCAST, 60))?;
    if receive_within(to, Duration::from_millis(100))? == 0 {
        bail!("the devices do not hear each other");
    }
    Ok(())
}

fn frame(to: MacAddr, size: usize) -> Vec<u8> {
    let mut frame = [&to.0[..], &[2, 0, 0, 0, 0, 9], &ETHER_TYPE].concat();
    frame.resize(size, 7);
    frame
}

fn send(device: &mut AnyDevice, frame: &[u8]) -> Result<()> {
    let (_, mut tx) = device.split();
    tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(frame))?;
    tx.flush(Instant::ZERO)?;
    Ok(())
}

/// Frames of ours that are there.
fn receive(device: &mut AnyDevice) -> Result<usize> {
    let (mut rx, _) = device.split();
    rx.fill(Instant::ZERO)?;
    let mut frames = 0;
    while let Some(frame) = rx.next() {
        frames += usize::from(frame.bytes.get(12..14) == Some(&ETHER_TYPE));
    }
    rx.release();
    Ok(frames)
}

fn receive_within(device: &mut AnyDevice, time: Duration) -> Result<usize> {
    let start = Clock::now();
    let mut frames = 0;
    while start.elapsed() < time {
        frames += receive(device)?;
    }
    Ok(frames)
}
