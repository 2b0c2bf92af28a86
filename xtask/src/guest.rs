//! A virtual machine with a kernel of Debian's, for what the kernel of this machine may not be able
//! to do: load a module, bind a network card to a userspace driver, survive a bug.
//!
//! QEMU emulates the processor, so that neither `/dev/kvm` nor privilege is needed. The guest sees
//! this machine's files as they are, and keeps what it writes to them in its memory.

mod apt;
mod cache;
mod debug;
mod folder;
mod initramfs;
mod interrupt;
mod kernel;
mod kernel_log;
mod machine;
mod module;
mod program;
mod stock;
mod suite;
mod terminal;
mod vmlinux;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};

use self::kernel::{Choice, Kernel};
use self::machine::{Job, Machine};
use self::suite::Suite;
use crate::run::{cargo, run};
use crate::setup::guest_obstacle;

/// A part of the names of tests that need the guest: they are in modules of this name, and ignored
/// where cargo runs them.
pub(crate) const TESTS: &str = "guest::";

/// Arguments of `cargo xtask guest`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command as root in the guest, in this folder and with this environment: a runner for cargo
    Run {
        #[command(flatten)]
        machine: Machine,
        /// End the guest after so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        timeout: u64,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Run a suite of tests in the guest
    Test {
        suite: Suite,
        #[command(flatten)]
        kernel: Choice,
    },
    /// Build the kernel of --debug-kernel: some ten minutes on two processors
    BuildKernel,
    /// A shell in the guest; Ctrl-A X ends the guest at once
    Shell {
        #[command(flatten)]
        machine: Machine,
    },
}

/// Runs the guest; its command's exit code becomes ours.
pub(crate) fn guest(args: &Args) -> Result<ExitCode> {
    if let Some(obstacle) = guest_obstacle() {
        bail!("the guest needs {obstacle}");
    }
    interrupt::watch()?;
    match &args.command {
        Command::Run { machine, timeout, command } => {
            let job = Job { command, environment: &[], limit: Duration::from_secs(*timeout) };
            let outcome = machine.run(&job)?;
            if let Some(complaint) = outcome.complaint() {
                bail!(complaint);
            }
            Ok(ExitCode::from(outcome.code))
        }
        Command::Test { suite, kernel } => {
            suite.run(*kernel)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::BuildKernel => {
            Kernel::get(Choice { debug_kernel: true })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Shell { machine } => machine.shell().map(ExitCode::from),
    }
}

/// Tests of the guest itself, and all suites; or says why not.
pub(crate) fn test() -> Result<()> {
    if let Some(obstacle) = guest_obstacle() {
        println!("left out: the guest needs {obstacle}");
        return Ok(());
    }
    let itself = ["test", "--package", "xtask", "--test", "guest", "--"];
    run(cargo().args(itself).args(["--ignored", "--test-threads", "1"]))?;
    interrupt::watch()?;
    for suite in Suite::value_variants() {
        suite.run(Choice { debug_kernel: false })?;
    }
    Ok(())
}
