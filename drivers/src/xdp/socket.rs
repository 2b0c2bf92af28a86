//! The parts of an AF_XDP socket that both directions use.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use xsk_rs::{FrameDesc, Umem};

use super::{rx, tx};
use crate::ledger::Ledger;

/// One queue of the interface, opened.
pub(super) struct Queue {
    pub(super) rx: rx::Parts,
    pub(super) tx: tx::Parts,
    pub(super) zero_copy: bool,
}

/// The chunks of one direction of one queue, and their bytes.
#[derive(Debug)]
pub(super) struct Chunks {
    umem: Umem,
    pub(super) ledger: Ledger,
    /// One per chunk, as the UMEM was made with.
    pub(super) descriptors: Vec<FrameDesc>,
}

impl Chunks {
    /// `descriptors` are those of neighbouring chunks of `umem`, which nobody else has.
    pub(super) fn new(umem: Umem, chunk_len: usize, descriptors: Vec<FrameDesc>) -> Self {
        let first = descriptors.first().map_or(0, FrameDesc::addr);
        let start = first - first % chunk_len;
        Self { umem, ledger: Ledger::new(start, chunk_len, descriptors.len()), descriptors }
    }

    /// The bytes that `descriptor` names: its length from its address on. Nothing, if they are not
    /// in one chunk. The caller has got the chunk from the ledger or out of its free ones: the
    /// kernel does not have it.
    pub(super) fn bytes<'a>(&'a mut self, descriptor: &'a mut FrameDesc) -> &'a mut [u8] {
        let len = descriptor.lengths().data();
        if !self.ledger.fits(descriptor.addr(), len) {
            return &mut [];
        }
        // SAFETY: the address is in a chunk of this UMEM (`fits`, and the ledger knows no chunks but
        // these). The kernel does not have it, and `&mut self` keeps every other slice of these
        // chunks away.
        let mut data = unsafe { self.umem.data_mut(descriptor) };
        let start = data.contents_mut().as_mut_ptr();
        // SAFETY: the same bytes, for as long as `self` is borrowed: the memory is mapped as long as
        // `umem` lives.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Sets the length of a frame that is to be written.
    pub(super) fn set_len(&mut self, descriptor: &mut FrameDesc, len: usize) {
        // SAFETY: as in `bytes`; nothing is read or written here but the descriptor's length.
        let mut data = unsafe { self.umem.data_mut(descriptor) };
        data.cursor().set_pos(len);
    }
}

/// The socket itself, beside its rings. A descriptor of its own: it stays valid whatever becomes of
/// the ring it was taken from.
#[derive(Clone, Debug)]
pub(super) struct Handle(Arc<OwnedFd>);

impl Handle {
    /// Of an open socket.
    pub(super) fn duplicate(socket: RawFd) -> io::Result<Self> {
        // SAFETY: the caller has just got the number from the socket, which it holds.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        Ok(Self(Arc::new(fcntl_dupfd_cloexec(socket, 3)?)))
    }

    /// Starts the transmission of what is in the ring.
    pub(super) fn kick_send(&self) -> Result<(), Errno> {
        send(&*self.0, &[], SendFlags::DONTWAIT).map(drop)
    }

    /// Lets the driver refill its receive ring or, with busy polling, receive. What it could not do
    /// it does at the next call.
    pub(super) fn kick_receive(&self) {
        let _ = recv(&*self.0, &mut [0_u8; 0], RecvFlags::DONTWAIT);
    }

    /// The error that the socket has met since the last call: the interface is gone.
    pub(super) fn take_error(&self) -> Option<i32> {
        match sockopt::socket_error(&*self.0) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error.raw_os_error()),
        }
    }

    /// Room for a burst in the interface's queue; the limit of an ordinary user is lower, and good
    /// enough.
    pub(super) fn enlarge_send_buffer(&self) -> io::Result<()> {
        if sockopt::set_socket_send_buffer_size_force(&*self.0, SEND_BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(&*self.0, SEND_BUFFER)?;
        }
        Ok(())
    }

    /// Has our receive calls do the NIC's interrupt work (Documentation/networking/napi.rst).
    pub(super) fn prefer_busy_poll(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, 1)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL, BUSY_POLL_MICROSECONDS)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
    }

    /// Whether the socket was bound in zero-copy mode.
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let mut options: u32 = 0;
        let mut len = size_of::<u32>() as u32;
        // SAFETY: the pointer is to a live value that may hold any bytes, and `len` is its size.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_XDP,
                XDP_OPTIONS,
                (&raw mut options).cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(options & XDP_OPTIONS_ZEROCOPY != 0)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the pointer and length are those of one live value, which the kernel only reads.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as u32,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

const SEND_BUFFER: usize = 8 << 20;
const BUSY_POLL_MICROSECONDS: i32 = 20;
const BUSY_POLL_BUDGET: i32 = 64;
/// `linux/if_xdp.h`
const XDP_OPTIONS: i32 = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
