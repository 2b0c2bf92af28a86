//! perftest, the measurements that come with RDMA: `ib_write_lat` and its like, both ends on this machine.
//!
//! Source: github.com/linux-rdma/perftest, README and `src/perftest_resources.c`.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cpus::Cpus;

/// Debian's package of the programs.
pub const PACKAGE: &str = "perftest";

/// How long both ends may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two devices that reach each other.
#[derive(Clone, Copy, Debug)]
pub struct Devices<'a> {
    /// Of the end that measures.
    pub near: &'a str,
    /// Of the other end.
    pub far: &'a str,
    /// Number of the GID on both.
    pub gid_index: u8,
}

/// Median and 99th percentile in microseconds, as one of the `ib_*_lat` programs has measured them.
pub fn latency(
    program: &str,
    devices: Devices<'_>,
    bytes: usize,
    iterations: usize,
    cpus: Cpus,
) -> Result<(f64, f64)> {
    let start = |device: &str, cpu: usize, server: Option<&str>| {
        let mut command = Command::new("taskset");
        command.args(["-c", &cpu.to_string(), program, "-d", device, "-F"]);
        command.args(["-x", &devices.gid_index.to_string(), "-s", &bytes.to_string()]);
        command.args(["-n", &iterations.to_string()]).args(server);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("taskset, which starts {program} ({PACKAGE})"))
    };
    let mut far = Ended(start(devices.far, cpus.device, None)?);
    let begun = Clock::now();
    // The server is not there until it listens, which it does not tell.
    let table = loop {
        thread::sleep(Duration::from_millis(200));
        ensure!(far.0.try_wait()?.is_none(), "{program} as a server: {}", far.words()?);
        let mut near = Ended(start(devices.near, cpus.generator, Some("127.0.0.1"))?);
        while near.0.try_wait()?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "{program} does not end");
            thread::sleep(Duration::from_millis(20));
        }
        let succeeded = near.0.wait()?.success();
        let words = near.words()?;
        if succeeded {
            break words;
        }
        if !words.contains("Couldn't connect") || begun.elapsed() > PATIENCE {
            bail!("{program}: {words}");
        }
    };
    while far.0.try_wait()?.is_none() {
        ensure!(begun.elapsed() < PATIENCE, "{program} as a server does not end");
        thread::sleep(Duration::from_millis(20));
    }
    parse(&table).with_context(|| format!("{program} has said: {table}"))
}

/// The last line of figures: bytes, iterations, minimum, maximum, median, mean, deviation, percentiles.
fn parse(table: &str) -> Option<(f64, f64)> {
    let figures = |line: &str| -> Option<Vec<f64>> {
        line.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    let row = table.lines().filter_map(figures).rfind(|figures| figures.len() == 9)?;
    Some((row[4], row[7]))
}

/// Ends with its owner.
struct Ended(Child);

impl Ended {
    /// What it has said, when it has ended.
    fn words(&mut self) -> Result<String> {
        let mut words = String::new();
        for pipe in [
            self.0.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read>),
            self.0.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read>),
        ] {
            pipe.context("asked once")?.read_to_string(&mut words)?;
        }
        Ok(words)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Nothing to do but to reap it if it has left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_the_last_line() {
        let table = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]\n \
                     64      1000          52.79          2179.74      63.79    \t       72.00 \
                     \t63.56  \t\t266.76  \t\t2179.74\n---\n";
        assert_eq!(parse(table), Some((63.79, 266.76)));
        assert_eq!(parse("64 1000\n"), None);
    }
}
