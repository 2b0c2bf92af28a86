//! What a header consists of, as data.

use std::fmt;

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A field of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it means: the comment it is declared with.
    pub about: &'static str,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Its length in bytes.
    pub width: usize,
    /// How its bytes are read.
    pub kind: FieldKind,
}

/// How the bytes of a field are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A number of 1, 2, 4 or 8 bytes, the most significant one first.
    Unsigned,
    /// The checksum of header and payload.
    Checksum,
    /// As they are.
    Bytes,
}

/// What can be a field: `u8`, the network-endian numbers of `zerocopy`, arrays of bytes, [`Checksum`].
pub trait FieldType: FromBytes + IntoBytes + Immutable + Unaligned {
    /// How its bytes are read.
    const KIND: FieldKind;
}

/// The Internet checksum (RFC 1071) of the header and all that follows it. What it is set to does not
/// matter: it is computed when the header is emitted, and verified when one is parsed.
///
/// What follows includes the padding of short Ethernet frames, which is zeroes and changes nothing, but
/// for stations that pad with something else. A protocol on an EtherType that is to understand those has
/// a length in its header, and parses as much.
///
/// At an odd offset it would not be what RFC 1071 says, so that does not compile:
///
/// ```compile_fail
/// underpass_protocols::header! {
///     struct Odd("odd", underpass_devices::Selector::EtherType(0x88b5)) {
///         kind: u8,
///         checksum: underpass_protocols::header::Checksum,
///     }
/// }
/// ```
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Checksum(U16);

impl FieldType for u8 {
    const KIND: FieldKind = FieldKind::Unsigned;
}

impl FieldType for U16 {
    const KIND: FieldKind = FieldKind::Unsigned;
}

impl FieldType for U32 {
    const KIND: FieldKind = FieldKind::Unsigned;
}

impl FieldType for U64 {
    const KIND: FieldKind = FieldKind::Unsigned;
}

impl FieldType for Checksum {
    const KIND: FieldKind = FieldKind::Checksum;
}

impl<const N: usize> FieldType for [u8; N] {
    const KIND: FieldKind = FieldKind::Bytes;
}

impl Field {
    /// A field of type `T`; for [`header!`](crate::header!).
    #[doc(hidden)]
    pub const fn of<T: FieldType>(name: &'static str, about: &'static str, offset: usize) -> Self {
        Self { name, about: about.trim_ascii(), offset, width: size_of::<T>(), kind: T::KIND }
    }
}

impl FieldKind {
    pub(super) fn write(self, bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = || bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        match self {
            Self::Unsigned => write!(f, "{}", number()),
            Self::Checksum => write!(f, "{:#06x}", number()),
            Self::Bytes => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// Where the checksum is. It does not compile with two of them, nor with one at an odd offset, where
/// its halves would be added to the wrong bytes (RFC 1071 §1).
pub(super) const fn checksum_at(fields: &[Field]) -> Option<usize> {
    let mut found = None;
    let mut n = 0;
    while n < fields.len() {
        if matches!(fields[n].kind, FieldKind::Checksum) {
            assert!(found.is_none(), "a header has one checksum at most");
            assert!(fields[n].offset.is_multiple_of(2), "a checksum is at an even offset");
            found = Some(fields[n].offset);
        }
        n += 1;
    }
    found
}
