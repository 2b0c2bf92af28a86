//! The thread that owns a shard: turns it, spins a little, sleeps.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_devices::{Device, Instant, Wake};

use crate::core::Core;
use crate::network::MAX_INTERFACES;
use crate::shard::Shard;

/// How long connections that are closing may finish after the stack is dropped.
const LINGER: Duration = Duration::from_secs(1);

/// Turns `shard` until `stop` is set, or its device is gone, which every socket is told.
pub(crate) fn run<D: Device>(mut shard: Shard<D>, stop: &AtomicBool, busy_poll: Duration) {
    if let Err(error) = turn_until(&mut shard, stop, busy_poll) {
        tracing::error!("the stack has stopped: {error}");
        shard.fail(&error);
    }
}

fn turn_until<D: Device>(
    shard: &mut Shard<D>,
    stop: &AtomicBool,
    busy_poll: Duration,
) -> io::Result<()> {
    let clock = Clock::now();
    let now = || Instant::from_nanos(clock.elapsed().as_nanos() as u64);
    let mut next = None;
    let mut last_busy = Instant::ZERO;
    let mut stopping_since = None;
    loop {
        let time = now();
        let arrived = shard.fill(time)? > 0;
        let due = next.is_some_and(|at| at <= time);
        if arrived || due || shard.shared().is_rung() {
            let turn = shard.round(time)?;
            next = turn.next;
            if turn.busy {
                last_busy = time;
                continue;
            }
        }
        if stop.load(Ordering::SeqCst) {
            let Some(since) = stopping_since else {
                shard.shared().with(Core::release);
                stopping_since = Some(time);
                // The messages leave with the next round.
                continue;
            };
            if shard.shared().with(|core| core.is_finished()) || time - since >= LINGER {
                return Ok(());
            }
        }
        if time - last_busy < busy_poll {
            std::hint::spin_loop();
            continue;
        }
        let limit = stopping_since.map(|since| since + LINGER);
        let until = [next, limit].into_iter().flatten().min();
        sleep(shard, until.map(|at| at - now()))?;
    }
}

/// Sleeps until a frame arrives, a socket calls, or `timeout` is over.
pub(crate) fn sleep<D: Device>(shard: &mut Shard<D>, timeout: Option<Duration>) -> io::Result<()> {
    let shared = Arc::clone(shard.shared());
    if shared.fall_asleep() {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().min(i32::MAX as u64) as i64,
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let bell = PollFd::from_borrowed_fd(shared.bell().as_fd(), PollFlags::IN);
        let mut fds = heapless::Vec::<_, { MAX_INTERFACES + 1 }>::from_array([bell]);
        let (mut ready, mut spin) = (false, false);
        for device in shard.devices_mut() {
            match device.wake()? {
                Wake::Ready => ready = true,
                Wake::Spin => spin = true,
                Wake::Fd(fd) => {
                    // The builder has made sure that there is room.
                    let _ = fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN)).is_ok();
                }
            }
        }
        if spin {
            std::thread::yield_now();
        } else if !ready {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    shared.wake_up();
    Ok(())
}
