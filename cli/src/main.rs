//! The `underpass` command.

#![forbid(unsafe_code)]

mod attach;
mod demo;
mod dig;
mod doctor;
mod echo;
mod fetch;
mod files;
mod host;
mod http_get;
mod http_serve;
mod interrupt;
mod interval;
mod nc;
mod ping;
mod rules;
mod server;
#[cfg(feature = "xdp")]
mod xdp;

use std::future::Future;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

/// A TCP/IP stack that goes under the kernel: sockets over any packet device.
#[derive(Debug, Parser)]
#[command(name = "underpass", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Tell more on standard error; twice: tell everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Print results as JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show which packet devices work on this machine, and what is missing for the others
    Doctor,
    /// Serve a directory over HTTP
    HttpServe(http_serve::Args),
    /// Fetch a file over HTTP
    HttpGet(http_get::Args),
    /// Send back whatever is received
    Echo(echo::Args),
    /// Send ICMP echo requests
    Ping(ping::Args),
    /// Look up a name
    Dig(dig::Args),
    /// Connect standard input and output to a connection, as netcat
    Nc(nc::Args),
    /// Steer, filter and count the frames of an interface that has a stack on it (xdp: devices)
    #[cfg(feature = "xdp")]
    Xdp(xdp::Args),
    /// Prove that it works here: transfers and round trips against the kernel's own TCP, in private
    /// network namespaces
    Demo,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log(cli.verbose);
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Doctor => doctor::run(cli.json),
        Command::HttpServe(args) => block_on(http_serve::run(args, cli.json)),
        Command::HttpGet(args) => block_on(http_get::run(args, cli.json)),
        Command::Echo(args) => block_on(echo::run(args, cli.json)),
        Command::Ping(args) => block_on(ping::run(args, cli.json)),
        Command::Dig(args) => block_on(dig::run(args, cli.json)),
        Command::Nc(args) => block_on(nc::run(args)),
        #[cfg(feature = "xdp")]
        Command::Xdp(args) => block_on(xdp::run(args, cli.json)),
        // Before any thread: a user namespace has to be entered first.
        Command::Demo => demo::run(cli.json),
    }
}

/// Runs a command on this thread; the stack has one of its own.
fn block_on(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(command);
    // Not waiting for reads of files that nobody wants any more.
    runtime.shutdown_background();
    result
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

/// Prints help as it is, and an error in the arguments on one line.
fn usage(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(
        error.kind(),
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        error.exit();
    }
    let text = error.render().to_string();
    let cause = text.split("\n\nUsage:").next().unwrap_or(&text);
    let cause = cause.split("\n\nFor more").next().unwrap_or(cause);
    eprintln!("{} (see --help)", one_line(cause));
    ExitCode::from(2)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every `$ underpass …` and `$ cargo run --release -- …` of the README is accepted as it is
    /// printed, a `sudo` in front left out.
    #[test]
    fn commands_of_the_readme_parse() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let mut seen = 0;
        for line in readme.lines().filter_map(|line| line.strip_prefix("$ ")) {
            let words = shlex::split(line).unwrap_or_else(|| panic!("README.md: {line}"));
            let Some(arguments) = arguments(&words) else {
                continue;
            };
            if let Err(error) = Cli::try_parse_from(arguments) {
                assert!(!error.use_stderr(), "README.md: {line}: {error}");
            }
            seen += 1;
        }
        assert!(seen > 0, "README.md shows no command");
    }

    /// The words from the program's name to a pipe, redirection or `&`, if the line runs it.
    fn arguments(words: &[String]) -> Option<Vec<String>> {
        let end = words
            .iter()
            .position(|w| w.starts_with(['|', '>', '&', '#', ';']) || w == "2>")
            .unwrap_or(words.len());
        let words: Vec<_> = words.get(..end)?.iter().map(String::as_str).collect();
        let words = words.strip_prefix(&["sudo"]).unwrap_or(&words);
        let rest = match words {
            [program, rest @ ..] if program.rsplit('/').next() == Some("underpass") => rest,
            ["cargo", "run", rest @ ..] => {
                let start = rest.iter().position(|w| *w == "--")?;
                // Another package or an example is not this program, nor is one with other features.
                let features = [
                    ("xdp", cfg!(feature = "xdp")),
                    ("dpdk", cfg!(feature = "dpdk")),
                    ("kring", cfg!(feature = "kring")),
                    ("rdma", cfg!(feature = "rdma")),
                ];
                let built = |word: &str| word == "--features" || features.contains(&(word, true));
                let ours = rest
                    .get(..start)?
                    .iter()
                    .all(|word| matches!(*word, "--release" | "--quiet") || built(word));
                rest.get(start + 1..).filter(|_| ours)?
            }
            _ => return None,
        };
        let program = std::iter::once("underpass");
        Some(program.chain(rest.iter().copied()).map(ToOwned::to_owned).collect())
    }
}
