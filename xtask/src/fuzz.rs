//! The fuzz targets: built once, run one after the other.

mod report;

use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, anyhow, bail};

use self::report::{Outcome, table};
use crate::nightly;
use crate::run::{root, run};

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Run this target only; may be repeated
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Processes per target
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: u32,
    /// Targets that run at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    at_once: usize,
    /// What watches memory: `address` is slower, and for targets with unsafe code in reach
    #[arg(long, value_name = "NAME", default_value = "none")]
    sanitizer: String,
    /// Keep what is found here, and begin with it
    #[arg(long, value_name = "FOLDER")]
    corpus: Option<PathBuf>,
}

/// Seconds for each target in continuous integration, and how many run at a time there.
const SHORT: u32 = 10;
const SHORT_AT_ONCE: usize = 2;
/// Longest input, and the longest time for one: some targets hold a shard for virtual minutes.
const MAX_LEN: u32 = 4096;
const TIMEOUT: u32 = 20;
/// How reluctantly inputs grow: long sequences of calls are wanted soon.
const LEN_CONTROL: u32 = 20;

/// What it takes to fuzz, and whether it is there.
enum Tools {
    Ready,
    NoNightly,
    NoCargoFuzz,
}

/// Builds and runs the targets.
pub(crate) fn fuzz(args: &Args) -> Result<()> {
    match Tools::find() {
        Tools::Ready => {}
        Tools::NoNightly => {
            bail!("fuzzing needs a nightly toolchain: {}", nightly::INSTALL)
        }
        Tools::NoCargoFuzz => {
            run(Command::new("cargo").args(["install", "cargo-fuzz", "--locked"]))?;
        }
    }
    let all = targets()?;
    if let Some(unknown) = args.target.iter().find(|target| !all.contains(target)) {
        bail!("no target {unknown:?}; there are {}", all.join(", "));
    }
    let chosen = if args.target.is_empty() { &all } else { &args.target };
    build(args, chosen)?;
    let mut outcomes = Vec::new();
    for some in chosen.chunks(args.at_once.max(1)) {
        let results: Vec<_> = thread::scope(|scope| {
            let runs: Vec<_> =
                some.iter().map(|target| scope.spawn(|| run_target(args, target))).collect();
            runs.into_iter().map(ScopedJoinHandle::join).collect()
        });
        for result in results {
            outcomes.push(result.map_err(|_| anyhow!("a thread has panicked"))??);
        }
    }
    print!("{}", table(&outcomes));
    let crashes: Vec<String> = outcomes.iter().filter_map(Outcome::crash).collect();
    if !crashes.is_empty() {
        bail!("{}", crashes.join("\n"));
    }
    Ok(())
}

/// Runs every target for a short time, or says why not.
pub(crate) fn short() -> Result<()> {
    let missing = match Tools::find() {
        Tools::Ready => {
            return fuzz(&Args {
                seconds: SHORT,
                target: Vec::new(),
                jobs: 1,
                at_once: SHORT_AT_ONCE,
                sanitizer: "none".to_owned(),
                corpus: None,
            });
        }
        Tools::NoNightly => format!("a nightly toolchain ({})", nightly::INSTALL),
        Tools::NoCargoFuzz => "cargo-fuzz (cargo install cargo-fuzz --locked)".to_owned(),
    };
    println!("left out: fuzzing needs {missing}");
    Ok(())
}

impl Tools {
    fn find() -> Self {
        if !nightly::works(nightly::cargo().arg("--version")) {
            Self::NoNightly
        } else if nightly::works(Command::new("cargo-fuzz").arg("--version")) {
            Self::Ready
        } else {
            Self::NoCargoFuzz
        }
    }
}

/// The names of the targets, which are those of their files.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// cargo-fuzz in the package of the targets. Without `--cfg fuzzing`: under it smoltcp leaves out
/// checksums, and what is tested is to be what is used.
fn cargo_fuzz(args: &Args, command: &str) -> Command {
    let mut cargo = nightly::cargo();
    cargo.args(["fuzz", command, "--no-cfg-fuzzing", "--sanitizer", &args.sanitizer]);
    cargo.current_dir(root().join("fuzz"));
    cargo
}

fn build(args: &Args, chosen: &[String]) -> Result<()> {
    let mut command = cargo_fuzz(args, "build");
    // One name or none: then it is all of them.
    if let [target] = chosen {
        command.arg(target);
    }
    run(&mut command)
}

fn run_target(args: &Args, target: &str) -> Result<Outcome> {
    let folder = root().join("fuzz");
    let corpora = args.corpus.as_ref().map_or_else(|| Ok(folder.join("corpus")), absolute)?;
    let corpus = corpora.join(target);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let mut command = cargo_fuzz(args, "run");
    if args.jobs > 1 {
        command.args(["--jobs", &args.jobs.to_string()]);
    }
    // The first folder takes what is found.
    command.arg(target).arg(&corpus);
    let seeds = folder.join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg("--").args([
        format!("-max_total_time={}", args.seconds),
        format!("-max_len={MAX_LEN}"),
        format!("-timeout={TIMEOUT}"),
        format!("-len_control={LEN_CONTROL}"),
        "-print_final_stats=1".to_owned(),
    ]);
    let dictionary = folder.join("dictionaries").join(target).with_extension("dict");
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    println!("{target}: {} s", args.seconds);
    let output = command.output().context("cargo fuzz run")?;
    let log = String::from_utf8_lossy(&output.stderr);
    let outcome = Outcome::read(target, &log, output.status.success(), files_in(&corpus));
    if let Some(crash) = outcome.crash() {
        // What the target itself says is far above the end.
        println!("{log}\n{crash}");
    }
    Ok(outcome)
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}
