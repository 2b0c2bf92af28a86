//! The kernels that a guest can boot.

use std::path::PathBuf;

use anyhow::Result;

use super::{debug, stock};

/// Which kernel.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Choice {
    /// Boot a kernel with KASAN, lockdep, kmemleak (with --append kmemleak=on) and reference
    /// trackers, built on first use, instead of Debian's
    #[arg(long)]
    pub(super) debug_kernel: bool,
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
    /// Memory that it takes for itself, in MiB, beside what the programs are given.
    pub(super) memory: u32,
}

impl Kernel {
    /// Fetches or builds it unless it is in the cache.
    pub(super) fn get(choice: Choice) -> Result<Self> {
        if choice.debug_kernel { debug::get() } else { stock::get() }
    }
}
