//! A device of ours, polled by a loop without a stack.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, anyhow, ensure};
use underpass::devices::{Device, Instant, RxQueue, TxMeta, TxQueue};
use underpass_benches::cpus::{Cpus, stay_on};
use underpass_drivers::{AnyDevice, Spec};

use crate::generator::{Received, under_load};
use crate::link::Link;

/// Time from the first frame sent to the beginning of the measurement.
const WARM_UP: Duration = Duration::from_millis(100);

/// Receives frames, up to `burst` of them between two returns of their buffers.
pub(crate) fn receive(
    link: &Link,
    spec: &Spec,
    frame: &[u8],
    burst: usize,
    cpus: Cpus,
    time: Duration,
) -> Result<Received> {
    let mut device = open(link, spec)?;
    under_load(link, frame, cpus.generator, time, || {
        let receiver = || {
            stay_on(cpus.device)?;
            let clock = Clock::now();
            let mut count = 0_u64;
            while clock.elapsed() < time {
                let (mut rx, _) = device.split();
                rx.fill(since(clock))?;
                for _ in 0..burst {
                    // Frames of other lengths are the kernel's, such as multicast reports.
                    let Some(received) = rx.next() else { break };
                    count += u64::from(received.bytes.len() == frame.len());
                }
                rx.release();
            }
            anyhow::Ok(count as f64 / clock.elapsed().as_secs_f64())
        };
        thread::scope(|scope| scope.spawn(receiver).join())
            .map_err(|_| anyhow!("the receiver has panicked"))?
    })
}

/// Sends frames, `burst` of them per doorbell. Returns frames per second.
pub(crate) fn transmit(
    link: &Link,
    spec: &Spec,
    frame: &[u8],
    burst: usize,
    cpus: Cpus,
    time: Duration,
) -> Result<f64> {
    let mut device = open(link, spec)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            stay_on(cpus.device)?;
            let clock = Clock::now();
            while !stop.load(Ordering::Relaxed) {
                let (_, mut tx) = device.split();
                for _ in 0..burst.min(tx.room()) {
                    tx.send(frame.len(), TxMeta::default(), |slot| slot.copy_from_slice(frame))?;
                }
                tx.flush(since(clock))?;
            }
            let errors = device.counters().tx_errors;
            ensure!(errors == 0, "{errors} frames could not be sent");
            Ok(())
        });
        thread::sleep(WARM_UP);
        let rate = link.sent_per_second(time);
        stop.store(true, Ordering::Relaxed);
        sender.join().map_err(|_| anyhow!("the sender has panicked"))??;
        rate
    })
}

fn open(link: &Link, spec: &Spec) -> Result<AnyDevice> {
    link.own.run(|| AnyDevice::open(spec)).with_context(|| format!("opening {spec}"))
}

fn since(clock: Clock) -> Instant {
    Instant::from_nanos(clock.elapsed().as_nanos() as u64)
}
