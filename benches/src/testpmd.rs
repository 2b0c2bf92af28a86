//! DPDK's packet generator, counter and echo station, `dpdk-testpmd`, on an interface of a namespace.
//!
//! Source: doc.dpdk.org, Testpmd Application User Guide, "AF_XDP Poll Mode Driver" and "AF_PACKET Poll Mode
//! Driver".

use std::env;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, bail};
use underpass_drivers::lab::Namespace;

use crate::cpus::Cpus;

/// Debian's package of the program.
pub const PACKAGE: &str = "dpdk-dev";

const PROGRAM: &str = "dpdk-testpmd";
/// How long starting, answering and leaving may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What testpmd is given to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What it polls.
    pub device: PmdDevice,
    /// Frames per burst.
    pub burst: usize,
}

/// A driver of DPDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pmd {
    /// `net_af_packet`.
    AfPacket,
    /// `net_af_xdp`.
    AfXdp,
}

/// A driver and its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmdDevice {
    /// The driver.
    pub pmd: Pmd,
    /// Frames that the kernel's preferred busy polling handles per call; 0 switches it off, 64 is
    /// the default of `net_af_xdp`.
    busy_budget: Option<u32>,
}

impl Pmd {
    /// With this `busy_budget`, which only `net_af_xdp` has.
    pub fn with(self, busy_budget: Option<u32>) -> PmdDevice {
        PmdDevice { pmd: self, busy_budget }
    }
}

impl fmt::Display for PmdDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.pmd {
            Pmd::AfPacket => "net_af_packet",
            Pmd::AfXdp => "net_af_xdp",
        })?;
        match self.busy_budget {
            Some(frames) => write!(f, ",busy_budget={frames}"),
            None => Ok(()),
        }
    }
}

/// Whether the program is installed.
pub fn is_installed() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file())
}

/// A running testpmd, driven through its command line.
pub struct Testpmd {
    child: Child,
    commands: ChildStdin,
    output: Receiver<String>,
    /// What it has said lately, to explain why it went.
    last: Vec<String>,
}

impl Testpmd {
    /// Starts the program on an interface, gives it the commands, and waits until it forwards.
    pub fn start(
        (namespace, interface): (&Namespace, &str),
        settings: Settings,
        cpus: Cpus,
        commands: &[&str],
    ) -> Result<Self> {
        let (reader, writer) = io::pipe()?;
        // Line by line: it would say nothing before its buffer is full.
        let mut command = Command::new("stdbuf");
        command
            .args(["--output=L", PROGRAM])
            .args(arguments(interface, settings, cpus))
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = namespace.run(|| command.spawn()).context("starting dpdk-testpmd")?;
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
    pub fn received_per_second(&mut self) -> Result<f64> {
        self.say("show port stats 0")?;
        let line = self.wait_for("Rx-pps:")?;
        let number = line.split_whitespace().nth(1).and_then(|number| number.parse().ok());
        number.with_context(|| format!("{PROGRAM} has said: {line}"))
    }

    /// Stops it, so that it takes its XDP program from the interface.
    pub fn leave(mut self) -> Result<()> {
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
fn arguments(interface: &str, settings: Settings, cpus: Cpus) -> Vec<String> {
    let device = format!("{},iface={interface}", settings.device);
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
