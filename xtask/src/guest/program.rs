//! Programs of this workspace, built here to be run in the guest.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::run::{cargo, root};

/// A program of this workspace. It has all features, as where the other tests are built: nothing is
/// built for the guest alone.
pub(super) struct Program {
    /// The variable that names it to a script.
    pub(super) variable: &'static str,
    /// The folder of its package.
    pub(super) folder: &'static str,
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
        cargo.args(["--workspace", "--all-features", "--message-format=json-render-diagnostics"]);
        eprintln!("building {name} of {}", self.folder);
        let output = cargo.stderr(Stdio::inherit()).output().context("cargo")?;
        if !output.status.success() {
            bail!("{name} of {} does not build: {}", self.folder, output.status);
        }
        let folder = root().join(self.folder).canonicalize().context(self.folder)?;
        for message in Message::parse_stream(&*output.stdout) {
            if let Message::CompilerArtifact(artifact) = message?
                && artifact.target.name == name
                && artifact.target.src_path.starts_with(&folder)
                && let Some(executable) = artifact.executable
            {
                return Ok(executable.into());
            }
        }
        bail!("cargo names no program {name} of {}", self.folder)
    }
}
