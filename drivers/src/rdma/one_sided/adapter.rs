use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::buffer::Buffer;
use super::region::MemoryRegion;
use crate::rdma::verbs::{
    Access, Atomics, Context, Gid, GidEntry, Memory, PortState, ProtectionDomain, VerbsError,
};
use crate::rdma_wire::Permissions;

/// A port of an RDMA device, with the memory and the connections that work together through it.
#[derive(Clone, Debug)]
pub struct Adapter {
    domain: Arc<ProtectionDomain>,
    port: u8,
    gid: GidEntry,
    mtu: usize,
    longest_message: usize,
    atomics: Atomics,
}

/// Buffers of one registration begin at multiples of this: they share no cache line.
const ALIGNMENT: usize = 64;

impl Adapter {
    /// Opens a port of a device, such as 1 of `rxe0`. Without a GID's index it takes one of RoCE version 2,
    /// of IPv4 if there is any.
    pub fn open(device: &str, port: u8, gid_index: Option<u8>) -> Result<Self, VerbsError> {
        let context = Context::open(device)?;
        let found = context.port(port)?;
        if !found.is_ethernet {
            return Err(unsuitable("opening the port", "it is InfiniBand; it takes RoCE"));
        }
        if found.state != PortState::Active {
            return Err(unsuitable("opening the port", "it has no link"));
        }
        let gid = match gid_index {
            Some(index) => context.gid(port, index)?,
            None => context.default_gid(port)?.ok_or_else(|| {
                let reason = "it has no address; give its interface one (ip address add)";
                unsuitable("opening the port", reason)
            })?,
        };
        Ok(Self {
            domain: ProtectionDomain::new(&context)?,
            port,
            gid,
            mtu: found.mtu,
            longest_message: context.longest_message(port)?.max(1),
            atomics: context.atomics()?,
        })
    }

    /// Memory for operations, zeroed: one buffer of `len` bytes.
    ///
    /// # Errors
    /// The process may not lock so much memory, or there is none.
    pub fn buffer(&self, len: usize) -> Result<Buffer, VerbsError> {
        let memory = Memory::new(&self.domain, len.max(1), Access::LOCAL_WRITE)?;
        Ok(Buffer::new(&Arc::new(memory), &self.domain, 0..len))
    }

    /// The same, `count` of them in one registration. It lasts as long as the last of them.
    ///
    /// # Errors
    /// As for [`buffer`](Self::buffer).
    pub fn buffers(&self, count: usize, len: usize) -> Result<Vec<Buffer>, VerbsError> {
        let stride = len.checked_next_multiple_of(ALIGNMENT);
        let bytes = stride.and_then(|stride| stride.checked_mul(count));
        let bytes = bytes.filter(|bytes| isize::try_from(*bytes).is_ok());
        let (Some(stride), Some(bytes)) = (stride, bytes) else {
            return Err(unsuitable("mapping memory", "there are not so many addresses"));
        };
        let memory = Arc::new(Memory::new(&self.domain, bytes.max(1), Access::LOCAL_WRITE)?);
        let ranges =
            (0..count).map(|index| Range { start: index * stride, end: index * stride + len });
        Ok(ranges.map(|range| Buffer::new(&memory, &self.domain, range)).collect())
    }

    /// Memory for peers, zeroed: `len` bytes, at least one, with which they may do what `permissions` say.
    ///
    /// # Errors
    /// As for [`buffer`](Self::buffer); or [`Permissions::ATOMIC`] of a device without atomic operations.
    pub fn region(&self, len: usize, permissions: Permissions) -> Result<MemoryRegion, VerbsError> {
        MemoryRegion::new(self, len, permissions)
    }

    /// How far its atomic operations are atomic.
    pub fn atomics(&self) -> Atomics {
        self.atomics
    }

    /// The address of its port.
    pub fn gid(&self) -> Gid {
        self.gid.gid
    }

    /// Most bytes of one message. Longer transfers are several messages.
    pub fn longest_message(&self) -> usize {
        self.longest_message
    }

    pub(super) fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        self.domain.context()
    }

    pub(super) fn port(&self) -> u8 {
        self.port
    }

    pub(super) fn gid_index(&self) -> u8 {
        self.gid.index
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }
}

/// Something that cannot be.
pub(super) fn unsuitable(step: &'static str, reason: impl Into<String>) -> VerbsError {
    let source = io::Error::new(io::ErrorKind::Unsupported, reason.into());
    VerbsError::Failed { step, source }
}
