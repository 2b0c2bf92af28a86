//! Developer commands: `cargo xtask --help`.

#![forbid(unsafe_code)]

mod dissector;
mod fuzz;
mod guest;
mod nightly;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer commands of Underpass.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the programs the tests use (Debian and Ubuntu)
    Setup,
    /// Run the fuzz targets: needs a nightly toolchain
    Fuzz(fuzz::Args),
    /// A virtual machine with Debian's kernel, to try modules and drivers in
    Guest(guest::Args),
    /// Everything that is checked before a change is merged: this is what CI runs
    Test(test::Args),
    /// A Lua script that tells Wireshark and tshark about our protocols
    Dissector(dissector::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Guest(args) => guest::guest(&args),
        Command::Setup => succeed(setup::setup()),
        Command::Fuzz(args) => succeed(fuzz::fuzz(&args)),
        Command::Test(args) => succeed(test::test(&args)),
        Command::Dissector(args) => succeed(dissector::dissector(&args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn succeed(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every `$ cargo xtask …` of the documentation is a command that exists.
    #[test]
    fn documented_commands_parse() {
        for name in ["README.md", "CONTRIBUTING.md"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
            parse_commands(name, &std::fs::read_to_string(path).unwrap());
        }
    }

    fn parse_commands(name: &str, text: &str) {
        let commands = text.lines().filter_map(|line| {
            let (_, command) = line.strip_prefix("$ ")?.split_once("cargo xtask")?;
            Some(command)
        });
        for command in commands {
            let words = shlex::split(command).unwrap();
            if let Err(error) =
                Cli::try_parse_from(["cargo xtask".to_owned()].into_iter().chain(words))
            {
                panic!("{name}: cargo xtask{command}: {error}");
            }
        }
    }
}
