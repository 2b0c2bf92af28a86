//! Programs of this workspace, built here to be run in the guest.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::run::cargo;

/// A program, and what it takes to build it.
pub(super) struct Program {
    /// The variable that names it to a script.
    pub(super) variable: &'static str,
    pub(super) package: &'static str,
    pub(super) features: &'static str,
    pub(super) target: Target,
}

/// The part of a package that it is.
pub(super) enum Target {
    /// `tests/NAME.rs`.
    Test(&'static str),
    Binary(&'static str),
}

impl Program {
    /// Builds it and finds it.
    pub(super) fn build(&self) -> Result<PathBuf> {
        let mut cargo = cargo();
        let name = match self.target {
            Target::Test(name) => {
                cargo.args(["test", "--no-run", "--test", name]);
                name
            }
            Target::Binary(name) => {
                cargo.args(["build", "--bin", name]);
                name
            }
        };
        cargo.args(["--package", self.package, "--features", self.features]);
        cargo.arg("--message-format=json-render-diagnostics");
        eprintln!("building {name} of {} with {}", self.package, self.features);
        let output = cargo.stderr(Stdio::inherit()).output().context("cargo")?;
        if !output.status.success() {
            bail!("{name} of {} does not build: {}", self.package, output.status);
        }
        for message in Message::parse_stream(&*output.stdout) {
            if let Message::CompilerArtifact(artifact) = message?
                && artifact.target.name == name
                && let Some(executable) = artifact.executable
            {
                return Ok(executable.into());
            }
        }
        bail!("cargo names no program {name} of {}", self.package)
    }
}
