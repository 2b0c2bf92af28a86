//! The checks, one step after the other.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use clap::ValueEnum;

use crate::run::{cargo, is_root, root, run};
use crate::setup::setup;
use crate::{fuzz, guest, nightly};

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run these steps only, in their usual order
    #[arg(long, value_delimiter = ',', value_name = "STEP,…")]
    only: Vec<Step>,
}

/// A step, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Install the programs the tests use
    Setup,
    /// Formatting
    Fmt,
    /// Lints, on everything
    Clippy,
    /// Every feature of every crate alone, and none
    Features,
    /// The documentation builds without a warning
    Docs,
    /// Tests that need no privilege
    Units,
    /// Models of concurrent code, run in every order that their threads can take
    Models,
    /// Rings in plain memory, under Miri; left out without a nightly toolchain that has it
    Miri,
    /// Each fuzz target for some seconds; left out without a nightly toolchain
    Fuzz,
    /// Tests on real kernel objects, in network namespaces: needs root
    Namespaces,
    /// Tests in a virtual machine with Debian's kernel; left out elsewhere than on Debian
    Guest,
}

/// Runs the steps and stops at the first that fails.
pub(crate) fn test(args: &Args) -> Result<()> {
    let start = Instant::now();
    let mut times = Vec::new();
    for &step in Step::value_variants() {
        if !args.only.is_empty() && !args.only.contains(&step) {
            continue;
        }
        println!("== {}", name(&step));
        let start = Instant::now();
        run_step(step).with_context(|| format!("step {}", name(&step)))?;
        let time = format!("{} {:.1} s", name(&step), start.elapsed().as_secs_f64());
        println!("== {time}");
        times.push(time);
    }
    println!("== passed in {:.1} s: {}", start.elapsed().as_secs_f64(), times.join(", "));
    Ok(())
}

/// Packages and their tests that are models.
const MODELS: [(&str, &str); 2] = [("underpass", "bell"), ("underpass-drivers", "kring_ring")];

fn run_step(step: Step) -> Result<()> {
    const WORKSPACE: [&str; 2] = ["--workspace", "--all-features"];
    match step {
        Step::Setup => setup(),
        Step::Fmt => {
            run(cargo().args(["fmt", "--all", "--check"]))?;
            run(cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))
        }
        Step::Clippy => run(cargo().arg("clippy").args(WORKSPACE).args([
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])),
        Step::Features => features(),
        Step::Docs => run(cargo()
            .args(["doc", "--no-deps"])
            .args(WORKSPACE)
            .env("RUSTDOCFLAGS", "-D warnings")),
        Step::Units => run(cargo().arg("test").args(WORKSPACE)),
        // Everything is built anew with other types: in a folder of its own.
        Step::Models => MODELS.iter().try_for_each(|(package, test)| {
            run(cargo()
                .args(["test", "--package", package, "--test", test])
                .env("RUSTFLAGS", "--cfg model")
                .env("CARGO_TARGET_DIR", root().join("target/model")))
        }),
        Step::Miri => miri(),
        Step::Fuzz => fuzz::short(),
        Step::Namespaces if !is_root() => bail!(
            "it makes network namespaces and devices, which needs root: \
             sudo --preserve-env=PATH cargo xtask test --only namespaces"
        ),
        // One at a time: some measure, and two cores are all a small machine has.
        Step::Namespaces => run(cargo().arg("test").args(WORKSPACE).args([
            "--",
            "--ignored",
            "--test-threads",
            "1",
            "--skip",
            guest::TESTS,
        ])),
        Step::Guest => guest::test(),
    }
}

/// Interprets the tests of rings that two sides share, which finds what is undefined in them.
fn miri() -> Result<()> {
    if !nightly::works(nightly::cargo().args(["miri", "--version"])) {
        let component = "rustup component add --toolchain nightly miri rust-src";
        println!("left out: it needs Miri ({}; {component})", nightly::INSTALL);
        return Ok(());
    }
    run(nightly::cargo()
        .args(["miri", "test", "--package", "underpass-drivers", "--lib"])
        .args(["--no-default-features", "--features", "kring", "kring::"])
        .env("CARGO_TARGET_DIR", root().join("target/miri")))
}

/// Checks each crate that has features with none and with each one alone.
fn features() -> Result<()> {
    let metadata =
        MetadataCommand::new().current_dir(root()).no_deps().exec().context("cargo metadata")?;
    for package in metadata.workspace_packages() {
        let check = |features: &[&str]| {
            let of = ["clippy", "--quiet", "--package", &package.name, "--no-default-features"];
            run(cargo().args(of).args(features).args(["--", "-D", "warnings"]))
        };
        if package.features.is_empty() {
            continue;
        }
        check(&[])?;
        for feature in package.features.keys().filter(|f| *f != "default") {
            check(&["--features", feature])?;
        }
    }
    Ok(())
}

/// What a value is called on the command line.
pub(crate) fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |v| v.get_name().to_owned())
}
