use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

use super::Local;

/// What one shard has another one do.
pub(super) type Job = Box<dyn FnOnce(&Local) + Send>;

/// Jobs for one shard from the others.
pub(crate) struct Mailbox {
    jobs: ArrayQueue<Job>,
    /// Nobody works off jobs any more.
    closed: AtomicBool,
    refused: AtomicU64,
}

impl Mailbox {
    /// `capacity` is at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            jobs: ArrayQueue::new(capacity),
            closed: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        }
    }

    /// Adds a job, or gives it back if there is no room. Of a closed mailbox it is dropped.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        let pushed = self.jobs.push(job);
        if pushed.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        // Who closes it sets the flag and then takes what is there: one of the two finds the job.
        if self.closed.load(Ordering::SeqCst) {
            self.drop_jobs();
        }
        pushed
    }

    pub(super) fn pop(&self) -> Option<Job> {
        self.jobs.pop()
    }

    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.drop_jobs();
    }

    /// Jobs that found no room, counted each time they were tried.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn drop_jobs(&self) {
        while self.jobs.pop().is_some() {}
    }
}
