//! Calls the owner of a shard back from its sleep.

mod calls;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Wake;

use self::calls::Calls;

/// [`Calls`] with a descriptor to sleep on. Every call of a socket writes here, so the bells of two
/// shards must not share a cache line (nor a pair of lines, which some processors fetch together).
#[repr(align(128))]
pub(crate) struct Bell {
    calls: Calls,
    sender: UnixStream,
    receiver: UnixStream,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { calls: Calls::new(), sender, receiver })
    }

    /// Calls the owner. There is no system call while it is awake.
    pub(crate) fn ring(&self) {
        if self.calls.ring() {
            // A full pipe holds a call already.
            let _ = (&self.sender).write(&[1]);
        }
    }

    /// The owner comes to look. It sees whatever was done before the calls it answers.
    pub(crate) fn answer(&self) {
        self.calls.answer();
    }

    /// Announces sleep. False: somebody called meanwhile.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.calls.fall_asleep()
    }

    pub(crate) fn wake_up(&self) {
        self.calls.wake_up();
        let mut bytes = [0; 64];
        while matches!((&self.receiver).read(&mut bytes), Ok(n) if n > 0) {}
    }

    pub(crate) fn is_rung(&self) -> bool {
        self.calls.is_rung()
    }
}

/// Readable when somebody has called during sleep.
impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// A task of the shard's thread is ready.
impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
