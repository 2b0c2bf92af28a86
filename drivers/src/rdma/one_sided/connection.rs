use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::adapter::Adapter;
use super::buffer::Buffer;
use super::endpoint::ConnectionConfig;
use super::operation::{Finished, OperationError, OperationId, Refused, RequestError, WaitError};
use super::region::{RangeError, check, check_word};
use crate::rdma::verbs::{
    Atomics, Completion, CompletionChannel, CompletionQueue, Memory, ProtectionDomain, QueuePair,
    RemoteAddress, SendBatch, VerbsError,
};
use crate::rdma_wire::{Permissions, RemoteRegion};

/// A reliable connection (RC) to a peer whose memory is read and written without its doing.
///
/// Operations leave with the next [`flush`](Self::flush), one doorbell for all of them, or when their end is
/// asked for: [`poll`](Self::poll), [`wait`](Self::wait). They are carried out in order. One that fails ends
/// the connection: those behind it are flushed, and a new connection has to be made.
///
/// Dropping it frees the buffers of what is under way when the device is done with them;
/// [`close`](Self::close) gives them back.
#[derive(Debug)]
pub struct Connection {
    // It goes first: from then on the device touches no buffer.
    pair: Arc<QueuePair>,
    completions: Arc<CompletionQueue>,
    channel: Arc<CompletionChannel>,
    domain: Arc<ProtectionDomain>,
    /// Not completed, in order. The last of them may be in the batch, and not posted.
    under_way: VecDeque<UnderWay>,
    /// Completed and not yet asked for, in order.
    finished: VecDeque<Finished>,
    /// For the results of atomic operations.
    words: Vec<Buffer>,
    batch: SendBatch,
    next: u64,
    failure: Option<OperationError>,
    regions: Vec<RemoteRegion>,
    config: ConnectionConfig,
    longest_message: usize,
    atomics: Atomics,
}

#[derive(Debug)]
struct UnderWay {
    work: Work,
    /// The last of its requests.
    last: u64,
    /// Of the first of its requests that failed.
    failure: Option<OperationError>,
    /// The device has taken none of its requests, and never will.
    given_up: bool,
}

#[derive(Debug)]
enum Work {
    Transfer(Buffer),
    Atomic(Buffer),
}

/// Completions that are taken at a time.
const BURST: usize = 16;
/// An operation's number is above these bits of a request's, which number the messages that it is cut into.
const PIECE_BITS: u32 = 16;
const WORD: usize = size_of::<u64>();

impl Connection {
    pub(super) fn new(
        adapter: &Adapter,
        config: &ConnectionConfig,
        pair: Arc<QueuePair>,
        completions: Arc<CompletionQueue>,
        regions: Vec<RemoteRegion>,
    ) -> Result<Self, VerbsError> {
        let channel = completions.channel().map(Arc::clone);
        let channel = channel.map_or_else(|| CompletionChannel::new(adapter.context()), Ok)?;
        let mut config = *config;
        config.operations = config.operations.max(1);
        let pieces = config.longest_transfer.div_ceil(adapter.longest_message()).max(1);
        Ok(Self {
            pair,
            completions,
            channel,
            domain: Arc::clone(adapter.domain()),
            under_way: VecDeque::with_capacity(config.operations),
            finished: VecDeque::with_capacity(config.operations),
            words: adapter.buffers(config.operations, WORD)?,
            batch: SendBatch::with_capacity(config.operations * pieces),
            next: 0,
            failure: None,
            regions,
            config,
            longest_message: adapter.longest_message(),
            atomics: adapter.atomics(),
        })
    }

    /// The regions that the peer has offered, in its order.
    pub fn regions(&self) -> &[RemoteRegion] {
        &self.regions
    }

    /// Operations that are under way, and those that are finished and not yet asked for.
    pub fn pending(&self) -> usize {
        self.under_way.len() + self.finished.len()
    }

    /// Why the connection has ended, if it has.
    pub fn failure(&self) -> Option<OperationError> {
        self.failure
    }

    /// Reads the peer's memory from `offset` on into `range` of `into`.
    ///
    /// # Errors
    /// Nothing was begun: `into` comes back with the reason.
    pub fn read(
        &mut self,
        into: Buffer,
        range: Range<usize>,
        from: &RemoteRegion,
        offset: u64,
    ) -> Result<OperationId, Refused> {
        self.transfer(into, &range, from, offset, Direction::Read)
    }

    /// Writes `range` of `from` to the peer's memory, from `offset` on. When it is finished, the bytes are at
    /// the peer's device.
    ///
    /// # Errors
    /// Nothing was begun: `from` comes back with the reason.
    pub fn write(
        &mut self,
        from: Buffer,
        range: Range<usize>,
        to: &RemoteRegion,
        offset: u64,
    ) -> Result<OperationId, Refused> {
        self.transfer(from, &range, to, offset, Direction::Write)
    }

    /// If the word at `offset` of the peer's memory is `expected`, it becomes `new`. Its value before tells
    /// whether it did.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn compare_and_swap(
        &mut self,
        at: &RemoteRegion,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> Result<OperationId, RequestError> {
        self.atomic(at, offset, |batch, id, word, address| {
            batch.push_compare_and_swap(id, word, address, expected, new);
        })
    }

    /// Adds to the word at `offset` of the peer's memory, wrapping around.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn fetch_add(
        &mut self,
        at: &RemoteRegion,
        offset: u64,
        add: u64,
    ) -> Result<OperationId, RequestError> {
        self.atomic(at, offset, |batch, id, word, address| {
            batch.push_fetch_add(id, word, address, add);
        })
    }

    /// Sends off what was begun. If the device does not take it, the operations finish with
    /// [`OperationError::NotPosted`].
    pub fn flush(&mut self) {
        // SAFETY: the requests name buffers of `under_way`. Each is kept there until the completion of its
        // last request was polled or, as the queue pair is the first field, the queue pair is gone.
        let Err(error) = (unsafe { self.pair.post_send(&mut self.batch) }) else { return };
        let error = OperationError::NotPosted(error.source.raw_os_error().unwrap_or(libc::EIO));
        self.failure.get_or_insert(error);
        let first_left = self.batch.first_id().unwrap_or(u64::MAX);
        self.batch.clear();
        for operation in self.under_way.iter_mut().filter(|it| it.last >= first_left) {
            operation.failure.get_or_insert(error);
            operation.given_up = operation.first() >= first_left;
            operation.last =
                operation.last.min(first_left.saturating_sub(1).max(operation.first()));
        }
        // What was taken is flushed by the device, so that it ends.
        let _ = self.pair.stop();
        self.finish_given_up();
    }

    /// The next operation that is finished. It never blocks.
    ///
    /// # Errors
    /// The device has failed.
    pub fn poll(&mut self) -> io::Result<Option<Finished>> {
        self.flush();
        if self.finished.is_empty() {
            self.collect()?;
        }
        Ok(self.finished.pop_front())
    }

    /// The same; sleeps up to `timeout` until there is one. `None`: nothing is under way, or it takes longer.
    ///
    /// # Errors
    /// The device has failed.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<Finished>> {
        let start = Instant::now();
        loop {
            if let Some(finished) = self.poll()? {
                return Ok(Some(finished));
            }
            if self.under_way.is_empty() || !self.sleep(start, timeout)? {
                return Ok(None);
            }
        }
    }

    /// Waits until one operation is finished. Others that are finish meanwhile are told later, by
    /// [`poll`](Self::poll).
    pub fn wait_for(
        &mut self,
        operation: OperationId,
        timeout: Duration,
    ) -> Result<Finished, WaitError> {
        let start = Instant::now();
        self.flush();
        loop {
            if let Some(at) = self.finished.iter().position(|done| done.operation() == operation) {
                return self.finished.remove(at).ok_or(WaitError::Unknown);
            }
            let first = self.under_way.front().map(|first| first.last >> PIECE_BITS);
            if first.is_none_or(|first| first > operation.0) || operation.0 >= self.next {
                return Err(WaitError::Unknown);
            }
            if !self.collect()? && !self.sleep(start, timeout)? {
                return Err(WaitError::TimedOut);
            }
        }
    }

    /// The descriptor of [`AsFd`] becomes readable when the next operation is finished. True: one is
    /// already.
    ///
    /// # Errors
    /// The device has failed.
    pub fn arm(&mut self) -> io::Result<bool> {
        self.flush();
        self.channel.drain()?;
        self.completions.arm()?;
        // What came before it was armed makes no event.
        Ok(self.collect()? || !self.finished.is_empty())
    }

    /// Ends the connection. What is under way is flushed, and all of it given back, in order. What the device
    /// has not flushed within `timeout` is freed when it is done with it.
    pub fn close(mut self, timeout: Duration) -> Vec<Finished> {
        let start = Instant::now();
        self.flush();
        // An error of any of these leaves what is under way to be dropped.
        let mut going = self.pair.stop().is_ok();
        while going && !self.under_way.is_empty() {
            going = match self.collect() {
                Ok(true) => true,
                Ok(false) => self.sleep(start, timeout).unwrap_or(false),
                Err(_) => false,
            };
        }
        mem::take(&mut self.finished).into()
    }

    fn transfer(
        &mut self,
        buffer: Buffer,
        range: &Range<usize>,
        remote: &RemoteRegion,
        offset: u64,
        direction: Direction,
    ) -> Result<OperationId, Refused> {
        let place = match self.check_transfer(&buffer, range, remote, offset, direction) {
            Ok(place) => place,
            Err(reason) => return Err(Refused { buffer, reason }),
        };
        let first = self.next << PIECE_BITS;
        let inline = place.len() <= self.pair.inline();
        for (id, start) in (first..).zip(place.clone().step_by(self.longest_message)) {
            let piece = start..place.end.min(start + self.longest_message);
            let done = (start - place.start) as u64;
            let there = RemoteAddress { address: remote.address + offset + done, key: remote.key };
            let (batch, memory) = (&mut self.batch, buffer.memory());
            match direction {
                Direction::Read => batch.push_read(id, memory, &piece, there),
                Direction::Write => batch.push_write(id, memory, &piece, there, inline),
            }
        }
        let pieces = place.len().div_ceil(self.longest_message) as u64;
        Ok(self.begin(Work::Transfer(buffer), pieces))
    }

    /// Where the bytes are in the buffer's memory.
    fn check_transfer(
        &self,
        buffer: &Buffer,
        range: &Range<usize>,
        remote: &RemoteRegion,
        offset: u64,
        direction: Direction,
    ) -> Result<Range<usize>, RequestError> {
        self.check_room()?;
        if !buffer.is_of(&self.domain) {
            return Err(RequestError::OtherAdapter);
        }
        let needed = match direction {
            Direction::Read => Permissions::READ,
            Direction::Write => Permissions::WRITE,
        };
        if !remote.permissions.contains(needed) {
            return Err(RequestError::NotPermitted);
        }
        let place = buffer.place(range).ok_or(RequestError::Local(RangeError::OutOfBounds {
            offset: range.start as u64,
            len: range.len() as u64,
            region_len: buffer.len() as u64,
        }))?;
        let (len, max) = (place.len(), self.config.longest_transfer);
        if len == 0 {
            return Err(RequestError::Empty);
        }
        if len > max || len.div_ceil(self.longest_message) > 1 << PIECE_BITS {
            return Err(RequestError::TooLong { len, max });
        }
        check(offset, len as u64, remote.len).map_err(RequestError::Remote)?;
        Ok(place)
    }

    fn atomic(
        &mut self,
        remote: &RemoteRegion,
        offset: u64,
        push: impl FnOnce(&mut SendBatch, u64, (&Memory, &Range<usize>), RemoteAddress),
    ) -> Result<OperationId, RequestError> {
        self.check_room()?;
        if self.atomics == Atomics::None {
            return Err(RequestError::NoAtomics);
        }
        if !remote.permissions.contains(Permissions::ATOMIC) {
            return Err(RequestError::NotPermitted);
        }
        check_word(offset, remote.len).map_err(RequestError::Remote)?;
        let limit = self.config.operations;
        let word = self.words.pop().ok_or(RequestError::Full { limit })?;
        let place = word.place(&(0..WORD)).ok_or(RequestError::Empty)?;
        let there = RemoteAddress { address: remote.address + offset, key: remote.key };
        push(&mut self.batch, self.next << PIECE_BITS, (word.memory(), &place), there);
        Ok(self.begin(Work::Atomic(word), 1))
    }

    fn check_room(&self) -> Result<(), RequestError> {
        if let Some(failure) = self.failure {
            return Err(RequestError::Failed(failure));
        }
        let limit = self.config.operations;
        if self.pending() >= limit { Err(RequestError::Full { limit }) } else { Ok(()) }
    }

    /// Its requests, so many of them, are in the batch.
    fn begin(&mut self, work: Work, requests: u64) -> OperationId {
        self.batch.signal_last();
        let operation = OperationId(self.next);
        let last = (self.next << PIECE_BITS) + requests - 1;
        self.next += 1;
        self.under_way.push_back(UnderWay { work, last, failure: None, given_up: false });
        operation
    }

    /// Takes completions. True: an operation is finished.
    fn collect(&mut self) -> io::Result<bool> {
        let before = self.finished.len();
        let mut completions = [Completion::default(); BURST];
        loop {
            let taken = self.completions.poll(&mut completions)?.len();
            for completion in &completions[..taken] {
                self.complete(completion)?;
            }
            if taken < BURST {
                return Ok(self.finished.len() > before);
            }
        }
    }

    /// Requests complete in order. A success speaks for those of its operation in front of it.
    fn complete(&mut self, completion: &Completion) -> io::Result<()> {
        let id = completion.id();
        let first = self.under_way.front_mut();
        let Some(first) = first.filter(|first| first.last >> PIECE_BITS == id >> PIECE_BITS) else {
            return Err(io::Error::other("the device completes a request that is not due"));
        };
        if let Err(error) = completion.result() {
            let error = *first.failure.get_or_insert(error.into());
            self.failure.get_or_insert(error);
        }
        if id == first.last {
            self.finish_first();
            self.finish_given_up();
        }
        Ok(())
    }

    fn finish_given_up(&mut self) {
        while self.under_way.front().is_some_and(|first| first.given_up) {
            self.finish_first();
        }
    }

    fn finish_first(&mut self) {
        let Some(UnderWay { work, last, failure, .. }) = self.under_way.pop_front() else { return };
        let operation = OperationId(last >> PIECE_BITS);
        let result = failure.map_or(Ok(()), Err);
        self.finished.push_back(match work {
            Work::Transfer(buffer) => Finished::Transfer { operation, buffer, result },
            Work::Atomic(word) => {
                let before = word.first_chunk().copied().map_or(0, u64::from_ne_bytes);
                self.words.push(word);
                Finished::Atomic { operation, result: result.map(|()| before) }
            }
        });
    }

    /// Sleeps until something may be finished. False: the time is over.
    fn sleep(&mut self, start: Instant, timeout: Duration) -> io::Result<bool> {
        let Some(left) = timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            return Ok(false);
        };
        if self.arm()? {
            return Ok(true);
        }
        let left = Timespec::try_from(left).ok();
        let fd = self.channel.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl UnderWay {
    /// The first of its requests.
    fn first(&self) -> u64 {
        self.last >> PIECE_BITS << PIECE_BITS
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// To sleep on, after [`Connection::arm`].
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
