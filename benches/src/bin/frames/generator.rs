//! The load of a receiver: the kernel sends one frame over and over, on a CPU of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Result, anyhow};
use underpass_benches::cpus::stay_on;
use underpass_drivers::lab::Flood;

use crate::link::{Count, Link};

/// Frames sent first, to see how long a frame takes.
const TRIAL: u32 = 1 << 18;
/// Time from the first frame to the beginning of the measurement.
const WARM_UP: Duration = Duration::from_millis(50);

/// What a receiver did under load, in frames per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Frames that the receiver took.
    pub(crate) taken: f64,
    /// Frames that came to its interface meanwhile.
    pub(crate) arrived: f64,
}

/// Calls `measure`, which takes at least `time` and returns what it has received per second, while
/// frames arrive.
pub(crate) fn under_load(
    link: &Link,
    frame: &[u8],
    cpu: usize,
    time: Duration,
    measure: impl FnOnce() -> Result<f64>,
) -> Result<Received> {
    let stop = AtomicBool::new(false);
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let generator = scope.spawn(|| {
            // Dropped when this thread fails: nobody waits for it then.
            let ready = ready;
            let (namespace, interface) = link.generator();
            namespace.run(|| {
                stay_on(cpu)?;
                let flood = Flood::new(interface, frame)?;
                let start = Clock::now();
                flood.send(TRIAL)?;
                let rate = f64::from(TRIAL) / start.elapsed().as_secs_f64();
                // Between two calls there is silence, so one should last for the measurement.
                let count = (rate * (WARM_UP + time).as_secs_f64() * 1.5) as u32;
                ready.send(())?;
                while !stop.load(Ordering::Relaxed) {
                    flood.send(count)?;
                }
                anyhow::Ok(())
            })
        });
        let received = match is_ready.recv() {
            Ok(()) => {
                thread::sleep(WARM_UP);
                link.per_second(Count::Arrived, measure)
            }
            Err(_) => Err(anyhow!("no load")),
        };
        stop.store(true, Ordering::Relaxed);
        generator.join().map_err(|_| anyhow!("the generator has panicked"))??;
        let (taken, arrived) = received?;
        Ok(Received { taken, arrived })
    })
}
