//! The load of a receiver: the kernel sends one frame over and over, on a CPU of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Result, anyhow};
use underpass_drivers::lab::Flood;

use crate::link::{Link, PEER, stay_on};

/// Frames sent first, to see how long a frame takes.
const TRIAL: u32 = 1 << 18;
/// Time from the first frame to the beginning of the measurement.
const WARM_UP: Duration = Duration::from_millis(50);

/// What a receiver did under load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Frames per second that the receiver took.
    pub(crate) taken: f64,
    /// Frames per second that the generator sent meanwhile.
    pub(crate) offered: f64,
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
            link.peer.run(|| {
                stay_on(cpu)?;
                let flood = Flood::new(PEER, frame)?;
                let start = Clock::now();
                flood.send(TRIAL)?;
                let rate = f64::from(TRIAL) / start.elapsed().as_secs_f64();
                // Between two calls there is silence, so one should last for the measurement.
                let count = (rate * (WARM_UP + time).as_secs_f64() * 1.5) as u32;
                let (mut sent, start) = (0.0, Clock::now());
                ready.send(())?;
                while !stop.load(Ordering::Relaxed) {
                    flood.send(count)?;
                    sent += f64::from(count);
                }
                anyhow::Ok(sent / start.elapsed().as_secs_f64())
            })
        });
        let taken = match is_ready.recv() {
            Ok(()) => {
                thread::sleep(WARM_UP);
                measure()
            }
            Err(_) => Err(anyhow!("no load")),
        };
        stop.store(true, Ordering::Relaxed);
        let offered = generator.join().map_err(|_| anyhow!("the generator has panicked"))??;
        Ok(Received { taken: taken?, offered })
    })
}
