//! Do two shards do twice the work of one? Connections between two stacks on a link in memory, with
//! one queue and one thread, and with two of each.
//!
//! Thread *i* turns shard *i* of the client and of the server and is the application on both, so
//! nothing but memory is shared; as many connections are on each thread. Every contender runs once
//! per round, and the ratio is taken within the round.

#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use underpass::devices::{Instant, MemoryConfig, MemoryDevice};
use underpass::{Interface, Limits, Shard, Stack, TcpListener, TcpStream};
use underpass_benches::pair::{CLIENT, FIRST_PORT, Flow, SERVER, ready};
use underpass_benches::report::{Spread, print_table};

/// What the ratio of two shards to one should be.
const GOAL: f64 = 1.7;
/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// Bytes written and read at once in bulk.
const CHUNK: usize = 64 * 1024;
/// After this long a connection attempt is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Work of two shards beside that of one.
#[derive(Parser)]
struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measurements per contender.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections on each shard.
    #[arg(long, default_value_t = 32)]
    flows: usize,
    /// The larger number of shards and threads.
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Work {
    /// Requests and answers of 64 bytes; counts answers.
    Echo,
    /// Streams from the client to the server; counts bytes.
    Bulk,
}

#[derive(Serialize)]
struct Row {
    work: Work,
    /// Per second, with one shard and with several.
    one: Spread,
    several: Spread,
    ratio: Spread,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0 && options.shards > 0 && options.flows > 0, "zero of something");
    let mut rows = Vec::new();
    for work in [Work::Echo, Work::Bulk] {
        let (mut one, mut several) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds {
            eprintln!("round {round}/{}: {work:?}", options.rounds);
            one.push(measure(work, 1, &options)?);
            several.push(measure(work, options.shards, &options)?);
        }
        let ratios: Vec<f64> = several.iter().zip(&one).map(|(many, one)| many / one).collect();
        let spread = |values: &[f64]| Spread::of(values).context("no round");
        rows.push(Row {
            work,
            one: spread(&one)?,
            several: spread(&several)?,
            ratio: spread(&ratios)?,
        });
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows, &options);
    }
    Ok(())
}

/// Answers or bytes per second over all shards.
fn measure(work: Work, shards: usize, options: &Options) -> Result<f64> {
    let (left, right) = MemoryDevice::pair_queues(MemoryConfig::default(), shards);
    let station = |address, queues: Vec<MemoryDevice>| {
        let net = IpNet::V4(Ipv4Net::new(address, 24)?);
        let interface = Interface::with_queues(queues).address(net);
        Stack::builder().limits(Limits::default()).build_shards([interface]).context("a stack")
    };
    let (client, client_shards) = station(CLIENT, left)?;
    let (server, server_shards) = station(SERVER, right)?;
    let address = SocketAddr::new(IpAddr::V4(SERVER), FIRST_PORT);
    let listener = TcpListener::bind(&server, address)?;
    listener.set_nonblocking(true);

    let (connected, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let begin = Barrier::new(shards);
    let total = Mutex::new(0.0);
    let clock = Clock::now();
    thread::scope(|scope| {
        let lanes = client_shards.into_iter().zip(server_shards).enumerate();
        let threads: Vec<_> = lanes
            .map(|(shard, (client_shard, server_shard))| {
                let client = client.on_shard(shard).context("no such shard");
                let listener = listener.on_shard(shard).context("no such shard");
                let (connected, failed, begin, total) = (&connected, &failed, &begin, &total);
                scope.spawn(move || {
                    let mut lane = Lane { client_shard, server_shard, clock, flows: Vec::new() };
                    let ready = lane.connect(
                        &client?,
                        &listener?,
                        options.flows,
                        || {
                            connected.load(Ordering::Acquire) == shards * options.flows
                                || failed.load(Ordering::Acquire)
                        },
                        connected,
                    );
                    failed.fetch_or(ready.is_err(), Ordering::AcqRel);
                    begin.wait();
                    ready?;
                    if failed.load(Ordering::Acquire) {
                        return Ok(());
                    }
                    let rate = lane.work(work, Duration::from_secs_f64(options.seconds));
                    // Nobody leaves before all have measured: a link that loses an end fails.
                    begin.wait();
                    let rate = rate?;
                    *total.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += rate;
                    anyhow::Ok(())
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread has panicked"),
            }
        }
        Ok(())
    })?;
    Ok(total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// What one thread does: a shard of each station, and the connections between them.
struct Lane {
    client_shard: Shard<MemoryDevice>,
    server_shard: Shard<MemoryDevice>,
    clock: Clock,
    flows: Vec<Flow>,
}

impl Lane {
    /// Opens `count` connections, and goes on turning until `all_done`, for others may need an
    /// answer that comes to this thread.
    fn connect(
        &mut self,
        client: &Stack,
        listener: &TcpListener,
        count: usize,
        all_done: impl Fn() -> bool,
        connected: &AtomicUsize,
    ) -> Result<()> {
        let mut waiting: Vec<TcpStream> = (0..count)
            .map(|_| TcpStream::start(client, listener.local_addr()))
            .collect::<Result<_, _>>()?;
        let start = Clock::now();
        while !all_done() {
            self.turn_both()?;
            while let Some((server, peer)) = ready(listener.accept())? {
                let at = waiting.iter().position(|client| client.local_addr() == peer);
                let client = waiting.swap_remove(at.context("a connection nobody has opened")?);
                ensure!(client.shard() == server.shard(), "the two ends are on different shards");
                for end in [&client, &server] {
                    end.set_nonblocking(true);
                    end.set_nodelay(true);
                }
                self.flows.push(Flow { client, server });
                connected.fetch_add(1, Ordering::AcqRel);
            }
            ensure!(start.elapsed() < PATIENCE, "{} connections are missing", waiting.len());
        }
        Ok(())
    }

    /// Works for `time`. Returns what was done per second.
    fn work(&mut self, work: Work, time: Duration) -> Result<f64> {
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        let start = Clock::now();
        while start.elapsed() < time {
            done += match work {
                Work::Echo => self.echo(&mut buffer[..MESSAGE])?,
                Work::Bulk => self.bulk(&mut buffer)?,
            };
        }
        Ok(done as f64 / start.elapsed().as_secs_f64())
    }

    /// One request and its answer on every connection.
    fn echo(&mut self, buffer: &mut [u8]) -> Result<usize> {
        for flow in &self.flows {
            (&flow.client).write_all(buffer)?;
        }
        self.turn_both()?;
        let flows = std::mem::take(&mut self.flows);
        for flow in &flows {
            while ready((&flow.server).read_exact(buffer))?.is_none() {
                self.turn_both()?;
            }
            (&flow.server).write_all(buffer)?;
        }
        self.server_shard.turn(self.now())?;
        self.client_shard.turn(self.now())?;
        for flow in &flows {
            while ready((&flow.client).read_exact(buffer))?.is_none() {
                self.turn_both()?;
            }
        }
        self.flows = flows;
        Ok(self.flows.len())
    }

    /// Writes and reads what is possible on every connection.
    fn bulk(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut received = 0;
        for flow in &self.flows {
            ready((&flow.client).write(buffer))?;
        }
        self.turn_both()?;
        for flow in &self.flows {
            received += ready((&flow.server).read(buffer))?.unwrap_or(0);
        }
        Ok(received)
    }

    fn turn_both(&mut self) -> Result<()> {
        self.client_shard.turn(self.now())?;
        self.server_shard.turn(self.now())?;
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.elapsed().as_nanos() as u64)
    }
}

fn print(rows: &[Row], options: &Options) {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (unit, scale) = match row.work {
                Work::Echo => ("thousand answers/s", 1e-3),
                Work::Bulk => ("Gbit/s", 8e-9),
            };
            let scaled = |s: Spread| Spread {
                min: s.min * scale,
                median: s.median * scale,
                max: s.max * scale,
            };
            vec![
                format!("{:?}, {unit}", row.work).to_lowercase(),
                format!("{:.1}", scaled(row.one)),
                format!("{:.1}", scaled(row.several)),
                format!("{:.2}", row.ratio),
            ]
        })
        .collect();
    let several = format!("{} shards", options.shards);
    print_table(&["work", "1 shard", &several, "ratio"], &cells);
    println!("\nGoal: two shards at least {GOAL} times one.");
}
