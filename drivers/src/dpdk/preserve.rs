//! What a library that believes the process to be its own leaves as it was: the handlers of signals, the
//! calling thread's signal mask, and standard output and error.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::stdio::{dup2_stderr, dup2_stdout};

/// While it lives, what is written to standard output and error is held back, and signals wait that
/// threads made meanwhile are not to get. Everything is put back when it is dropped.
pub(super) struct Preserved {
    mask: libc::sigset_t,
    handlers: Vec<(libc::c_int, libc::sigaction)>,
    held: Option<Held>,
}

impl Preserved {
    pub(super) fn new() -> Self {
        let mut mask = MaybeUninit::uninit();
        // SAFETY: both sets live; sigfillset and pthread_sigmask fill them.
        let mask = unsafe {
            let mut all = MaybeUninit::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), mask.as_mut_ptr());
            mask.assume_init()
        };
        Self { mask, handlers: handlers(), held: Held::new().ok() }
    }

    /// Throws away what was written to standard output and error.
    pub(super) fn discard_output(&mut self) {
        if let Some(held) = &mut self.held {
            held.wanted = false;
        }
    }
}

impl Drop for Preserved {
    fn drop(&mut self) {
        for (signal, handler) in &self.handlers {
            // SAFETY: this is what sigaction has given for this signal.
            unsafe { libc::sigaction(*signal, handler, ptr::null_mut()) };
        }
        self.held = None;
        // SAFETY: the mask is one that pthread_sigmask has given.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, ptr::null_mut()) };
    }
}

/// The handlers of all signals that a program may handle.
fn handlers() -> Vec<(libc::c_int, libc::sigaction)> {
    (1..=libc::SIGRTMAX())
        .filter_map(|signal| {
            let mut handler = MaybeUninit::uninit();
            // SAFETY: it only asks, and fills the value if it succeeds.
            let result = unsafe { libc::sigaction(signal, ptr::null(), handler.as_mut_ptr()) };
            // SAFETY: it has succeeded.
            (result == 0).then(|| (signal, unsafe { handler.assume_init() }))
        })
        .collect()
}

/// Standard output and error, led into files.
struct Held {
    output: Redirected,
    error: Redirected,
    wanted: bool,
}

struct Redirected {
    before: OwnedFd,
    file: File,
}

impl Held {
    fn new() -> io::Result<Self> {
        let output = Redirected::new(io::stdout().as_fd().try_clone_to_owned()?)?;
        let error = Redirected::new(io::stderr().as_fd().try_clone_to_owned()?)?;
        io::stdout().flush()?;
        dup2_stdout(&output.file)?;
        dup2_stderr(&error.file)?;
        Ok(Self { output, error, wanted: true })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: null stands for all streams of C.
        unsafe { libc::fflush(ptr::null_mut()) };
        // Descriptors that were open a moment ago.
        let _ = dup2_stdout(&self.output.before);
        let _ = dup2_stderr(&self.error.before);
        if self.wanted {
            self.output.replay();
            self.error.replay();
        }
    }
}

impl Redirected {
    fn new(before: OwnedFd) -> io::Result<Self> {
        Ok(Self { before, file: memfd_create("dpdk-output", MemfdFlags::CLOEXEC)?.into() })
    }

    /// Other threads may have written.
    fn replay(&mut self) {
        let mut text = Vec::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut text));
        if read.is_ok() && !text.is_empty() {
            // SAFETY: the bytes live; the descriptor is open.
            unsafe { libc::write(self.before.as_raw_fd(), text.as_ptr().cast(), text.len()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_as_it_was() {
        let of_usr2 = || handlers().into_iter().find(|(n, _)| *n == libc::SIGUSR2).unwrap().1;
        let before = of_usr2().sa_sigaction;
        let preserved = Preserved::new();
        // SAFETY: to ignore a signal is no function that could be wrong.
        unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
        drop(preserved);
        assert_eq!(of_usr2().sa_sigaction, before);
    }
}
