//! Developer commands: `cargo xtask --help`.

#![forbid(unsafe_code)]

mod dissector;
mod fuzz;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

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
    /// Everything that is checked before a change is merged: this is what CI runs
    Test(test::Args),
    /// A Lua script that tells Wireshark and tshark about our protocols
    Dissector(dissector::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::setup(),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Test(args) => test::test(&args),
        Command::Dissector(args) => dissector::dissector(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every `$ cargo xtask …` of the README is a command that exists.
    #[test]
    fn commands_of_the_readme_parse() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let commands = readme.lines().filter_map(|line| {
            let (_, command) = line.strip_prefix("$ ")?.split_once("cargo xtask")?;
            Some(command)
        });
        for command in commands {
            let words = shlex::split(command).unwrap();
            if let Err(error) =
                Cli::try_parse_from(["cargo xtask".to_owned()].into_iter().chain(words))
            {
                panic!("README.md: cargo xtask{command}: {error}");
            }
        }
    }
}
