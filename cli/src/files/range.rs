//! Byte ranges (RFC 9110, section 14).

use std::ops::Range;

/// What a `Range` header asks of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The whole file: not a byte range, not well-formed, or several ranges, which a server may
    /// ignore (RFC 9110, section 14.2).
    Whole,
    /// These bytes of the file; never empty.
    Part(Range<u64>),
    /// Nothing of what is asked for exists: 416.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a file of `len` bytes.
pub(super) fn parse(value: &str, len: u64) -> Wanted {
    let Some((unit, spec)) = value.split_once('=') else {
        return Wanted::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let range = match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(suffix) => len.saturating_sub(suffix)..len,
            None => return Wanted::Whole,
        },
        (first, "") => match number(first) {
            Some(first) => first..len,
            None => return Wanted::Whole,
        },
        (first_text, last_text) => match (number(first_text), number(last_text)) {
            (Some(first), Some(last)) if magnitude(first_text) <= magnitude(last_text) => {
                first..last.saturating_add(1).min(len)
            }
            _ => return Wanted::Whole,
        },
    };
    if range.is_empty() { Wanted::Unsatisfiable } else { Wanted::Part(range) }
}

/// Digits only; a number beyond any file's length saturates, for it is well-formed all the same.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Orders digits as the numbers that they are, however large.
fn magnitude(digits: &str) -> (usize, &str) {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits)
}

#[cfg(test)]
mod tests {
    use super::{Wanted, parse};

    #[test]
    fn one_range_is_cut_to_the_file() {
        assert_eq!(parse("bytes=0-0", 10), Wanted::Part(0..1));
        assert_eq!(parse("bytes=2-5", 10), Wanted::Part(2..6));
        assert_eq!(parse("bytes=2-500", 10), Wanted::Part(2..10));
        assert_eq!(parse("Bytes=2-", 10), Wanted::Part(2..10));
        assert_eq!(parse("bytes=2-99999999999999999999999", 10), Wanted::Part(2..10));
    }

    #[test]
    fn a_suffix_longer_than_the_file_is_the_file() {
        assert_eq!(parse("bytes=-3", 10), Wanted::Part(7..10));
        assert_eq!(parse("bytes=-300", 10), Wanted::Part(0..10));
    }

    #[test]
    fn what_does_not_exist_is_unsatisfiable() {
        for value in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(parse(value, 10), Wanted::Unsatisfiable, "{value}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn anything_else_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=184467440737095516160-18446744073709551616",
            "bytes=010-9",
            "bytes=+1-2",
            "bytes=0-1,4-5",
            "lines=1-2",
        ] {
            assert_eq!(parse(value, 10), Wanted::Whole, "{value}");
        }
    }
}
