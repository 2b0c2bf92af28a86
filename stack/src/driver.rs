//! Turns a shard in real time: works while there is work, spins a little, sleeps.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_devices::{Device, Instant, Wake};

use crate::network::MAX_INTERFACES;
use crate::shard::{Shard, Shared};
use crate::tcp::{SmoltcpEngine, Tcp};

/// How long connections that are closing may finish after the stack is dropped.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Turns `shard` on this thread until `stop` is set, or its device is gone, which every socket is
/// told. `shards` are those of the whole stack: none may leave while another one, to which it hands
/// frames, has connections.
pub(crate) fn run<D: Device>(
    mut shard: Shard<D>,
    mut drive: Drive,
    stop: &AtomicBool,
    shards: &[Arc<Shared>],
) {
    let stopping = || stop.load(Ordering::SeqCst);
    let open = |tcp: &Tcp<_>| !tcp.is_empty();
    if let Err(error) = drive.until_closed(&mut shard, shards, stopping, open) {
        tracing::error!("the stack has stopped: {error}");
        shard.fail(&error);
    }
}

/// What a thread knows of the shard it turns.
pub(crate) struct Drive {
    clock: Clock,
    /// The shard's time when the clock was started.
    start: Instant,
    /// When the shard wants its next turn.
    next: Option<Instant>,
    spin: Spin,
}

impl Drive {
    /// The shard's time goes on from where it is, beginning with `clock`.
    pub(crate) fn new<D: Device>(shard: &Shard<D>, clock: Clock, busy_poll: Duration) -> Self {
        let start = shard.shared().with(|core| core.now);
        Self { clock, start, next: Some(start), spin: Spin::new(busy_poll) }
    }

    fn now(&self) -> Instant {
        self.start + self.clock.elapsed()
    }

    /// Looks at the devices, and turns the shard if there is a reason. True: there was work, so look
    /// again.
    pub(crate) fn turn<D: Device>(&mut self, shard: &mut Shard<D>) -> io::Result<bool> {
        let time = self.now();
        let arrived = shard.fill(time)? > 0;
        let due = self.next.is_some_and(|at| at <= time);
        if !arrived && !due && !shard.shared().bell().is_rung() {
            return Ok(false);
        }
        let turn = shard.round(time)?;
        self.next = turn.next;
        if turn.busy {
            self.spin.since = time;
        }
        Ok(turn.busy)
    }

    /// Spins or sleeps until there may be work, at most until `limit`.
    pub(crate) fn idle<D: Device>(
        &mut self,
        shard: &mut Shard<D>,
        limit: Option<Instant>,
    ) -> io::Result<()> {
        let time = self.now();
        if time - self.spin.since < self.spin.length {
            std::hint::spin_loop();
            return Ok(());
        }
        let until = [self.next, limit].into_iter().flatten().min();
        sleep(shard, until.map(|at| at - time))?;
        self.spin.slept(self.now() - time);
        Ok(())
    }

    /// Turns `shard` until `stopping`, and then until none of `shards` is `waiting` for connections,
    /// or [`LINGER`] is over.
    pub(crate) fn until_closed<D: Device>(
        &mut self,
        shard: &mut Shard<D>,
        shards: &[Arc<Shared>],
        stopping: impl Fn() -> bool,
        waiting: impl Fn(&Tcp<SmoltcpEngine>) -> bool,
    ) -> io::Result<()> {
        let mut limit = None;
        loop {
            if self.turn(shard)? {
                continue;
            }
            if stopping() {
                let limit = *limit.get_or_insert(self.now() + LINGER);
                let waiting = |shard: &Arc<Shared>| shard.with(|core| waiting(&core.tcp));
                if self.now() >= limit || !shards.iter().any(waiting) {
                    for shard in shards {
                        shard.ring();
                    }
                    return Ok(());
                }
            }
            self.idle(shard, limit)?;
        }
    }
}

/// How long to spin after the last work. As long as something comes soon after the thread has gone
/// to sleep, spinning would have caught it, and the time grows up to what it may be; sleeps that last
/// make it shrink.
struct Spin {
    longest: Duration,
    length: Duration,
    /// When there was work last.
    since: Instant,
}

impl Spin {
    fn new(longest: Duration) -> Self {
        Self { longest, length: longest, since: Instant::ZERO }
    }

    fn slept(&mut self, time: Duration) {
        self.length = if time < self.longest {
            (self.length * 2).max(self.longest / 8).min(self.longest)
        } else {
            self.length / 2
        };
    }
}

/// Sleeps until a frame arrives, a socket calls, or `timeout` is over.
///
/// This is `poll` and not epoll: a shard has at most nine descriptors, which change from sleep to
/// sleep.
pub(crate) fn sleep<D: Device>(shard: &mut Shard<D>, timeout: Option<Duration>) -> io::Result<()> {
    let shared = Arc::clone(shard.shared());
    if shared.bell().fall_asleep() {
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
    shared.bell().wake_up();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(80);

    #[test]
    fn spinning_grows_while_work_comes_soon_and_shrinks_while_it_does_not() {
        let mut spin = Spin::new(LONGEST);
        for _ in 0..3 {
            spin.slept(LONGEST * 2);
        }
        assert_eq!(spin.length, LONGEST / 8);
        for _ in 0..40 {
            spin.slept(LONGEST * 1000);
        }
        assert_eq!(spin.length, Duration::ZERO);
        spin.slept(LONGEST / 2);
        assert_eq!(spin.length, LONGEST / 8);
        for _ in 0..5 {
            spin.slept(LONGEST / 2);
        }
        assert_eq!(spin.length, LONGEST);
    }

    #[test]
    fn without_busy_polling_there_is_none() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.slept(Duration::ZERO);
        assert_eq!(spin.length, Duration::ZERO);
    }
}
