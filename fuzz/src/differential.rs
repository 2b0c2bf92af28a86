//! What several parsers say of the same bytes.
//!
//! The first one is the reference. Whoever says something else needs a [`Class`] that is recorded in
//! `FINDINGS.md` under its name and explains it; any other difference is a crash.

use std::fmt::Debug;

/// What one parser says. `None`: the bytes are not valid.
pub type Says<T> = (&'static str, Option<T>);

/// A known difference.
pub struct Class<T> {
    /// Its heading in `FINDINGS.md`.
    pub name: &'static str,
    /// Whose it is.
    pub parser: &'static str,
    /// Whether it explains what the parser says (the third argument) of the bytes, where the
    /// reference says the second.
    pub explains: fn(&[u8], Option<&T>, Option<&T>) -> bool,
}

/// Panics if a parser differs from the first one without a reason.
pub fn compare<T: PartialEq + Debug>(bytes: &[u8], all: &[Says<T>], classes: &[Class<T>]) {
    let ((reference, expected), others) = all.split_first().unwrap();
    for (parser, says) in others.iter().filter(|(_, says)| says != expected) {
        let mut known = classes.iter().filter(|class| class.parser == *parser);
        assert!(
            known.any(|class| (class.explains)(bytes, expected.as_ref(), says.as_ref())),
            "{bytes:02x?}\n{reference} says {expected:#?}\n{parser} says {says:#?}"
        );
    }
}

/// The ones' complement sum of 16-bit words, word by word.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
