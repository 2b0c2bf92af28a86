//! Dissectors for Wireshark.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use underpass_protocols::dissector::{lua, shipped};

/// Arguments of `cargo xtask dissector`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write it to this file instead of the terminal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes the script.
pub(crate) fn dissector(args: &Args) -> Result<()> {
    let script = lua(&shipped());
    match &args.out {
        Some(path) => fs::write(path, script).with_context(|| path.display().to_string()),
        None => {
            print!("{script}");
            Ok(())
        }
    }
}
