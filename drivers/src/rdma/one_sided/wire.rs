//! What two stations tell each other before they are connected: a request of the side that dials, a reply
//! and, when the dialler is connected, that it is ready. Or a refusal. All numbers are big-endian.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          "UPOS"                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   version 1   |     kind      |            detail             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |              token, 64 bits, chosen by the dialler            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! | kind | | detail | followed by |
//! |---|---|---|---|
//! | 1, 2 | request, reply | regions that are offered | a station, 28 bytes, and 24 per region |
//! | 3 | ready | 0 | |
//! | 4 | refusal | reason | |
//!
//! It knows no device, so that it can be tested without one.

use std::net::Ipv6Addr;
use std::ops::BitOr;

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 4] = *b"UPOS";
const VERSION: u8 = 1;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Which handshake it is of: whoever dials chooses it.
    pub(crate) token: u64,
    /// What it says.
    pub(crate) content: Content,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Connect to this station.
    Request(Station),
    /// The answer: this one is connected to yours.
    Reply(Station),
    /// The dialler is connected, too.
    Ready,
    /// There will be no connection.
    Refusal(Refusal),
}

/// One end of a connection to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Station {
    /// The address of its port.
    pub(crate) gid: [u8; 16],
    /// Its queue pair: 24 bits.
    pub(crate) queue_pair: u32,
    /// Number of the first packet that it sends: 24 bits.
    pub(crate) first_packet: u32,
    /// Bytes per packet at most: 256 to 4096.
    pub(crate) mtu: u16,
    /// Reads and atomic operations that it answers at a time.
    pub(crate) responder_resources: u8,
    /// Those that it has under way at a time.
    pub(crate) initiator_depth: u8,
    /// Memory that it offers.
    pub(crate) regions: Vec<RemoteRegion>,
}

/// Why a station does not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// As many handshakes as it takes at a time are under way.
    #[error("it has as many handshakes under way as it takes; try again")]
    Busy,
    /// It has not understood what it was told.
    #[error("it does not understand our handshake; is it of the same version?")]
    NotUnderstood,
    /// It cannot make another connection.
    #[error("its device has no room for another connection, or no way to ours")]
    NoResources,
    /// A reason that this version does not know.
    #[error("reason {0}")]
    Other(u16),
}

/// Memory of a peer that we may access: what [`MemoryRegion::descriptor`] says of it.
///
/// Whoever knows it has the access, through any connection to the same adapter. It may be sent to others
/// ([`to_bytes`](Self::to_bytes)) in messages of one's own.
///
/// [`MemoryRegion::descriptor`]: crate::rdma::MemoryRegion::descriptor
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteRegion {
    pub(crate) address: u64,
    pub(crate) key: u32,
    pub(crate) len: u64,
    pub(crate) permissions: Permissions,
}

/// What peers may do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permissions(u8);

/// The bytes are no [`RemoteRegion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A region of no bytes, or one beyond the end of all addresses.
    #[error("{len} bytes at {address:#x} are no memory")]
    Range {
        /// Where it is said to begin.
        address: u64,
        /// Its bytes.
        len: u64,
    },
    /// Rights that this version does not know.
    #[error("unknown permissions {0:#x}")]
    Permissions(u32),
}

/// A message of the handshake that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It is something else.
    #[error("a message that is no part of a handshake")]
    NoHandshake,
    /// The peer is of another version.
    #[error("version {0} of the handshake; ours is {VERSION}")]
    Version(u8),
    /// No such kind.
    #[error("kind {0} does not exist")]
    Kind(u8),
    /// It ends too early or too late.
    #[error("{len} bytes where {expected} are due")]
    Length {
        /// Its bytes.
        len: usize,
        /// Those that its head announces.
        expected: usize,
    },
    /// More regions are offered than we take.
    #[error("{count} regions are offered; the limit is {max}")]
    TooManyRegions {
        /// How many.
        count: usize,
        /// `ConnectionConfig::peer_regions`
        max: usize,
    },
    /// The address is none of a port.
    #[error("{0} is no address of a port")]
    Gid(Ipv6Addr),
    /// The number is none of a queue pair.
    #[error("{0:#x} is no number of a queue pair")]
    QueuePair(u32),
    /// The number has more than 24 bits.
    #[error("{0:#x} is no number of a packet")]
    Packet(u32),
    /// No size of a packet.
    #[error("{0} is no MTU: 256, 512, 1024, 2048 or 4096")]
    Mtu(u16),
    /// A region is not one.
    #[error("region {index}: {error}")]
    Region {
        /// Which of those offered.
        index: usize,
        /// What is wrong with it.
        error: RegionError,
    },
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    detail: U16,
    token: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawStation {
    gid: [u8; 16],
    queue_pair: U32,
    first_packet: U32,
    mtu: U16,
    responder_resources: u8,
    initiator_depth: u8,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRegion {
    address: U64,
    len: U64,
    key: U32,
    permissions: U32,
}

impl Message {
    /// Reads a message, which may offer up to `max_regions` regions.
    pub(crate) fn parse(bytes: &[u8], max_regions: usize) -> Result<Self, WireError> {
        let (head, body) = RawHead::ref_from_prefix(bytes).map_err(|_| WireError::NoHandshake)?;
        if head.magic != MAGIC {
            return Err(WireError::NoHandshake);
        }
        if head.version != VERSION {
            return Err(WireError::Version(head.version));
        }
        let detail = head.detail.get();
        let regions = if matches!(head.kind, 1 | 2) { usize::from(detail) } else { 0 };
        if regions > max_regions {
            return Err(WireError::TooManyRegions { count: regions, max: max_regions });
        }
        let expected = match head.kind {
            1 | 2 => size_of::<RawStation>() + regions * size_of::<RawRegion>(),
            3 | 4 => 0,
            kind => return Err(WireError::Kind(kind)),
        };
        if body.len() != expected {
            let head = size_of::<RawHead>();
            return Err(WireError::Length { len: bytes.len(), expected: head + expected });
        }
        let content = match head.kind {
            1 => Content::Request(Station::parse(body)?),
            2 => Content::Reply(Station::parse(body)?),
            3 => Content::Ready,
            _ => Content::Refusal(Refusal::from_code(detail)),
        };
        Ok(Self { token: head.token.get(), content })
    }

    /// The token of a message that may be of another version or broken otherwise, for the refusal.
    pub(crate) fn token_of(bytes: &[u8]) -> Option<u64> {
        let (head, _) = RawHead::ref_from_prefix(bytes).ok()?;
        // Nobody answers a refusal: two stations might go on for ever.
        (head.magic == MAGIC && head.kind != 4).then(|| head.token.get())
    }

    /// Writes it.
    ///
    /// # Panics
    /// If more than 65,535 regions are offered.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let count = |regions: &[RemoteRegion]| u16::try_from(regions.len()).expect("few regions");
        let (kind, detail) = match &self.content {
            Content::Request(station) => (1, count(&station.regions)),
            Content::Reply(station) => (2, count(&station.regions)),
            Content::Ready => (3, 0),
            Content::Refusal(reason) => (4, reason.code()),
        };
        let (detail, token) = (detail.into(), self.token.into());
        let head = RawHead { magic: MAGIC, version: VERSION, kind, detail, token };
        let mut bytes = head.as_bytes().to_vec();
        if let Content::Request(station) | Content::Reply(station) = &self.content {
            station.write(&mut bytes);
        }
        bytes
    }
}

impl Station {
    /// Bytes of which the length is right.
    fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let short = WireError::Length { len: bytes.len(), expected: size_of::<RawStation>() };
        let (raw, regions) = RawStation::ref_from_prefix(bytes).map_err(|_| short)?;
        let gid = Ipv6Addr::from(raw.gid);
        if !is_of_port(gid) {
            return Err(WireError::Gid(gid));
        }
        let queue_pair = raw.queue_pair.get();
        // 0 and 1 are the management's, the highest one means multicast.
        if !(2..0xff_ffff).contains(&queue_pair) {
            return Err(WireError::QueuePair(queue_pair));
        }
        let first_packet = raw.first_packet.get();
        if first_packet > 0xff_ffff {
            return Err(WireError::Packet(first_packet));
        }
        let mtu = raw.mtu.get();
        if !(256..=4096).contains(&mtu) || !mtu.is_power_of_two() {
            return Err(WireError::Mtu(mtu));
        }
        let (regions, _) = regions.as_chunks();
        let regions = regions.iter().enumerate().map(|(index, bytes)| {
            RemoteRegion::from_bytes(bytes).map_err(|error| WireError::Region { index, error })
        });
        Ok(Self {
            gid: raw.gid,
            queue_pair,
            first_packet,
            mtu,
            responder_resources: raw.responder_resources,
            initiator_depth: raw.initiator_depth,
            regions: regions.collect::<Result<_, _>>()?,
        })
    }

    fn write(&self, into: &mut Vec<u8>) {
        let raw = RawStation {
            gid: self.gid,
            queue_pair: self.queue_pair.into(),
            first_packet: self.first_packet.into(),
            mtu: self.mtu.into(),
            responder_resources: self.responder_resources,
            initiator_depth: self.initiator_depth,
        };
        into.extend_from_slice(raw.as_bytes());
        for region in &self.regions {
            into.extend_from_slice(&region.to_bytes());
        }
    }
}

/// A unicast address.
fn is_of_port(gid: Ipv6Addr) -> bool {
    match gid.to_ipv4_mapped() {
        Some(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        None => !gid.is_unspecified() && !gid.is_multicast(),
    }
}

impl Refusal {
    fn code(self) -> u16 {
        match self {
            Self::Busy => 1,
            Self::NotUnderstood => 2,
            Self::NoResources => 3,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Busy,
            2 => Self::NotUnderstood,
            3 => Self::NoResources,
            other => Self::Other(other),
        }
    }
}

impl RemoteRegion {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const LEN: usize = size_of::<RawRegion>();

    /// Address, length (64 bits), key and permissions (32 bits), big-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let raw = RawRegion {
            address: self.address.into(),
            len: self.len.into(),
            key: self.key.into(),
            permissions: u32::from(self.permissions.0).into(),
        };
        zerocopy::transmute!(raw)
    }

    /// Reads what a peer has sent. That it is memory of the peer's, only an access shows.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, RegionError> {
        let raw: RawRegion = zerocopy::transmute!(*bytes);
        let (address, len) = (raw.address.get(), raw.len.get());
        if len == 0 || address == 0 || address.checked_add(len).is_none() {
            return Err(RegionError::Range { address, len });
        }
        let permissions = raw.permissions.get();
        let known = u8::try_from(permissions).ok().filter(|bits| bits & !Permissions::ALL.0 == 0);
        let permissions = Permissions(known.ok_or(RegionError::Permissions(permissions))?);
        Ok(Self { address, key: raw.key.get(), len, permissions })
    }

    /// Its bytes; never 0.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What we may do with it.
    pub fn permissions(&self) -> Permissions {
        self.permissions
    }
}

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// To read.
    pub const READ: Self = Self(1);
    /// To write.
    pub const WRITE: Self = Self(2);
    /// To carry out atomic operations.
    pub const ATOMIC: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Whether it has all of these.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Permissions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
