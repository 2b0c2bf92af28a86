//! `underpass ping`, with the output of iputils' ping.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use underpass::{EchoReply, Ping, Stack};

use crate::attach::Attachment;
use crate::host;
use crate::interrupt::interrupted;
use crate::interval::seconds;
use crate::server::stop;

/// How long the last request may wait for its reply.
const PATIENCE: Duration = Duration::from_secs(1);

/// Arguments of `ping`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or address to ping
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    attachment: Attachment,
    /// Stop after this many requests
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Seconds between requests
    #[arg(short, long, default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Bytes of payload
    #[arg(short, long, default_value_t = 56, value_parser = clap::value_parser!(u16).range(..=65_000))]
    size: u16,
}

/// Pings until the count is reached or SIGINT; exit code 1 if nothing was heard.
pub(crate) async fn run(args: &Args, json: bool) -> Result<ExitCode> {
    args.attachment.check_host(&args.host)?;
    let interrupted = interrupted()?;
    let stack = args.attachment.stack()?;
    let result = ping(args, &stack, interrupted, json).await;
    stop(stack).await;
    result
}

async fn ping(
    args: &Args,
    stack: &Stack,
    interrupted: impl Future<Output = ()>,
    json: bool,
) -> Result<ExitCode> {
    let mut interrupted = pin!(interrupted);
    let address = tokio::select! {
        address = host::address(stack, &args.host) => address?,
        () = &mut interrupted => return Ok(ExitCode::from(130)),
    };
    let socket = Ping::new(stack).context("opening an ICMP echo socket")?;
    let mut session = Session::new(args, address, json);
    let result = tokio::select! {
        result = session.run(stack, &socket) => result,
        () = interrupted => Ok(()),
    };
    session.summarize();
    result?;
    Ok(if session.rtts.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The requests of one run, and what became of them.
struct Session<'a> {
    args: &'a Args,
    address: IpAddr,
    json: bool,
    start: Instant,
    sent: u32,
    /// When requests were sent that have no reply yet, by sequence number.
    waiting: HashMap<u16, Instant>,
    rtts: Vec<Duration>,
}

impl<'a> Session<'a> {
    fn new(args: &'a Args, address: IpAddr, json: bool) -> Self {
        let (host, size) = (&args.host, args.size);
        if !json {
            // The size in parentheses is that of the IP packet.
            let headers = if address.is_ipv4() { 28 } else { 48 };
            println!(
                "PING {host} ({address}) {size}({}) bytes of data.",
                u32::from(size) + headers
            );
        }
        Self {
            args,
            address,
            json,
            start: Instant::now(),
            sent: 0,
            waiting: HashMap::new(),
            rtts: Vec::new(),
        }
    }

    async fn run(&mut self, stack: &Stack, socket: &Ping) -> Result<()> {
        self.args.attachment.configured(stack).await?;
        self.start = Instant::now();
        let payload: Vec<u8> = (0..self.args.size).map(|i| i as u8).collect();
        let mut next = Instant::now();
        while self.args.count.is_none_or(|count| self.sent < count) {
            self.sent += 1;
            // Sequence numbers begin with 1 and wrap.
            let seq = self.sent as u16;
            self.waiting.insert(seq, Instant::now());
            if let Err(error) = socket.send(self.address, seq, &payload) {
                eprintln!("ping: sending to {}: {error}", self.args.host);
            }
            next += self.args.interval;
            self.receive_until(socket, next).await?;
        }
        Ok(())
    }

    /// Takes replies until `deadline`; after the last request, until all have come.
    async fn receive_until(&mut self, socket: &Ping, deadline: Instant) -> Result<()> {
        let last = self.args.count == Some(self.sent);
        let deadline = if last { Instant::now() + PATIENCE } else { deadline };
        while !(last && self.waiting.is_empty()) {
            match timeout_at(deadline, socket.recv_async()).await {
                Ok(reply) => self.take(&reply.context("receiving")?),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn take(&mut self, reply: &EchoReply) {
        // Another host's, or a second one.
        if reply.from != self.address {
            return;
        }
        let Some(sent) = self.waiting.remove(&reply.seq) else {
            return;
        };
        let rtt = sent.elapsed();
        self.rtts.push(rtt);
        let bytes = reply.payload.len() + 8;
        let (from, seq, ttl) = (reply.from, reply.seq, reply.hop_limit);
        if self.json {
            let rtt = millis(rtt);
            println!(
                "{}",
                json!({ "from": from, "bytes": bytes, "seq": seq, "ttl": ttl, "rtt_ms": rtt })
            );
        } else {
            let rtt = millis(rtt);
            println!("{bytes} bytes from {from}: icmp_seq={seq} ttl={ttl} time={rtt:.3} ms");
        }
    }

    fn summarize(&self) {
        let (sent, received) = (self.sent, self.rtts.len() as u32);
        let loss = f64::from(sent.saturating_sub(received)) * 100.0 / f64::from(sent.max(1));
        let [min, avg, max, mdev] = self.summary();
        if self.json {
            println!(
                "{}",
                json!({
                    "transmitted": sent, "received": received, "loss_percent": loss,
                    "rtt_min_ms": min, "rtt_avg_ms": avg, "rtt_max_ms": max, "rtt_mdev_ms": mdev,
                })
            );
            return;
        }
        println!("\n--- {} ping statistics ---", self.args.host);
        println!(
            "{sent} packets transmitted, {received} received, {loss:.0}% packet loss, time {}ms",
            self.start.elapsed().as_millis()
        );
        if received > 0 {
            println!("rtt min/avg/max/mdev = {min:.3}/{avg:.3}/{max:.3}/{mdev:.3} ms");
        }
    }

    /// Least, mean and greatest round trip and their deviation, in milliseconds.
    fn summary(&self) -> [f64; 4] {
        let rtts: Vec<f64> = self.rtts.iter().copied().map(millis).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            values.sum::<f64>() / (rtts.len().max(1) as f64)
        };
        let avg = mean(&mut rtts.iter().copied());
        let variance = mean(&mut rtts.iter().map(|r| (r - avg).powi(2)));
        let min = rtts.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let max = rtts.iter().copied().reduce(f64::max).unwrap_or(0.0);
        [min, avg, max, variance.sqrt()]
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
