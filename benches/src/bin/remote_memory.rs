//! How long do a one-sided write and read take? Beside perftest, whose `ib_write_lat` and `ib_read_lat` do
//! the same with nothing between them and the verbs. Both ends are on this machine, each on a CPU of its own.
//! Needs the cargo feature `rdma` and two RDMA devices; in the guest, of Soft-RoCE:
//!
//! ```console
//! $ cargo build --release -p underpass-benches --features rdma --bin remote_memory
//! $ cargo xtask guest run -- bash -euc 'source xtask/src/guest/suite/soft_roce.sh; target/release/remote_memory'
//! ```
//!
//! Writes go to and fro: each end waits for the other's last byte to change; half the time of both is told.

#![forbid(unsafe_code)]

use std::hint;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde::Serialize;
use underpass_benches::cpus::{Cpus, stay_on};
use underpass_benches::perftest::{Settings, one_sided_latency};
use underpass_benches::report::{Spread, print_table};
use underpass_drivers::kernel::EpollTransport;
use underpass_drivers::rdma::{
    Adapter, Buffer, Connection, ConnectionConfig, Finished, Listener, MemoryRegion, Permissions,
    RemoteRegion, connect,
};
use underpass_protocols::transport::{Limits, Transport as _};

const PATIENCE: Duration = Duration::from_secs(60);

/// Latency of one-sided operations
#[derive(Parser)]
struct Options {
    /// The device that answers
    #[arg(long, default_value = "rxe0")]
    server: String,
    /// The device that measures
    #[arg(long, default_value = "rxe1")]
    client: String,
    /// Bytes of an operation
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    bytes: u64,
    /// Operations per measurement
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..))]
    iterations: u64,
    /// Measurements per contender
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What an operation took, in microseconds.
#[derive(Serialize)]
struct Row {
    operation: &'static str,
    ours_p50: Spread,
    ours_p99: Spread,
    perftest_p50: Spread,
    perftest_p99: Spread,
    /// Our medians / perftest's, within each round.
    ratio: Spread,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let cpus = Cpus::choose()?;
    let rig = Rig::new(&options)?;
    let (bytes, iterations) = (options.bytes as usize, options.iterations as usize);
    let mut rows = Vec::new();
    for (operation, program) in [("write", "ib_write_lat"), ("read", "ib_read_lat")] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds {
            eprintln!("round {round}/{}: {operation}", options.rounds);
            let settings = Settings {
                server: &options.server,
                client: &options.client,
                size: bytes,
                count: iterations,
            };
            theirs.push(one_sided_latency(program, &settings, cpus)?);
            ours.push(if operation == "write" {
                rig.writes(bytes, iterations, cpus)?
            } else {
                rig.reads(bytes, iterations, cpus)?
            });
        }
        let spread = |values: Vec<f64>| Spread::of(&values).context("there are rounds");
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours.0 / theirs.0);
        rows.push(Row {
            operation,
            ratio: spread(ratios.collect())?,
            ours_p50: spread(ours.iter().map(|(p50, _)| *p50).collect())?,
            ours_p99: spread(ours.iter().map(|(_, p99)| *p99).collect())?,
            perftest_p50: spread(theirs.iter().map(|(p50, _)| *p50).collect())?,
            perftest_p99: spread(theirs.iter().map(|(_, p99)| *p99).collect())?,
        });
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let times = [row.ours_p50, row.perftest_p50, row.ours_p99, row.perftest_p99];
            let mut cells = vec![row.operation.to_owned()];
            cells.extend(times.map(|time| time.to_string()));
            cells.push(format!("{:.2}", row.ratio));
            cells
        })
        .collect();
    let header = ["", "p50, us", "perftest p50", "p99, us", "perftest p99", "p50 / perftest's"];
    print_table(&header, &cells);
    Ok(())
}

/// Both adapters.
struct Rig {
    near: Adapter,
    far: Adapter,
}

/// One end, which waits for its region to change and writes to the other's.
struct End {
    connection: Connection,
    region: MemoryRegion,
    remote: RemoteRegion,
    /// Not while an operation has it.
    buffer: Option<Buffer>,
}

impl Rig {
    fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            near: Adapter::open(&options.client, 1, None)?,
            far: Adapter::open(&options.server, 1, None)?,
        })
    }

    /// Two ends that know each other's region.
    fn connect(&self, bytes: usize) -> Result<[End; 2]> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut here = EpollTransport::bind(any, Limits::default())?;
        let mut there = EpollTransport::bind(any, Limits::default())?;
        let to = there.local_addr();
        let config = ConnectionConfig { operations: 1, ..ConnectionConfig::default() };
        let len = bytes.next_multiple_of(8);
        let near_region = self.near.region(len, Permissions::READ | Permissions::WRITE)?;
        let far_region = self.far.region(len, Permissions::READ | Permissions::WRITE)?;
        let (near, far) = thread::scope(|scope| {
            let dialling = scope
                .spawn(|| connect(&self.near, &config, &[&near_region], &mut here, to, PATIENCE));
            let mut listener = Listener::new(&self.far, &config, 1, PATIENCE);
            let incoming = listener.accept(&[&far_region], &mut there, PATIENCE);
            let near = dialling.join().ok().context("the dialling thread has panicked")??;
            anyhow::Ok((near, incoming?.context("no connection")?.connection))
        })?;
        let end = |adapter: &Adapter, connection: Connection, region| {
            let remote = *connection.regions().first().context("a region is offered")?;
            let buffer = Some(adapter.buffer(bytes)?);
            anyhow::Ok(End { connection, region, remote, buffer })
        };
        Ok([end(&self.near, near, near_region)?, end(&self.far, far, far_region)?])
    }

    /// Half of a write and the answer to it.
    fn writes(&self, bytes: usize, iterations: usize, cpus: Cpus) -> Result<(f64, f64)> {
        let [mut near, mut far] = self.connect(bytes)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let answering = scope.spawn(|| {
                stay_on(cpus.device)?;
                for number in 1..=iterations {
                    if !far.hears(number as u8, &over)? {
                        break;
                    }
                    far.write(number as u8)?;
                }
                anyhow::Ok(())
            });
            stay_on(cpus.generator)?;
            let mut measure = || {
                let mut times = Vec::with_capacity(iterations);
                for number in 1..=iterations {
                    let start = Clock::now();
                    near.write(number as u8)?;
                    ensure!(near.hears(number as u8, &over)?, "the other end has gone");
                    times.push(start.elapsed() / 2);
                }
                anyhow::Ok(times)
            };
            let times = measure();
            over.store(true, Ordering::Relaxed);
            answering.join().ok().context("the answering thread has panicked")??;
            percentiles(times?)
        })
    }

    fn reads(&self, bytes: usize, iterations: usize, cpus: Cpus) -> Result<(f64, f64)> {
        let [mut near, _far] = self.connect(bytes)?;
        stay_on(cpus.generator)?;
        let mut times = Vec::with_capacity(iterations);
        for _ in 0..iterations {
            let start = Clock::now();
            near.read()?;
            times.push(start.elapsed());
        }
        percentiles(times)
    }
}

impl End {
    /// Writes all of the buffer, which ends with `number`, and spins until it is there.
    fn write(&mut self, number: u8) -> Result<()> {
        let mut buffer = self.buffer.take().context("an operation has failed")?;
        let len = buffer.len();
        buffer[len - 1] = number;
        self.connection.write(buffer, 0..len, &self.remote, 0)?;
        self.finish()
    }

    fn read(&mut self) -> Result<()> {
        let buffer = self.buffer.take().context("an operation has failed")?;
        let len = buffer.len();
        self.connection.read(buffer, 0..len, &self.remote, 0)?;
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        loop {
            match self.connection.poll()? {
                Some(Finished::Transfer { buffer, result, .. }) => {
                    self.buffer = Some(buffer);
                    return Ok(result?);
                }
                Some(Finished::Atomic { .. }) => bail!("an atomic operation that nobody asked for"),
                None => hint::spin_loop(),
            }
        }
    }

    /// Spins until the region ends with `number`. False: it is over.
    fn hears(&self, number: u8, over: &AtomicBool) -> Result<bool> {
        let at = self.buffer.as_ref().context("an operation has failed")?.len() - 1;
        let word = self.region.word(at / 8 * 8)?;
        let start = Clock::now();
        let mut spins = 0u32;
        while word.load(Ordering::Acquire).to_ne_bytes()[at % 8] != number {
            hint::spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1 << 16) {
                ensure!(start.elapsed() < PATIENCE, "the other end is silent");
            }
            if over.load(Ordering::Relaxed) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Median and 99th percentile, in microseconds.
fn percentiles(mut times: Vec<Duration>) -> Result<(f64, f64)> {
    times.sort_unstable();
    let at = |part: usize| {
        let time = times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        time.map(|time| time.as_secs_f64() * 1e6).context("nothing was measured")
    };
    Ok((at(50)?, at(99)?))
}
