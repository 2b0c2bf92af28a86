//! Any text as a `Range` header, against a reading of RFC 9110, section 14, word by word.
//!
//! The command is a program without a library, so the file of the parser is included here as it is.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../cli/src/files/range.rs"]
mod range;

use range::{Wanted, parse};

/// Digits as a number; one that is too large for the file is as good as the largest.
fn number(text: &str) -> Option<u128> {
    let digits = !text.is_empty() && text.chars().all(|digit| digit.is_ascii_digit());
    let digits = digits.then(|| text.trim_start_matches('0'))?;
    Some(if digits.len() > 30 { u128::MAX / 2 } else { digits.parse().unwrap_or(0) })
}

fn reference(value: &str, len: u64) -> Option<(u128, u128)> {
    let (unit, spec) = value.split_once('=')?;
    let spec = spec.trim();
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let len = u128::from(len);
    let (first, last) = spec.split_at(spec.find('-')?);
    let last = &last[1..];
    if first.is_empty() {
        return Some((len - number(last)?.min(len), len));
    }
    if last.is_empty() {
        return Some((number(first)?, len));
    }
    // Numbers of any length.
    let width = first.len().max(last.len());
    let in_order = format!("{first:0>width$}") <= format!("{last:0>width$}");
    let (first, last) = (number(first)?, number(last)?);
    in_order.then(|| (first, (last + 1).min(len)))
}

fuzz_target!(|input: (u64, &str)| {
    let (len, value) = input;
    let expected = reference(value, len);
    match parse(value, len) {
        Wanted::Part(part) => {
            assert!(part.start < part.end && part.end <= len);
            assert_eq!(expected, Some((part.start.into(), part.end.into())));
        }
        Wanted::Unsatisfiable => {
            let (start, end) = expected.unwrap();
            assert!(start >= end, "{start}..{end}");
        }
        Wanted::Whole => assert_eq!(expected, None),
    }
});
