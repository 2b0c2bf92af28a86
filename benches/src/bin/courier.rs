//! How many calls of 64 bytes per second does one core carry, both ends on one thread?
//!
//! - `courier` in raw Ethernet frames over a link in memory;
//! - TCP of the stack over a link in memory;
//! - UDP of the kernel on the loopback interface, which does not retransmit, suppress duplicates or
//!   control congestion.
//!
//! With one call at a time, and with several under way (`--outstanding`); a kernel socket takes and
//! gives one datagram per system call in both cases. Every contender runs once per round.

#![forbid(unsafe_code)]

use std::net::UdpSocket;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use underpass::Limits;
use underpass::devices::{
    Device, Instant, MacAddr, MemoryConfig, MemoryDevice, RxQueue, TxMeta, TxQueue,
};
use underpass_benches::pair::{Flow, Pair};
use underpass_benches::report::{Spread, print_table};
use underpass_protocols::courier::{Config, Courier, Event};

/// Bytes of a request and of its response.
const MESSAGE: usize = 64;
/// Of local experiments (IEEE Std 802, section 9.2.4).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const ETHERNET_HEADER: usize = 14;
/// Calls between two looks at the clock.
const BATCH: usize = 256;

/// Small calls per second and core.
#[derive(Parser)]
struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measurements per contender.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Calls under way at once, where there are several.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=128))]
    outstanding: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What a contender did.
#[derive(Serialize)]
struct Row {
    contender: String,
    outstanding: u16,
    /// Calls per second, in thousands.
    calls: Spread,
    /// Calls / those of the kernel with as many under way, within each round.
    ratio: Spread,
}

/// Carries so many calls, with so many under way at once.
type Carry = Box<dyn FnMut(usize) -> Result<()>>;

fn main() -> Result<()> {
    let options = Options::parse();
    let many = options.outstanding;
    // The kernel comes first: the others are compared with it.
    let mut contenders: Vec<(&str, u16, Carry)> = vec![
        ("kernel UDP, loopback", 1, kernel(1)?),
        ("courier, memory", 1, courier(1)),
        ("TCP of the stack, memory", 1, tcp()?),
        ("kernel UDP, loopback", many, kernel(many)?),
        ("courier, memory", many, courier(many)),
    ];
    let mut results = vec![Vec::new(); contenders.len()];
    for round in 1..=options.rounds {
        for ((name, outstanding, carry), values) in contenders.iter_mut().zip(&mut results) {
            eprintln!("round {round}/{}: {name}, {outstanding} under way", options.rounds);
            let time = Duration::from_secs_f64(options.seconds);
            values.push(measure(carry, time).with_context(|| (*name).to_owned())?);
        }
    }
    let rows: Vec<Row> = contenders
        .iter()
        .zip(&results)
        .filter_map(|((name, outstanding, _), values)| {
            let kernel = contenders.iter().position(|(_, other, _)| other == outstanding)?;
            let ratios: Vec<f64> =
                values.iter().zip(&results[kernel]).map(|(own, kernel)| own / kernel).collect();
            Some(Row {
                contender: (*name).to_owned(),
                outstanding: *outstanding,
                calls: Spread::of(values)?,
                ratio: Spread::of(&ratios)?,
            })
        })
        .collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let calls = format!("{:.0}", row.calls);
                vec![
                    row.contender.clone(),
                    row.outstanding.to_string(),
                    calls,
                    row.ratio.to_string(),
                ]
            })
            .collect();
        print_table(&["contender", "under way", "1000 calls/s", "x kernel"], &cells);
    }
    Ok(())
}

/// Thousands of calls per second.
fn measure(carry: &mut Carry, time: Duration) -> Result<f64> {
    carry(BATCH)?;
    let start = Clock::now();
    let mut calls = 0;
    while start.elapsed() < time {
        carry(BATCH)?;
        calls += BATCH;
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64() / 1000.0)
}

fn kernel(outstanding: u16) -> Result<Carry> {
    let client = UdpSocket::bind("127.0.0.1:0")?;
    let server = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(server.local_addr()?)?;
    server.connect(client.local_addr()?)?;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    let mut buffer = [7; MESSAGE];
    Ok(Box::new(move |calls| {
        let mut left = calls;
        while left > 0 {
            let batch = left.min(usize::from(outstanding));
            for _ in 0..batch {
                client.send(&buffer)?;
            }
            for _ in 0..batch {
                ensure!(server.recv(&mut buffer)? == MESSAGE, "a short request");
                server.send(&buffer)?;
            }
            for _ in 0..batch {
                ensure!(client.recv(&mut buffer)? == MESSAGE, "a short response");
            }
            left -= batch;
        }
        Ok(())
    }))
}

fn tcp() -> Result<Carry> {
    let mut pair = Pair::new(MemoryConfig::default(), &Limits::default())?;
    let flow: Flow = pair.connect(1)?.pop().context("no connection")?;
    let message = [7; MESSAGE];
    let mut buffer = [0; MESSAGE];
    Ok(Box::new(move |calls| {
        for _ in 0..calls {
            pair.echo(&flow, &message, &mut buffer)?;
        }
        Ok(())
    }))
}

/// A station on one end of a link.
struct Station {
    courier: Courier<MacAddr>,
    device: MemoryDevice,
    mac: MacAddr,
}

impl Station {
    fn receive(&mut self, now: Instant) -> Result<()> {
        let (rx, _) = self.device.split();
        rx.fill(now)?;
        while let Some(frame) = rx.next() {
            let Some((ethernet, packet)) = frame.bytes.split_at_checked(ETHERNET_HEADER) else {
                continue;
            };
            if ethernet[12..] != ETHERTYPE {
                continue;
            }
            let Some(from) = ethernet[6..].first_chunk() else { continue };
            self.courier.on_packet(now, MacAddr(*from), packet);
        }
        rx.release();
        Ok(())
    }

    fn transmit(&mut self, now: Instant) -> Result<()> {
        self.courier.on_timer(now);
        let (_, tx) = self.device.split();
        let room = tx.room();
        self.courier.poll_transmit(now, room, |packet| {
            let sent = tx.send(ETHERNET_HEADER + packet.len(), TxMeta::default(), |frame| {
                let (ethernet, rest) = frame.split_at_mut(ETHERNET_HEADER);
                ethernet[..6].copy_from_slice(&packet.to.0);
                ethernet[6..12].copy_from_slice(&self.mac.0);
                ethernet[12..].copy_from_slice(&ETHERTYPE);
                packet.write(rest)
            });
            sent == Ok(true)
        });
        tx.flush(now)?;
        Ok(())
    }
}

fn courier(outstanding: u16) -> Carry {
    let link = MemoryConfig::default();
    let (left, right) = MemoryDevice::pair(link);
    let station = |device: MemoryDevice, secret| Station {
        courier: Courier::new(Config::default(), secret),
        mac: device.caps().mac,
        device,
    };
    let (mut client, mut server) = (station(left, [1; 16]), station(right, [2; 16]));
    let clock = Clock::now();
    let time = move || Instant::from_nanos(clock.elapsed().as_nanos() as u64);
    Box::new(move |calls| {
        let (mut begun, mut ended) = (0, 0);
        while ended < calls {
            let now = time();
            while begun < calls && begun - ended < usize::from(outstanding) {
                let mut request = client.courier.buffer(MESSAGE);
                request.resize(MESSAGE, 7);
                match client.courier.send_request(now, server.mac, request) {
                    Ok(_) => begun += 1,
                    Err(refused) => {
                        client.courier.recycle(refused.body);
                        break;
                    }
                }
            }
            client.transmit(now)?;
            server.receive(now)?;
            while let Some(event) = server.courier.poll_event() {
                let Event::Request { call, body, .. } = event else { continue };
                server.courier.respond(now, call, body)?;
            }
            server.transmit(now)?;
            client.receive(time())?;
            while let Some(event) = client.courier.poll_event() {
                let Event::Response { body, .. } = event else {
                    anyhow::bail!("{event:?}");
                };
                ensure!(body.len() == MESSAGE, "a short response");
                client.courier.recycle(body);
                ended += 1;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_carries_calls() {
        let kernels = [kernel(1), kernel(8), tcp()].map(Result::unwrap);
        for mut carry in kernels.into_iter().chain([courier(1), courier(128)]) {
            carry(1000).unwrap();
        }
    }
}
