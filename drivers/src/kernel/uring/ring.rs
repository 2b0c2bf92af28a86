//! The ring, and the memory that the kernel works on.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use slab::Slab;
use socket2::{SockAddr, Socket};
use underpass_protocols::transport::ConnectionId;

/// Submissions that go to the kernel in one call.
const ENTRIES: u32 = 256;

/// Operations of sockets. An operation belongs to the ring from `push` until its completion is
/// handed out, and with it everything that the kernel reads or writes.
pub(super) struct Ring {
    ring: IoUring,
    in_kernel: Slab<Operation>,
    /// Built, and not in the submission queue yet.
    backlog: VecDeque<squeue::Entry>,
}

/// What the kernel is to do.
pub(super) enum Operation {
    Accept { listener: Arc<Socket> },
    Connect { id: ConnectionId, socket: Arc<Socket>, to: Box<SockAddr> },
    Receive { id: ConnectionId, socket: Arc<Socket>, buffer: Vec<u8> },
    Send { id: ConnectionId, socket: Arc<Socket>, buffer: Vec<u8>, sent: usize },
}

/// What it has done.
pub(super) enum Done {
    Accept(io::Result<Socket>),
    Connect { id: ConnectionId, result: io::Result<()> },
    Receive { id: ConnectionId, buffer: Vec<u8>, result: io::Result<usize> },
    Send { id: ConnectionId, buffer: Vec<u8>, sent: usize, result: io::Result<usize> },
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        let parameters = ring.params();
        if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() {
            let reason = "io_uring waits with a timeout since Linux 5.11; this kernel is older";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        Ok(Self { ring, in_kernel: Slab::new(), backlog: VecDeque::new() })
    }

    /// Queues an operation for the next [`submit`](Self::submit).
    pub(super) fn push(&mut self, operation: Operation) {
        let entry = self.in_kernel.vacant_entry();
        let key = entry.key() as u64;
        // What it points to does not move with it: it is on the heap.
        let operation = entry.insert(operation);
        self.backlog.push_back(operation.build().user_data(key));
    }

    /// Hands everything pushed to the kernel, waits up to `timeout` for a completion, and appends
    /// all there are to `done`.
    pub(super) fn submit(&mut self, timeout: Duration, done: &mut Vec<Done>) -> io::Result<()> {
        self.fill();
        while !self.backlog.is_empty() {
            // More than the queue holds.
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if is_busy(&error) => break,
                Err(error) => return Err(error),
            }
            self.fill();
        }
        let waits = !timeout.is_zero() && self.ring.completion().is_empty();
        let submitted = if waits {
            let timeout = types::Timespec::from(timeout.min(Duration::from_hours(1)));
            let arguments = types::SubmitArgs::new().timespec(&timeout);
            self.ring.submitter().submit_with_args(1, &arguments)
        } else {
            self.ring.submit()
        };
        match submitted {
            Ok(_) => {}
            Err(error) if is_busy(&error) => {}
            Err(error) => return Err(error),
        }
        self.reap(done);
        Ok(())
    }

    fn fill(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: `entry` was built by `Operation::build` for an operation that `push` had put
            // into `in_kernel`, under the key that is its user data. Only `reap` takes operations
            // out, once the kernel has completed them; nothing lends their buffers meanwhile, and
            // `drop` leaks those it cannot see complete. So the buffer or address that the entry
            // points to (heap memory, which does not move with its owner) stays allocated and
            // untouched for as long as the kernel may use it, and the descriptor stays open,
            // because the operation holds its socket.
            if unsafe { queue.push(&entry) }.is_err() {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        for completion in self.ring.completion() {
            let key = usize::try_from(completion.user_data()).ok();
            // A completion that belongs to no operation would be the kernel's fault.
            let Some(operation) = key.and_then(|key| self.in_kernel.try_remove(key)) else {
                continue;
            };
            done.push(operation.complete(completion.result()));
        }
    }
}

impl Operation {
    fn build(&mut self) -> squeue::Entry {
        match self {
            Self::Accept { listener } => opcode::Accept::new(
                types::Fd(listener.as_raw_fd()),
                ptr::null_mut(),
                ptr::null_mut(),
            )
            .flags(libc::SOCK_CLOEXEC)
            .build(),
            Self::Connect { socket, to, .. } => {
                opcode::Connect::new(types::Fd(socket.as_raw_fd()), to.as_ptr().cast(), to.len())
                    .build()
            }
            Self::Receive { socket, buffer, .. } => opcode::Recv::new(
                types::Fd(socket.as_raw_fd()),
                buffer.as_mut_ptr(),
                u32::try_from(buffer.len()).unwrap_or(u32::MAX),
            )
            .build(),
            Self::Send { socket, buffer, sent, .. } => {
                let rest = buffer.get(*sent..).unwrap_or(&[]);
                opcode::Send::new(
                    types::Fd(socket.as_raw_fd()),
                    rest.as_ptr(),
                    u32::try_from(rest.len()).unwrap_or(u32::MAX),
                )
                .flags(libc::MSG_NOSIGNAL)
                .build()
            }
        }
    }

    fn complete(self, result: i32) -> Done {
        let length = usize::try_from(result)
            .map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()));
        match self {
            Self::Accept { .. } => Done::Accept(length.map(|_| {
                // SAFETY: a successful accept makes a new descriptor, and this is the only place
                // that learns of it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(result) };
                Socket::from(descriptor)
            })),
            Self::Connect { id, .. } => Done::Connect { id, result: length.map(|_| ()) },
            Self::Receive { id, buffer, .. } => Done::Receive { id, buffer, result: length },
            Self::Send { id, buffer, sent, .. } => Done::Send { id, buffer, sent, result: length },
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel does not know of these.
        for entry in self.backlog.drain(..) {
            let key = usize::try_from(entry.get_user_data()).ok();
            key.and_then(|key| self.in_kernel.try_remove(key));
        }
        let mut done = Vec::new();
        while !self.in_kernel.is_empty() {
            match self.ring.submit_and_wait(1) {
                Ok(_) => self.reap(&mut done),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Empty, unless the kernel would not tell: then it may still use them.
        mem::forget(mem::take(&mut self.in_kernel));
    }
}

/// The timeout is over, a signal came, or completions have to be taken first.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
