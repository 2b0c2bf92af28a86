//! `underpass doctor`

use std::process::ExitCode;

use anyhow::Result;

pub(crate) fn run(_json: bool) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
