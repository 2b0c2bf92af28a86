//! The same with `dpdk-testpmd`.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use underpass_benches::cpus::Cpus;
use underpass_benches::testpmd::{Settings, Testpmd};

use crate::generator::{Received, under_load};
use crate::link::{Link, OWN};

/// Time from the first frame sent to the beginning of the measurement.
const WARM_UP: Duration = Duration::from_millis(100);

/// Receives frames.
pub(crate) fn receive(
    link: &Link,
    settings: Settings,
    frame: &[u8],
    cpus: Cpus,
    time: Duration,
) -> Result<Received> {
    let mut testpmd =
        Testpmd::start((&link.own, OWN), settings, cpus, &["set fwd rxonly", "start"])?;
    let received = under_load(link, frame, cpus.generator, time, || {
        // It divides by its own time between two questions.
        testpmd.received_per_second()?;
        thread::sleep(time);
        testpmd.received_per_second()
    })?;
    testpmd.leave()?;
    Ok(received)
}

/// Sends frames of `len` bytes. Returns frames per second.
pub(crate) fn transmit(
    link: &Link,
    settings: Settings,
    len: usize,
    cpus: Cpus,
    time: Duration,
) -> Result<f64> {
    let length = format!("set txpkts {len}");
    let testpmd =
        Testpmd::start((&link.own, OWN), settings, cpus, &["set fwd txonly", &length, "start"])?;
    thread::sleep(WARM_UP);
    let rate = link.sent_per_second(time);
    testpmd.leave()?;
    rate
}
