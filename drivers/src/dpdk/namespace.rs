//! The network namespace in which a device was plugged in: some drivers find their interface by its number
//! again when they are closed, in the namespace of the calling thread.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::thread;

use nix::sched::{CloneFlags, setns};

#[derive(Debug)]
pub(super) struct Namespace(File);

impl Namespace {
    /// That of the calling thread.
    pub(super) fn current() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(Self)
    }

    /// Does `work` there: on this thread, if it is there, or else on one that goes there.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if self.is_current().unwrap_or(true) {
            return work();
        }
        let there = || {
            // Without privilege, here is the best place there is.
            let _ = setns(&self.0, CloneFlags::CLONE_NEWNET);
            work()
        };
        thread::scope(|scope| scope.spawn(there).join())
            .unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn is_current(&self) -> io::Result<bool> {
        let (this, current) = (self.0.metadata()?, Self::current()?.0.metadata()?);
        Ok((this.dev(), this.ino()) == (current.dev(), current.ino()))
    }
}
