//! How long do a message of 64 bytes and its answer take over one TCP connection, on which device?
//! The other end is the kernel's TCP in a namespace of its own. Every contender runs once per round.
//! Needs root, and `xdp`, `kring` and `dpdk-…` the cargo features of those names.
//!
//! Two kinds of contenders are comparable among themselves only:
//! - *asleep*: whoever waits blocks in a system call, or, for a stack with a thread of its own, after
//!   having polled for a while. Mostly it is the time that the machine takes to wake threads up;
//! - *spinning*: both ends ask again and again, the stack on the application's thread.

#![forbid(unsafe_code)]

use std::hint::spin_loop;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use serde::Serialize;
use underpass::{Stack, TcpStream};
use underpass_benches::kernel;
use underpass_benches::lab::{Lab, Wire, own_net, peer_address};
use underpass_benches::report::{Spread, print_table};
use underpass_benches::turned::Turned;

/// Bytes of a message and of its answer.
const MESSAGE: usize = 64;
/// Exchanges before the first that counts.
const WARM_UP: usize = 1000;

/// Round trip of 64 bytes over TCP.
#[derive(Parser)]
struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measurements per contender.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Devices to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Wire::Tap, Wire::Packet])]
    device: Vec<Wire>,
    /// Microseconds that the stack's thread polls its device before it sleeps; several values are
    /// measured beside each other.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 50])]
    busy_poll: Vec<u64>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One contender.
#[derive(Clone, Copy, Debug)]
enum Contender {
    /// The stack on a thread of its own, which polls this long before it sleeps.
    Thread(Wire, Duration),
    /// The stack on the application's thread.
    Inline(Wire),
    /// The kernel at both ends of a veth pair.
    Kernel { spinning: bool },
}

/// What a contender took, in microseconds.
#[derive(Serialize)]
struct Row {
    contender: String,
    spinning: bool,
    p50: Spread,
    p99: Spread,
    /// Medians of this contender / the kernel's, within each round.
    ratio: Option<Spread>,
}

/// Percentiles of one measurement in microseconds.
#[derive(Clone, Copy, Debug)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let contenders = contenders(&options);
    let mut results: Vec<Vec<Percentiles>> = vec![Vec::new(); contenders.len()];
    for round in 1..=options.rounds {
        for (contender, values) in contenders.iter().zip(&mut results) {
            eprintln!("round {round}/{}: {}", options.rounds, contender.name());
            values.push(contender.measure(Duration::from_secs_f64(options.seconds))?);
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

fn contenders(options: &Options) -> Vec<Contender> {
    let wires = || options.device.iter().copied();
    let mut list = Vec::new();
    for wire in wires() {
        let threads = options.busy_poll.iter().map(|us| Duration::from_micros(*us));
        list.extend(threads.map(|spin| Contender::Thread(wire, spin)));
    }
    list.push(Contender::Kernel { spinning: false });
    list.extend(wires().map(Contender::Inline));
    list.push(Contender::Kernel { spinning: true });
    list
}

impl Contender {
    fn name(self) -> String {
        match self {
            Self::Thread(wire, spin) => {
                format!("stack, {}, busy-poll {} us", wire.name(), spin.as_micros())
            }
            Self::Inline(wire) => format!("stack, {}, inline", wire.name()),
            Self::Kernel { .. } => "kernel, veth".to_owned(),
        }
    }

    fn spinning(self) -> bool {
        match self {
            Self::Thread(..) => false,
            Self::Inline(_) => true,
            Self::Kernel { spinning } => spinning,
        }
    }

    fn measure(self, time: Duration) -> Result<Percentiles> {
        let lab = Lab::new()?;
        let listen = || lab.peer.run(|| kernel::listen(peer_address()));
        match self {
            Self::Thread(wire, spin) => {
                let device = lab.device(wire, wire.has_offloads())?;
                let stack = Stack::builder().address(own_net()?).busy_poll(spin).build(device)?;
                let listener = listen()?;
                exchange(&listener, false, time, || {
                    let patience = Duration::from_secs(5);
                    let stream = TcpStream::connect_timeout(&stack, peer_address(), patience)?;
                    stream.set_nodelay(true);
                    Ok(stream)
                })
            }
            Self::Inline(wire) => {
                let device = lab.device(wire, wire.has_offloads())?;
                let (stack, shard) = Stack::builder().address(own_net()?).build_shard(device)?;
                let listener = listen()?;
                exchange(&listener, true, time, || {
                    let turned = Turned::connect(&stack, shard, peer_address())?;
                    turned.stream().set_nodelay(true);
                    Ok(turned)
                })
            }
            Self::Kernel { spinning } => {
                lab.kernels(true)?;
                let listener = listen()?;
                let connect = || {
                    let stream = lab.own.run(|| kernel::connect(peer_address()))?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                if spinning {
                    exchange(&listener, true, time, || Spinning::new(connect()?))
                } else {
                    exchange(&listener, false, time, connect)
                }
            }
        }
        .with_context(|| self.name())
    }
}

/// Sends messages and waits for the answer of an echo server of the kernel.
fn exchange<S: Read + Write>(
    listener: &TcpListener,
    spinning: bool,
    time: Duration,
    connect: impl FnOnce() -> io::Result<S>,
) -> Result<Percentiles> {
    let mut stream = connect().context("connecting to the kernel")?;
    let (peer, _) = listener.accept()?;
    peer.set_nodelay(true)?;
    let end = peer.try_clone()?;
    thread::scope(|scope| {
        let server =
            scope.spawn(move || if spinning { echo(Spinning::new(peer)?) } else { echo(peer) });
        let times = round_trips(&mut stream, time);
        // Not by the client, for whose goodbye a stack without a thread would have to be turned.
        end.shutdown(Shutdown::Both)?;
        server.join().map_err(|_| anyhow!("the server has panicked"))?.context("answering")?;
        let mut times = times?;
        ensure!(!times.is_empty(), "no answer in time");
        times.sort_unstable();
        let percentile = |hundredths: usize| times[times.len() * hundredths / 100] as f64 / 1e3;
        Ok(Percentiles { p50: percentile(50), p99: percentile(99) })
    })
}

/// Nanoseconds that each message and its answer took.
fn round_trips(stream: &mut (impl Read + Write), time: Duration) -> io::Result<Vec<u64>> {
    let mut buffer = [7; MESSAGE];
    let mut exchange = || {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)
    };
    for _ in 0..WARM_UP {
        exchange()?;
    }
    let mut times = Vec::new();
    let (start, mut sent) = (Clock::now(), Clock::now());
    while sent - start < time {
        exchange()?;
        let received = Clock::now();
        times.push((received - sent).as_nanos() as u64);
        sent = received;
    }
    Ok(times)
}

/// Answers until the connection ends.
fn echo(mut stream: impl Read + Write) -> io::Result<()> {
    let mut buffer = [0; MESSAGE];
    loop {
        match stream.read_exact(&mut buffer) {
            Ok(()) => stream.write_all(&buffer)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A connection of the kernel that asks again and again instead of sleeping.
struct Spinning(std::net::TcpStream);

impl Spinning {
    fn new(stream: std::net::TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream))
    }
}

impl Read for Spinning {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        spin(|| self.0.read(buffer))
    }
}

impl Write for Spinning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        spin(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spin<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => spin_loop(),
            result => return result,
        }
    }
}

fn rows(contenders: &[Contender], results: &[Vec<Percentiles>]) -> Vec<Row> {
    let measured = || contenders.iter().zip(results);
    let row = |(contender, values): (&Contender, &Vec<Percentiles>)| {
        let spinning = contender.spinning();
        let (_, kernel) = measured().find(
            |(peer, _)| matches!(peer, Contender::Kernel { spinning: same } if *same == spinning),
        )?;
        let ratios = values.iter().zip(kernel).map(|(own, kernel)| own.p50 / kernel.p50);
        let of = |value: fn(&Percentiles) -> f64| {
            Spread::of(&values.iter().map(value).collect::<Vec<_>>())
        };
        Some(Row {
            contender: contender.name(),
            spinning,
            p50: of(|values| values.p50)?,
            p99: of(|values| values.p99)?,
            ratio: Spread::of(&ratios.collect::<Vec<_>>())
                .filter(|_| !matches!(contender, Contender::Kernel { .. })),
        })
    };
    measured().filter_map(row).collect()
}

fn print(rows: &[Row]) {
    println!("{MESSAGE} bytes and their echo over TCP, microseconds (min/median/max)\n");
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.contender.clone(),
                if row.spinning { "spinning" } else { "asleep" }.to_owned(),
                row.p50.to_string(),
                row.p99.to_string(),
                row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            ]
        })
        .collect();
    print_table(&["contender", "who waits is", "p50", "p99", "p50 / kernel's"], &cells);
}
