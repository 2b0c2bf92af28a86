//! Remote calls over the courier protocol, on UDP: one end answers every request with its own body, the
//! other one measures how long that takes.
//!
//! ```console
//! # rpc_echo --device packet:eth1 --addr 10.7.0.2/24
//! # rpc_echo --device tap:tap0 --addr 10.7.0.3/24 --to 10.7.0.2
//! # rpc_echo --device memory: --addr 169.254.0.1/16 --to 169.254.0.2
//! ```

#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use underpass::devices::Selector;
use underpass::protocols::Peer;
use underpass::protocols::courier::{Attached, Config, Event};
use underpass::{ProtocolHandle, Stack};
use underpass_examples::Attachment;

/// Asks for an echo, or answers those who do
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Ask this station; otherwise answer
    #[arg(long, value_name = "IP")]
    to: Option<IpAddr>,
    /// UDP port of all stations
    #[arg(long, default_value_t = 7000)]
    port: u16,
    /// Requests, one after the other
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Bytes of each
    #[arg(long, default_value_t = 64)]
    size: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (stack, peer) = args.attachment.stacks()?;
    if let Some(peer) = peer {
        let server = courier(&peer, args.port)?;
        // It ends with the program.
        thread::spawn(move || serve(&server));
    }
    let courier = courier(&stack, args.port)?;
    match args.to {
        Some(ip) => ask(&courier, Peer::Port((ip, args.port).into()), &args),
        None => {
            println!("listening on UDP port {}", args.port);
            Ok(serve(&courier)?)
        }
    }
}

fn courier(stack: &Stack, port: u16) -> Result<ProtocolHandle<Attached>> {
    let courier = Attached::new(Config::default(), rand::random());
    Ok(stack.attach(Selector::udp_port(None, port), courier)?)
}

/// Until the stack stops.
fn serve(courier: &ProtocolHandle<Attached>) -> io::Result<()> {
    loop {
        courier.wait(|courier| {
            let event = courier.poll_event()?;
            if let Event::Request { call, body, .. } = event {
                // A caller that is gone waits for nothing.
                let _ = courier.respond(call, body);
            }
            Some(())
        })?;
    }
}

fn ask(courier: &ProtocolHandle<Attached>, to: Peer, args: &Args) -> Result<()> {
    let body: Vec<u8> = (0..args.size).map(|at| at as u8).collect();
    let mut times = Vec::new();
    for _ in 0..args.count {
        let start = Instant::now();
        courier.with(|courier| courier.send_request(to, body.clone()))?;
        match courier.wait(|courier| courier.poll_event())? {
            Event::Response { body: answer, .. } if answer == body => times.push(start.elapsed()),
            Event::Response { .. } => bail!("{to} has answered something else"),
            Event::Failed { why, .. } => bail!("{to}: {why}"),
            _ => {}
        }
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or_default();
    println!(
        "{} answers of {} bytes: median {:.1?}, 99 % within {:.1?}",
        times.len(),
        args.size,
        at(500),
        at(990)
    );
    Ok(())
}
