use std::future::{Future, poll_fn};
use std::rc::Weak;
use std::task::Poll;

use async_executor::{LocalExecutor, Task};
use futures_channel::oneshot;

use super::mailbox::Job;
use crate::Stack;

/// A shard, for the tasks that run on its thread: they spawn others here, and have other shards do
/// things. Cheap to clone; it does not leave the thread.
#[derive(Clone)]
pub struct Local {
    stack: Stack,
    shard: usize,
    /// Not the executor itself: its tasks hold this, and would keep it for ever.
    executor: Weak<LocalExecutor<'static>>,
}

/// Why another shard has not done what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The stack has fewer shards.
    #[error("there is no shard {0}")]
    NoShard(usize),
    /// It has ended, or was dropped with the task it ran in.
    #[error("the shard has ended")]
    Ended,
}

impl Local {
    pub(super) fn new(stack: Stack, shard: usize, executor: Weak<LocalExecutor<'static>>) -> Self {
        Self { stack, shard, executor }
    }

    /// The stack, as a handle that opens sockets on this shard.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Which shard this is, counted from 0.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// How many shards the stack has.
    pub fn shards(&self) -> usize {
        self.stack.shards()
    }

    /// Runs `future` beside others on this thread. Dropping the [`Task`] ends it;
    /// [`detach`](Task::detach) lets it go on.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        match self.executor.upgrade() {
            Some(executor) => executor.spawn(future),
            // All tasks are being dropped: this one, too.
            None => LocalExecutor::new().spawn(future),
        }
    }

    /// Runs what `make` returns on the thread of `shard`, and awaits its output. While that shard's
    /// mailbox is full ([`Limits::mailbox`](crate::Limits::mailbox)), it tries again each turn.
    ///
    /// On the own shard it runs in place.
    pub async fn submit_to<T, F, M>(&self, shard: usize, make: M) -> Result<T, SubmitError>
    where
        M: FnOnce(Self) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        if shard == self.shard {
            return Ok(make(self.clone()).await);
        }
        if shard >= self.shards() {
            return Err(SubmitError::NoShard(shard));
        }
        let target = self.stack.shard_at(shard);
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |local| {
            let future = make(local.clone());
            // Nobody may be waiting any more.
            local.spawn(async move { drop(reply.send(future.await)) }).detach();
        });
        let mut job = Some(job);
        poll_fn(|cx| {
            job = job.take().and_then(|job| target.mailbox().push(job).err());
            if job.is_none() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        target.ring();
        answer.await.map_err(|_| SubmitError::Ended)
    }
}
