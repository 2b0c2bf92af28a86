//! Memory that another station reads and writes by RDMA: one-sided operations, arranged over the stack's TCP.
//!
//! ```console
//! # one_sided serve --rdma rxe0 --device packet:eth1 --addr 10.8.0.1/24
//! # one_sided run 10.8.0.1 --rdma rxe1 --device packet:eth2 --addr 10.8.0.2/24
//! ```

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use futures_util::FutureExt;
use underpass::transport::{Limits, StackTransport};
use underpass_drivers::rdma::{
    Adapter, Buffer, Connection, ConnectionConfig, Finished, Listener, OperationId, Permissions,
    connect,
};
use underpass_examples::{Attachment, interrupted};

/// Reads and writes memory of another station by RDMA
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Offers memory, until Ctrl-C
    Serve(Options),
    /// Writes all of the memory, reads it back and counts the visit
    Run {
        /// Address of the stack that serves
        server: IpAddr,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(clap::Args)]
struct Options {
    /// RDMA device, such as rxe0
    #[arg(long, value_name = "NAME")]
    rdma: String,
    #[command(flatten)]
    attachment: Attachment,
    /// TCP port, here and there
    #[arg(long, default_value_t = 7)]
    port: u16,
    /// Memory that is offered
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    mib: usize,
}

const PATIENCE: Duration = Duration::from_secs(30);
/// In front of the bytes: a counter.
const COUNTER: usize = size_of::<u64>();

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Serve(options) => serve(&options),
        Command::Run { server, options } => run(&options, server),
    }
}

fn serve(options: &Options) -> Result<()> {
    let stopped = interrupted()?;
    let adapter = Adapter::open(&options.rdma, 1, None)?;
    let region = adapter.region(COUNTER + (options.mib << 20), Permissions::ALL)?;
    let stack = options.attachment.stack()?;
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port));
    let mut transport = StackTransport::bind(&stack, at, Limits::default())?;
    let mut listener = Listener::new(&adapter, &ConnectionConfig::default(), 8, PATIENCE);
    println!("{} offers {} MiB on port {}", options.rdma, options.mib, options.port);
    // Nobody tells that a visitor has gone: the last few are kept.
    let mut visitors = Vec::new();
    while stopped.clone().now_or_never().is_none() {
        match listener.accept(&[&region], &mut transport, Duration::from_millis(200)) {
            Ok(Some(visitor)) => {
                println!("{} is connected", visitor.peer);
                visitors.truncate(7);
                visitors.insert(0, visitor.connection);
            }
            Ok(None) => {}
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}

fn run(options: &Options, server: IpAddr) -> Result<()> {
    let adapter = Adapter::open(&options.rdma, 1, None)?;
    let stack = options.attachment.stack()?;
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port));
    let mut transport = StackTransport::bind(&stack, at, Limits::default())?;
    let (config, to) = (ConnectionConfig::default(), SocketAddr::new(server, options.port));
    let mut connection = connect(&adapter, &config, &[], &mut transport, to, PATIENCE)?;
    let remote = *connection.regions().first().context("the server offers no memory")?;
    let len = usize::try_from(remote.len())?.saturating_sub(COUNTER).min(options.mib << 20);

    let mut buffer = adapter.buffer(len)?;
    for (number, byte) in buffer.iter_mut().enumerate() {
        *byte = (number ^ (number >> 8) ^ (number >> 16)) as u8;
    }
    let written = buffer.to_vec();
    let start = Instant::now();
    let write = connection.write(buffer, 0..len, &remote, COUNTER as u64)?;
    let mut buffer = transferred(&mut connection, write)?;
    println!("{} MiB written in {:.1?}", len >> 20, start.elapsed());

    buffer.fill(0);
    let start = Instant::now();
    let read = connection.read(buffer, 0..len, &remote, COUNTER as u64)?;
    let buffer = transferred(&mut connection, read)?;
    println!("{} MiB read in {:.1?}", len >> 20, start.elapsed());
    ensure!(buffer[..] == written, "the memory does not hold what was written");

    let visit = connection.fetch_add(&remote, 0, 1)?;
    match connection.wait_for(visit, PATIENCE)? {
        Finished::Atomic { result, .. } => println!("the same; visit {}", result? + 1),
        Finished::Transfer { .. } => bail!("a transfer instead of an addition"),
    }
    Ok(())
}

fn transferred(connection: &mut Connection, operation: OperationId) -> Result<Buffer> {
    match connection.wait_for(operation, PATIENCE)? {
        Finished::Transfer { buffer, result, .. } => Ok(result.map(|()| buffer)?),
        Finished::Atomic { .. } => bail!("an atomic operation instead of a transfer"),
    }
}
