use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;
use slab::Slab;

use super::transmit::Queued;

/// Writes whole bursts of frames by one system call each.
///
/// It owns every buffer that the kernel may read, from the submission of a write to its completion.
pub(super) struct WriteRing {
    ring: IoUring,
    file: Arc<OwnedFd>,
    in_kernel: Slab<Queued>,
    /// Never exceeded, so that neither ring ever overflows.
    capacity: usize,
}

impl WriteRing {
    /// A ring for up to `capacity` frames of a TAP queue. Fails where this process may not use
    /// io_uring, or the kernel's TAP does not do `RWF_NOWAIT`.
    pub(super) fn for_tap(file: Arc<OwnedFd>, capacity: usize) -> io::Result<Self> {
        let mut ring = Self::new(file, capacity)?;
        // A frame too short for its virtio_net_hdr is refused with EINVAL, before which only the
        // flag can be.
        let runt = Queued::new(vec![0].into_boxed_slice(), 1);
        let mut answer = None;
        ring.write(&mut VecDeque::from([runt]), |_, result| {
            answer = Some(result);
        })?;
        match answer {
            Some(Err(Errno::INVAL)) => Ok(ring),
            Some(Err(errno)) => Err(errno.into()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A ring for up to `capacity` writes to a file that does `RWF_NOWAIT`.
    pub(super) fn new(file: Arc<OwnedFd>, capacity: usize) -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::new(u32::try_from(capacity).map_err(io::Error::other)?)?,
            file,
            in_kernel: Slab::with_capacity(capacity),
            capacity,
        })
    }

    /// Frames submitted and not complete. Zero after nearly every `write`.
    pub(super) fn in_kernel(&self) -> usize {
        self.in_kernel.len()
    }

    /// Submits `frames` from the front and reports all that are complete, with the number of bytes
    /// taken. It does not wait.
    pub(super) fn write(
        &mut self,
        frames: &mut VecDeque<Queued>,
        done: impl FnMut(Queued, Result<usize, Errno>),
    ) -> io::Result<()> {
        while self.in_kernel.len() < self.capacity
            && let Some(frame) = frames.pop_front()
        {
            if let Err(frame) = self.push(frame) {
                frames.push_front(frame);
                break;
            }
        }
        let submitted = self.ring.submit();
        self.reap(done);
        match submitted {
            // Short of memory or interrupted: the rest is submitted the next time.
            Err(error) if !is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn push(&mut self, frame: Queued) -> Result<(), Queued> {
        let key = self.in_kernel.insert(frame);
        let bytes = self.in_kernel.get(key).map_or(&[][..], Queued::bytes);
        let write = opcode::Write::new(
            types::Fd(self.file.as_raw_fd()),
            bytes.as_ptr(),
            bytes.len() as u32,
        )
        // As for `write`: at the position of a file that has none.
        .offset(u64::MAX)
        .rw_flags(libc::RWF_NOWAIT)
        .build()
        .user_data(key as u64);
        // SAFETY: the kernel reads `bytes.len()` initialised bytes of a heap buffer that
        // `in_kernel` owns. They are neither written nor freed before `reap` has seen the
        // completion with this key: nothing else removes from `in_kernel`, nothing lends its
        // buffers mutably, and `drop` leaks them if it cannot see all completions. The descriptor
        // is open, because `file` is dropped after the ring is closed.
        if unsafe { self.ring.submission().push(&write) }.is_ok() {
            return Ok(());
        }
        // The entry was not taken over, so that the kernel does not know the buffer.
        self.in_kernel.try_remove(key).map_or(Ok(()), Err)
    }

    fn reap(&mut self, mut done: impl FnMut(Queued, Result<usize, Errno>)) {
        for completion in self.ring.completion() {
            let frame = usize::try_from(completion.user_data())
                .ok()
                .and_then(|key| self.in_kernel.try_remove(key));
            // A completion that belongs to no write would be the kernel's fault.
            let Some(frame) = frame else { continue };
            let result = completion.result();
            done(
                frame,
                usize::try_from(result)
                    .map_err(|_| Errno::from_raw_os_error(result.wrapping_neg())),
            );
        }
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        while !self.in_kernel.is_empty() {
            match self.ring.submit_and_wait(1) {
                Ok(_) => self.reap(|_, _| ()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Empty, unless the kernel would not tell: then it may still read them.
        mem::forget(mem::take(&mut self.in_kernel));
    }
}

impl std::fmt::Debug for WriteRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteRing")
            .field("in_kernel", &self.in_kernel.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

fn is_transient(error: &io::Error) -> bool {
    [Errno::AGAIN, Errno::BUSY, Errno::INTR, Errno::NOMEM]
        .contains(&Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A ring over one end of a socket pair; `None` where io_uring is switched off.
    fn ring(capacity: usize) -> Option<(WriteRing, UnixDatagram)> {
        let (near, far) = UnixDatagram::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        match WriteRing::new(Arc::new(near.into()), capacity) {
            Ok(ring) => Some((ring, far)),
            Err(error) => {
                eprintln!("not tested: {error}");
                None
            }
        }
    }

    fn frames(texts: &[&str]) -> VecDeque<Queued> {
        let queued = |text: &&str| {
            let mut slot = text.as_bytes().to_vec();
            slot.extend_from_slice(b"not to be sent");
            Queued::new(slot.into_boxed_slice(), text.len())
        };
        texts.iter().map(queued).collect()
    }

    fn received(far: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 64];
        std::iter::from_fn(|| far.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec()))
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    }

    #[test]
    fn a_burst_is_complete_and_in_order_when_write_returns() {
        let Some((mut ring, far)) = ring(8) else {
            return;
        };
        for _ in 0..50 {
            let mut completed = Vec::new();
            ring.write(&mut frames(&["one", "three", "five"]), |_, result| {
                completed.push(result.unwrap());
            })
            .unwrap();
            assert_eq!(completed, [3, 5, 4]);
            assert_eq!(ring.in_kernel(), 0);
            assert_eq!(received(&far), ["one", "three", "five"]);
        }
    }

    #[test]
    fn more_than_the_capacity_stays_queued() {
        let Some((mut ring, far)) = ring(2) else {
            return;
        };
        let mut queue = frames(&["a", "b", "c", "d", "e"]);
        for (left, expected) in [(3, "ab"), (1, "cd"), (0, "e")] {
            ring.write(&mut queue, |_, result| assert_eq!(result, Ok(1))).unwrap();
            assert_eq!(queue.len(), left);
            assert_eq!(received(&far).concat(), expected);
        }
    }

    #[test]
    fn a_full_socket_says_try_again_and_does_not_wait() {
        let Some((mut ring, far)) = ring(4) else {
            return;
        };
        let mut refused = 0;
        for _ in 0..100_000 {
            let take = |_, result: Result<usize, Errno>| match result {
                Ok(len) => assert_eq!(len, 1),
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    refused += 1;
                }
            };
            ring.write(&mut frames(&["x"]), take).unwrap();
            if refused > 0 {
                break;
            }
        }
        assert_eq!(refused, 1);
        assert_eq!(ring.in_kernel(), 0);
        assert!(!received(&far).is_empty());
    }

    #[test]
    fn a_closed_peer_is_an_error_of_the_frame() {
        let Some((mut ring, far)) = ring(4) else {
            return;
        };
        drop(far);
        let mut errors = Vec::new();
        ring.write(&mut frames(&["x"]), |frame, result| {
            errors.push((frame.bytes().to_vec(), result.unwrap_err()));
        })
        .unwrap();
        assert_eq!(errors, [(b"x".to_vec(), Errno::CONNREFUSED)]);
    }

    #[test]
    fn dropping_the_ring_finishes_what_was_pushed() {
        let Some((mut ring, far)) = ring(4) else {
            return;
        };
        for frame in frames(&["queued", "never submitted"]) {
            assert!(ring.push(frame).is_ok());
        }
        drop(ring);
        assert_eq!(received(&far), ["queued", "never submitted"]);
    }
}
