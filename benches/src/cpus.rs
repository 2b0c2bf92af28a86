//! Which CPU does what.

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where the two sides run, so that neither takes the other's time.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    /// The device and whoever polls it.
    pub device: usize,
    /// The generator, and the control thread of testpmd.
    pub generator: usize,
}

impl Cpus {
    /// The first two that this process may use.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let (Some(generator), Some(device)) = (cpus.next(), cpus.next()) else {
            bail!("two CPUs are needed: one for the device and one for the generator");
        };
        Ok(Self { device, generator })
    }
}

/// Keeps the calling thread on one CPU.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).context("choosing a CPU")
}
