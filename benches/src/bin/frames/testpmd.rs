//! DPDK's packet generator and counter, `dpdk-testpmd`, on an interface of a namespace.
//!
//! Source: doc.dpdk.org, Testpmd Application User Guide and "AF_XDP Poll Mode Driver".

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, bail};

use crate::generator::{Received, under_load};
use crate::link::{Cpus, Link, OWN};

/// Debian's package of the program.
pub(crate) const PACKAGE: &str = "dpdk-dev";

const PROGRAM: &str = "dpdk-testpmd";
/// How long starting, answering and leaving may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time from the first frame sent to the beginning of the measurement.
const WARM_UP: Duration = Duration::from_millis(100);

/// What testpmd is given to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Frames that the kernel's preferred busy polling handles per call; 0 switches it off, 64 is
    /// the driver's default.
    pub(crate) busy_budget: u32,
    /// Frames per burst.
    pub(crate) burst: usize,
}

/// Whether the program is installed.
pub(crate) fn is_installed() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file())
}

/// Receives frames.
pub(crate) fn receive(
    link: &Link,
    settings: Settings,
    frame: &[u8],
    cpus: Cpus,
    time: Duration,
) -> Result<Received> {
    let mut testpmd = Testpmd::start(link, settings, cpus, &["set fwd rxonly", "start"])?;
    let received = under_load(link, frame, cpus.generator, time, || {
        // It divides by its own time between two questions.
        testpmd.received_per_second()?;
        thread::sleep(time);
        testpmd.received_per_second()
    })?;
    testpmd.leave()?;
    Ok(received)
}

/// Sends frames of `len` bytes. Returns frames per second.
pub(crate) fn transmit(
    link: &Link,
    settings: Settings,
    len: usize,
    cpus: Cpus,
    time: Duration,
) -> Result<f64> {
    let length = format!("set txpkts {len}");
    let testpmd = Testpmd::start(link, settings, cpus, &["set fwd txonly", &length, "start"])?;
    thread::sleep(WARM_UP);
    let rate = link.sent_per_second(time);
    testpmd.leave()?;
    rate
}

/// A running testpmd, driven through its command line.
struct Testpmd {
    child: Child,
    commands: ChildStdin,
    output: Receiver<String>,
    /// What it has said lately, to explain why it went.
    last: Vec<String>,
}

impl Testpmd {
    /// Starts the program, gives it the commands, and waits until it forwards.
    fn start(link: &Link, settings: Settings, cpus: Cpus, commands: &[&str]) -> Result<Self> {
        let (reader, writer) = io::pipe()?;
        // Line by line: it would say nothing before its buffer is full.
        let mut command = Command::new("stdbuf");
        command
            .args(["--output=L", PROGRAM])
            .args(arguments(settings, cpus))
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = link.own.run(|| command.spawn()).context("starting dpdk-testpmd")?;
        // With it goes our copy of the pipe's other end: the output ends when the program does.
        drop(command);
        let input = child.stdin.take().context("its input is a pipe")?;
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut testpmd = Self { child, commands: input, output, last: Vec::new() };
        for command in commands {
            testpmd.say(command)?;
        }
        testpmd.wait_for("packet forwarding")?;
        Ok(testpmd)
    }

    /// Frames per second since the last question.
    fn received_per_second(&mut self) -> Result<f64> {
        self.say("show port stats 0")?;
        let line = self.wait_for("Rx-pps:")?;
        let number = line.split_whitespace().nth(1).and_then(|number| number.parse().ok());
        number.with_context(|| format!("{PROGRAM} has said: {line}"))
    }

    /// Stops it, so that it takes its XDP program from the interface.
    fn leave(mut self) -> Result<()> {
        self.say("stop")?;
        self.say("quit")?;
        self.wait_for("Bye")?;
        let start = Clock::now();
        while start.elapsed() < PATIENCE {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("{PROGRAM} does not end")
    }

    fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.commands, "{command}").with_context(|| self.gone())
    }

    /// The next line that contains `text`.
    fn wait_for(&mut self, text: &str) -> Result<String> {
        let start = Clock::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let Ok(line) = self.output.recv_timeout(left) else {
                bail!("{} while waiting for '{text}'", self.gone());
            };
            if line.contains(text) {
                return Ok(line);
            }
            self.last.push(line);
        }
    }

    fn gone(&self) -> String {
        let lines = &self.last[self.last.len().saturating_sub(10)..];
        format!("{PROGRAM} has gone or does not answer:\n{}\n", lines.join("\n"))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Nothing to do but to reap it if it has left. The namespace's end removes what it leaves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without huge pages, PCI devices and files: nothing to prepare, and nothing left behind.
fn arguments(settings: Settings, cpus: Cpus) -> Vec<String> {
    let device = format!("net_af_xdp0,iface={OWN},busy_budget={}", settings.busy_budget);
    let lcores = format!("0@{},1@{}", cpus.generator, cpus.device);
    let burst = format!("--burst={}", settings.burst);
    let environment = ["--no-huge", "-m", "512", "--no-pci", "--no-shconf", "--no-telemetry"];
    let application = ["--", "--interactive", "--nb-cores=1", "--total-num-mbufs=32768"];
    let mut all: Vec<String> = environment.map(String::from).into();
    all.extend(["--lcores".into(), lcores, "--vdev".into(), device]);
    all.extend(application.map(String::from));
    all.push(burst);
    all
}
