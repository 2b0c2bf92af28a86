//! The measuring programs of perftest (`ib_send_lat`, `ib_write_lat`, …) between two RDMA devices of this
//! machine. Each polls on a CPU of its own.
//!
//! Source: the manual page ib_send_lat(1) and the tables that the programs print.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, bail};

use crate::cpus::Cpus;

/// Debian's package of the programs.
pub const PACKAGE: &str = "perftest";

/// How long a measurement may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The client tries again until the server listens.
const PAUSE: Duration = Duration::from_millis(100);

/// Datagrams, not a connection.
const DATAGRAMS: [&str; 2] = ["-c", "UD"];

/// The link, and what crosses it.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The device of the server.
    pub server: &'a str,
    /// The device of the client.
    pub client: &'a str,
    /// Bytes of a message.
    pub size: usize,
    /// Messages.
    pub count: usize,
}

/// Median of half a round trip, in microseconds: `t_typical` of `ib_send_lat -c UD`.
pub fn latency(settings: &Settings<'_>, cpus: Cpus) -> Result<f64> {
    // #bytes #iterations t_min t_max t_typical t_avg …
    run("ib_send_lat", &DATAGRAMS, settings, cpus)?
        .get(4)
        .copied()
        .context("ib_send_lat: no t_typical")
}

/// Average bandwidth in MiB/s, as the sender sees it: `BW average` of `ib_send_bw -c UD`.
pub fn bandwidth(settings: &Settings<'_>, cpus: Cpus) -> Result<f64> {
    // #bytes #iterations BW peak, BW average, message rate
    run("ib_send_bw", &DATAGRAMS, settings, cpus)?.get(3).copied().context("ib_send_bw: no average")
}

/// Median and 99th percentile of a one-sided operation, in microseconds: `t_typical` and `99% percentile` of
/// `ib_write_lat`, which tells half of a write and its answer, or `ib_read_lat`.
pub fn one_sided_latency(program: &str, settings: &Settings<'_>, cpus: Cpus) -> Result<(f64, f64)> {
    // #bytes #iterations t_min t_max t_typical t_avg t_stdev 99% 99.9%
    let numbers = run(program, &[], settings, cpus)?;
    let found = numbers.get(4).zip(numbers.get(7)).map(|(p50, p99)| (*p50, *p99));
    found.with_context(|| format!("{program}: no percentiles"))
}

/// The numbers in the one line of the client's table.
fn run(program: &str, options: &[&str], settings: &Settings<'_>, cpus: Cpus) -> Result<Vec<f64>> {
    let command = |device: &str, cpu: usize| {
        let mut command = Command::new("taskset");
        command
            .args(["-c", &cpu.to_string(), program, "-F", "-d", device, "-x", "1"])
            .args(options);
        command.args(["-s", &settings.size.to_string(), "-n", &settings.count.to_string()]);
        command
    };
    let mut server = command(settings.server, cpus.device);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Ended(server.spawn().with_context(|| format!("apt-get install {PACKAGE}"))?);
    let start = Clock::now();
    loop {
        thread::sleep(PAUSE);
        let output = command(settings.client, cpus.generator).arg("127.0.0.1").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            let numbers = text.lines().rev().map(numbers).find(|numbers| numbers.len() >= 5);
            return numbers.with_context(|| format!("{program} prints no table: {text}"));
        }
        if start.elapsed() > PATIENCE {
            bail!("{program}: {}{text}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// The words of a line if all of them are numbers.
fn numbers(line: &str) -> Vec<f64> {
    let words: Option<Vec<f64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
    words.unwrap_or_default()
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_results_is_all_numbers() {
        assert_eq!(numbers(" 64      1000    20.1   99.0   24.60  ").len(), 5);
        assert!(numbers(" #bytes #iterations    t_min[usec]").is_empty());
        assert!(numbers(" local address: LID 0000 QPN 0x0011").is_empty());
    }
}
