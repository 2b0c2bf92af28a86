//! The terminal of a shell in the guest.

use std::io::stdin;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Our terminal, which gets its settings back when this is dropped: QEMU changes them, and may be
/// killed.
pub(super) struct Terminal(Termios);

impl Terminal {
    /// # Errors
    /// Standard input is no terminal.
    pub(super) fn new() -> Result<Self> {
        tcgetattr(stdin()).map(Self).context("a shell needs a terminal as standard input")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It fails if the terminal is gone: then there is nothing to give back.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Arguments of stty that make another terminal as large as this one.
pub(super) fn stty() -> Result<String> {
    let size = tcgetwinsize(stdin()).context("the size of the terminal")?;
    Ok(format!("rows {} cols {}", size.ws_row, size.ws_col))
}
