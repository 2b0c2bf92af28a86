use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::Arc;

use underpass_devices::{Buffers, Caps, Counters, Instant, SendError, TxMeta, TxQueue};

use super::socket::PacketSocket;
use crate::vnet_hdr;

/// The transmit half of a [`PacketDevice`](super::PacketDevice): slots of our own memory, copied
/// out by `sendmmsg`.
#[derive(Debug)]
pub struct PacketTx {
    socket: Arc<PacketSocket>,
    caps: Caps,
    /// All slots side by side; each is a virtio_net_hdr and a frame.
    arena: Vec<u8>,
    slot_len: usize,
    /// Bytes used of each slot.
    used: Vec<usize>,
    /// The oldest queued slot.
    head: usize,
    queued: usize,
    stalled: bool,
    counters: Counters,
}

/// Frames handed over in one system call.
const BATCH: usize = 64;

impl PacketTx {
    pub(super) fn new(socket: Arc<PacketSocket>, caps: Caps, slots: usize) -> Self {
        let slot_len = (vnet_hdr::LEN + caps.max_tx_frame()).next_multiple_of(64);
        Self {
            socket,
            caps,
            arena: vec![0; slots * slot_len],
            slot_len,
            used: vec![0; slots],
            head: 0,
            queued: 0,
            stalled: false,
            counters: Counters::default(),
        }
    }

    /// Whether the last flush left frames that the kernel had no room for.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// What was sent.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The transmit slots.
    pub(super) fn buffers(&self) -> Buffers {
        Buffers {
            tx_total: self.used.len(),
            tx_free: self.room(),
            tx_busy: self.queued,
            ..Buffers::default()
        }
    }

    /// Hands over queued frames that lie side by side, and returns how many the kernel took.
    fn send_batch(&mut self) -> io::Result<usize> {
        let batch = self.queued.min(BATCH).min(self.used.len() - self.head);
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: all fields of an mmsghdr are integers and pointers, for which zero is a value.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let slots = self.arena.chunks_exact_mut(self.slot_len).zip(&self.used);
        let slots = slots.skip(self.head).take(batch);
        for ((part, message), (slot, used)) in parts.iter_mut().zip(&mut messages).zip(slots) {
            part.iov_base = slot.as_mut_ptr().cast();
            part.iov_len = slot.len().min(*used);
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `batch` messages have one iovec each, which is a slot of the arena; all
        // of it lives until the call returns, and the kernel only reads the slots.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_fd().as_raw_fd(),
                messages.as_mut_ptr(),
                batch as u32,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn retire(&mut self, slots: usize) {
        self.queued -= slots;
        self.head += slots;
        // An empty queue begins again with the slots that are warm in the cache.
        if self.queued == 0 || self.head == self.used.len() {
            self.head = 0;
        }
    }
}

impl TxQueue for PacketTx {
    fn room(&self) -> usize {
        self.used.len() - self.queued
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        if !self.caps.takes(len, &meta) {
            self.counters.tx_unsupported += 1;
            return Err(SendError::Unsupported);
        }
        if self.room() == 0 {
            self.counters.tx_full += 1;
            return Err(SendError::Full);
        }
        let index = (self.head + self.queued) % self.used.len();
        let start = index * self.slot_len;
        // `takes` keeps `len` within a slot.
        let slot = &mut self.arena[start..start + self.slot_len][..vnet_hdr::LEN + len];
        self.used[index] = slot.len();
        let (header, frame) = slot.split_at_mut(vnet_hdr::LEN);
        header.copy_from_slice(&vnet_hdr::encode(&meta));
        self.queued += 1;
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
        Ok(write(frame))
    }

    fn flush(&mut self, _now: Instant) -> io::Result<()> {
        self.stalled = false;
        while self.queued > 0 {
            match self.send_batch() {
                Ok(sent) => self.retire(sent),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => {
                        self.stalled = true;
                        break;
                    }
                    Some(libc::EINTR) => {}
                    Some(libc::EMSGSIZE | libc::EINVAL) => {
                        // The kernel will not take the first of them: the others still go.
                        self.counters.tx_errors += 1;
                        self.retire(1);
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}
