//! The nightly toolchain, which some tools need.

use std::process::{Command, Stdio};

use crate::run::root;

/// How to get it.
pub(crate) const INSTALL: &str = "rustup toolchain install nightly";

/// Its cargo, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", "nightly", "cargo"]).current_dir(root());
    // They are those of the toolchain that runs this program.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        rustup.env_remove(variable);
    }
    rustup
}

/// Whether `command` succeeds; what it prints is not shown.
pub(crate) fn works(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
