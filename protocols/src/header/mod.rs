//! Headers declared once.
//!
//! [`header!`](crate::header!) makes a struct whose bytes are the header as it is on the wire: parsing
//! lends it where it lies, and nothing is written by hand that could be wrong. From the same declaration
//! come the selector that leads frames to the protocol (in the stack and in a device in the kernel), the
//! Wireshark dissector ([`dissector`](crate::dissector)), and the tests ([`test_header`],
//! [`fuzz_header`]).

mod check;
mod declare;
mod field;

use std::fmt;

use underpass_devices::checksum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use self::check::{fuzz_header, test_header};
pub use self::field::{Checksum, Field, FieldKind, FieldType};
pub use underpass_devices::Selector;

/// A header that [`header!`](crate::header!) has declared.
pub trait Header:
    FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + fmt::Display
{
    /// Name of the protocol: lower case, digits, `_`, `-` and `.`, as Wireshark's display filters have it.
    const NAME: &'static str;
    /// What it is, in a line.
    const TITLE: &'static str;
    /// What leads frames to the protocol.
    const SELECTOR: Selector;
    /// Its fields, in the order of the wire, without gaps.
    const FIELDS: &'static [Field];
    /// Its length in bytes.
    const LEN: usize = size_of::<Self>();
    /// Where the [`Checksum`] is, if there is one.
    const CHECKSUM_AT: Option<usize> = field::checksum_at(Self::FIELDS);

    /// The header that `packet` begins with, where it lies, and what follows it.
    ///
    /// # Errors
    /// `packet` is too short, or the checksum over all of it is wrong.
    fn parse(packet: &[u8]) -> Result<(&Self, &[u8]), HeaderError> {
        let (header, payload) = Self::ref_from_prefix(packet).map_err(|_| HeaderError::TooShort)?;
        if Self::CHECKSUM_AT.is_some() && checksum::sum(packet) != 0xffff {
            return Err(HeaderError::Checksum);
        }
        Ok((header, payload))
    }

    /// Writes the header to the front of `packet`, whose rest is in place already: the [`Checksum`] is
    /// computed over all of it.
    ///
    /// # Errors
    /// `packet` is too short.
    fn emit(&self, packet: &mut [u8]) -> Result<(), HeaderError> {
        self.write_to_prefix(packet).map_err(|_| HeaderError::TooShort)?;
        if let Some(at) = Self::CHECKSUM_AT {
            let field = at..at + size_of::<Checksum>();
            packet[field.clone()].fill(0);
            let checksum = !checksum::sum(packet);
            packet[field].copy_from_slice(&checksum.to_be_bytes());
        }
        Ok(())
    }
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There are fewer bytes than the header has.
    #[error("shorter than its header")]
    TooShort,
    /// The checksum (RFC 1071) over header and payload is wrong.
    #[error("the checksum is wrong")]
    Checksum,
}

/// The first line of a comment, or nothing; for [`header!`](crate::header!).
#[doc(hidden)]
pub const fn title(doc: &[&'static str]) -> &'static str {
    match doc {
        [first, ..] => first.trim_ascii(),
        [] => "",
    }
}

/// The name and every field with its value; for [`header!`](crate::header!).
#[doc(hidden)]
pub fn display<H: Header>(header: &H, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(H::NAME)?;
    for field in H::FIELDS {
        let bytes = header.as_bytes().get(field.offset..field.offset + field.width);
        write!(f, " {}=", field.name)?;
        field.kind.write(bytes.unwrap_or_default(), f)?;
    }
    Ok(())
}
