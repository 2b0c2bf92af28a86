//! Sends back whatever arrives, from a thread per core: each has a queue of the device, a part of the
//! stack, and the tasks of the connections that arrive there. Nothing is handed from thread to thread.
//!
//! ```console
//! # thread_per_core --device tap:tap0,host=10.7.0.1/24 --addr 10.7.0.2/24 --shards 2
//! $ nc 10.7.0.2 7
//! ```

#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::pin;

use anyhow::{Context, Result};
use clap::Parser;
use futures_util::future::{Either, select};
use underpass::{Local, TcpListener, TcpStream, run_per_core};
use underpass_examples::{Attachment, interrupted};

/// Sends back whatever arrives, from a thread per core
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Queues of the device, each with a thread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    shards: u8,
    /// TCP port
    #[arg(long, default_value_t = 7)]
    port: u16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (stack, shards) = args.attachment.shards(usize::from(args.shards))?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port));
    let listener = TcpListener::bind(&stack, address)?;
    let interrupted = interrupted()?;
    println!("listening on port {}", args.port);

    let connections = run_per_core(&stack, shards, |local| async {
        let listener = listener.on_shard(local.shard()).context("a shard without a listener")?;
        serve(local, listener, interrupted.clone()).await
    })?;
    for (shard, connections) in connections.into_iter().enumerate() {
        println!("shard {shard}: {} connections", connections?);
    }
    Ok(())
}

/// Accepts the connections of one shard until it is `interrupted`, and returns their number.
async fn serve(
    local: Local,
    listener: TcpListener,
    mut interrupted: impl Future<Output = ()> + Unpin,
) -> Result<u64> {
    let mut connections = 0;
    loop {
        let accept = pin!(listener.accept_async());
        let Either::Left((accepted, _)) = select(accept, &mut interrupted).await else {
            return Ok(connections);
        };
        let (stream, peer) = accepted?;
        connections += 1;
        let echo = async move {
            if let Err(error) = echo(stream).await {
                eprintln!("{peer}: {error}");
            }
        };
        local.spawn(echo).detach();
    }
}

async fn echo(stream: TcpStream) -> io::Result<u64> {
    futures_util::io::copy(stream.clone(), &mut stream.clone()).await
}
