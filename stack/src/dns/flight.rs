//! One question of a kind at a time: whoever asks the same meanwhile gets the same answer. Several at
//! a time would multiply the chances of a forged answer (RFC 5452 §5, the birthday attack).

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use super::message::Question;
use super::resolver::{Resolution, State};
use crate::wake::Waiters;

/// A question that somebody is asking.
#[derive(Debug, Default)]
pub(crate) struct Flight(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// The asker has finished, with or without a result.
    over: bool,
    result: Option<Resolution>,
    waiters: Waiters,
}

/// What to do about a question.
pub(crate) enum Ticket<'a> {
    /// Ask it.
    Ask(Asker<'a>),
    /// Wait for the one who asks it already.
    Wait(Arc<Flight>),
}

/// The right to ask one question; given up when dropped.
pub(crate) struct Asker<'a> {
    state: &'a State,
    question: Question,
    flight: Arc<Flight>,
}

impl Flight {
    /// Waits for the result. `None`: whoever asked has given up.
    pub(crate) async fn result(&self) -> Option<Resolution> {
        poll_fn(|cx| {
            let mut progress = self.lock();
            if progress.over {
                return Poll::Ready(progress.result.clone());
            }
            progress.waiters.add(cx.waker());
            Poll::Pending
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Asker<'a> {
    pub(crate) fn new(state: &'a State, question: Question, flight: Arc<Flight>) -> Self {
        Self { state, question, flight }
    }

    /// Hands the result to all who wait.
    pub(crate) fn finish(self, result: &Resolution) {
        self.flight.lock().result = Some(result.clone());
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        self.state.forget_flight(&self.question);
        let mut wakes = Vec::new();
        let mut progress = self.flight.lock();
        progress.over = true;
        progress.waiters.wake(&mut wakes);
        drop(progress);
        for waker in wakes {
            waker.wake();
        }
    }
}
