//! Timers for tasks, on the clock that the stack is turned with.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use underpass_devices::Instant;

use crate::Stack;
use crate::timer::TimerWheel;

/// A future that is ready some time after it was made. Dropping it costs nothing later.
///
/// # Errors
/// `OutOfMemory`: [`Limits::sleeps`](crate::Limits::sleeps) is reached. `NetworkDown`: the stack has
/// stopped.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    stack: Stack,
    timer: Result<u32, TooManySleeps>,
}

/// The limit on sleeps.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the limit of {0} sleeps is reached")]
pub(crate) struct TooManySleeps(usize);

impl Stack {
    /// Waits for `duration`, counted from the stack's next turn: now, for one that runs on its own
    /// thread. Never early; late by up to 0.07 ms and what the thread takes to wake. Zero waits for
    /// the next turn.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn example(stack: &underpass::Stack) -> std::io::Result<()> {
    /// stack.sleep(Duration::from_millis(250)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let timer = self.shard().with(|core| core.sleeps.start(duration));
        Sleep { stack: self.clone(), timer }
    }

    /// Awaits `future`, for at most `duration` as [`sleep`](Self::sleep) measures it.
    ///
    /// # Errors
    /// `TimedOut`: the time is over; `future` is dropped. Those of [`Sleep`].
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> io::Result<F::Output> {
        let mut sleep = self.sleep(duration);
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            Pin::new(&mut sleep)
                .poll(cx)
                .map(|slept| slept.and(Err(io::ErrorKind::TimedOut.into())))
        })
        .await
    }
}

impl Future for Sleep {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timer = self.timer.map_err(|full| io::Error::new(io::ErrorKind::OutOfMemory, full))?;
        self.stack.shard().with(|core| {
            if core.sleeps.poll(timer, cx.waker()) {
                return Poll::Ready(Ok(()));
            }
            core.check_running()?;
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Ok(timer) = self.timer {
            self.stack.shard().with(|core| core.sleeps.cancel(timer));
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").finish_non_exhaustive()
    }
}

/// The sleeps of a shard.
pub(crate) struct Sleeps {
    states: Slab<State>,
    wheel: TimerWheel,
    /// Started since the last turn. They are armed in the next one: while the shard's thread sleeps,
    /// nobody knows the time.
    starting: Vec<u32>,
    limit: usize,
}

enum State {
    Starting(Duration, Option<Waker>),
    Armed(Option<Waker>),
    Over,
    /// Dropped before it was armed; freed in the next turn.
    Dropped,
}

impl Sleeps {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            states: Slab::new(),
            // As fine as the wheel can: 65.536 µs.
            wheel: TimerWheel::new(Duration::ZERO, Instant::ZERO),
            starting: Vec::new(),
            limit,
        }
    }

    fn start(&mut self, duration: Duration) -> Result<u32, TooManySleeps> {
        if self.states.len() >= self.limit {
            return Err(TooManySleeps(self.limit));
        }
        let timer = self.states.insert(State::Starting(duration, None)) as u32;
        self.starting.push(timer);
        Ok(timer)
    }

    /// True: the time is over. Otherwise `waker` is called then.
    fn poll(&mut self, timer: u32, waker: &Waker) -> bool {
        match &mut self.states[timer as usize] {
            State::Starting(_, slot) | State::Armed(slot) => {
                if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
                    *slot = Some(waker.clone());
                }
                false
            }
            State::Over | State::Dropped => true,
        }
    }

    fn cancel(&mut self, timer: u32) {
        let state = &mut self.states[timer as usize];
        if matches!(state, State::Starting(..)) {
            *state = State::Dropped;
            return;
        }
        self.states.remove(timer as usize);
        self.wheel.cancel(timer);
    }

    /// Arms what has been started and ends what is due at `now`. True: something has ended.
    pub(crate) fn turn(&mut self, now: Instant, wakes: &mut Vec<Waker>) -> bool {
        let Self { states, wheel, starting, .. } = self;
        let mut ended = false;
        for timer in starting.drain(..) {
            let state = &mut states[timer as usize];
            match state {
                State::Starting(Duration::ZERO, waker) => {
                    wakes.extend(waker.take());
                    *state = State::Over;
                    ended = true;
                }
                State::Starting(duration, waker) => {
                    wheel.schedule(timer, now + *duration);
                    *state = State::Armed(waker.take());
                }
                State::Armed(_) | State::Over | State::Dropped => {
                    states.remove(timer as usize);
                }
            }
        }
        wheel.advance(now, |timer| {
            let state = &mut states[timer as usize];
            if let State::Armed(waker) = state {
                wakes.extend(waker.take());
            }
            *state = State::Over;
            ended = true;
        });
        ended
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// Something has been started and is to be armed.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.starting.is_empty()
    }

    /// Wakes everybody, because the device is gone.
    pub(crate) fn stop(&mut self, wakes: &mut Vec<Waker>) {
        for (_, state) in &mut self.states {
            if let State::Starting(_, waker) | State::Armed(waker) = state {
                wakes.extend(waker.take());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(sleeps: &mut Sleeps, timer: u32) -> bool {
        sleeps.poll(timer, Waker::noop())
    }

    #[test]
    fn time_counts_from_the_turn_after_the_start() {
        let mut sleeps = Sleeps::new(10);
        let mut wakes = Vec::new();
        let timer = sleeps.start(Duration::from_millis(10)).unwrap();
        assert!(sleeps.is_dirty() && !over(&mut sleeps, timer));
        sleeps.turn(Instant::from_millis(5000), &mut wakes);
        assert!(!sleeps.is_dirty());
        sleeps.turn(Instant::from_micros(5_009_999), &mut wakes);
        assert!(wakes.is_empty() && !over(&mut sleeps, timer));
        assert!(sleeps.next_timer().unwrap() <= Instant::from_micros(5_010_066));
        sleeps.turn(Instant::from_micros(5_010_066), &mut wakes);
        assert!(wakes.len() == 1 && over(&mut sleeps, timer));
        assert_eq!(sleeps.next_timer(), None);
    }

    #[test]
    fn zero_is_over_in_the_next_turn() {
        let mut sleeps = Sleeps::new(10);
        let timer = sleeps.start(Duration::ZERO).unwrap();
        assert!(!over(&mut sleeps, timer));
        sleeps.turn(Instant::from_micros(3), &mut Vec::new());
        assert!(over(&mut sleeps, timer));
    }

    #[test]
    fn dropped_ones_make_room_and_wake_nobody() {
        let mut sleeps = Sleeps::new(2);
        let mut wakes = Vec::new();
        let [early, late] = [0, 1].map(|_| sleeps.start(Duration::from_secs(1)).unwrap());
        assert!(sleeps.start(Duration::ZERO).is_err());
        let _ = (over(&mut sleeps, early), over(&mut sleeps, late));
        sleeps.cancel(early);
        sleeps.turn(Instant::ZERO, &mut wakes);
        sleeps.cancel(late);
        let again = sleeps.start(Duration::from_secs(2)).unwrap();
        sleeps.turn(Instant::from_millis(10), &mut wakes);
        sleeps.turn(Instant::from_millis(1500), &mut wakes);
        assert!(wakes.is_empty() && !over(&mut sleeps, again));
        sleeps.turn(Instant::from_millis(2011), &mut wakes);
        assert!(over(&mut sleeps, again));
    }
}
