//! The kernels that a guest can boot.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use super::stock;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// Debian's, of the version whose headers are installed
    Stock,
}

/// A kernel that is ready to boot.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its release, as in `/lib/modules/RELEASE`.
    pub(super) release: String,
    /// What QEMU loads.
    pub(super) image: PathBuf,
    /// The folder that `lib/modules` is in.
    pub(super) modules: PathBuf,
    /// The folder in which modules are built for it.
    pub(super) headers: PathBuf,
    /// What it needs on its command line.
    pub(super) parameters: &'static str,
}

impl Kernel {
    /// Fetches or builds it unless it is in the cache.
    pub(super) fn get(choice: Choice) -> Result<Self> {
        match choice {
            Choice::Stock => stock::get(),
        }
    }
}
