//! The queue pair and what goes with it, shared by both halves of a device.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;

use super::group::Group;
use super::verbs::{
    CompletionChannel, CompletionError, CompletionQueue, Context, Event, GidEntry, Memory,
    PortState, QueuePair, VerbsError,
};
use crate::rdma_datagram::ROUTING_HEADER_LEN;

/// The fields go in the order in which they are declared: what the queue pair uses, after it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) group: Option<Group>,
    pub(super) pair: Arc<QueuePair>,
    pub(super) sent: Arc<CompletionQueue>,
    pub(super) received: Arc<CompletionQueue>,
    pub(super) memory: Memory,
    pub(super) plan: Plan,
    pub(super) channel: Arc<CompletionChannel>,
    /// Readable when the channel or the context has something.
    pub(super) epoll: OwnedFd,
    pub(super) context: Arc<Context>,
    pub(super) port: u8,
    pub(super) gid: GidEntry,
}

/// How the memory is divided: receive buffers, then transmit buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) rx_slots: usize,
    pub(super) tx_slots: usize,
    /// Bytes that the longest frame takes.
    pub(super) tx_len: usize,
}

/// Most bytes of a datagram, whatever the port's MTU is. Buffers have so much room, for a datagram that
/// is longer than its buffer would stop the queue pair, and anybody could send one.
const LONGEST: usize = 4096;
/// Cache lines are not shared between buffers.
const ALIGNMENT: usize = 64;

impl Plan {
    pub(super) const RX_LEN: usize = (ROUTING_HEADER_LEN + LONGEST).next_multiple_of(ALIGNMENT);

    pub(super) fn new(rx_slots: usize, tx_slots: usize, max_frame: usize) -> Self {
        Self { rx_slots, tx_slots, tx_len: max_frame.next_multiple_of(ALIGNMENT) }
    }

    /// Bytes in all.
    pub(super) fn len(&self) -> usize {
        self.tx_start() + self.tx_slots * self.tx_len
    }

    /// The first `len` bytes of a receive buffer.
    pub(super) fn receive(slot: usize, len: usize) -> Range<usize> {
        let start = slot * Self::RX_LEN;
        start..start + len
    }

    /// The first `len` bytes of a transmit buffer.
    pub(super) fn transmit(&self, slot: usize, len: usize) -> Range<usize> {
        let start = self.tx_start() + slot * self.tx_len;
        start..start + len
    }

    fn tx_start(&self) -> usize {
        self.rx_slots * Self::RX_LEN
    }
}

impl Link {
    /// A descriptor for both kinds of events.
    pub(super) fn poll_both(channel: &CompletionChannel, context: &Context) -> io::Result<OwnedFd> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (fd, data) in [(channel.as_fd(), 0), (context.as_fd(), 1)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN)?;
        }
        Ok(epoll)
    }

    pub(super) fn pair(&self) -> &Arc<QueuePair> {
        &self.pair
    }

    pub(super) fn is_in_group(&self) -> bool {
        self.group.is_some()
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn drain_events(&self) -> io::Result<()> {
        self.channel.drain()
    }

    /// An error if the port has lost its link or its address, or the device is gone.
    pub(super) fn check_alive(&self) -> io::Result<()> {
        while let Some(event) = self.context.next_event()? {
            match event {
                Event::PortDown(_) if self.is_down() => {
                    return Err(io::Error::from_raw_os_error(libc::ENETDOWN));
                }
                Event::GidChange(_) if self.has_moved() => {
                    let (name, gid) = (self.context.name(), self.gid.gid);
                    let gone = format!("{name} does not have the address {gid} any more");
                    return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, gone));
                }
                Event::DeviceGone => return Err(io::Error::from_raw_os_error(libc::ENODEV)),
                Event::QueueFailed => return Err(io::Error::other("the queue pair failed")),
                _ => {}
            }
        }
        Ok(())
    }

    /// What to say of a request that failed, which stops the queue pair.
    pub(super) fn failure(&self, cause: CompletionError) -> io::Error {
        if self.is_down() {
            return io::Error::from_raw_os_error(libc::ENETDOWN);
        }
        io::Error::other(format!("the queue pair is in the error state: {cause}"))
    }

    fn is_down(&self) -> bool {
        self.context.port(self.port).is_ok_and(|port| port.state != PortState::Active)
    }

    fn has_moved(&self) -> bool {
        match self.context.gid(self.port, self.gid.index) {
            Ok(entry) => entry.gid != self.gid.gid,
            Err(error) => matches!(error, VerbsError::NoSuchGid { .. }),
        }
    }
}
