//! The Internet checksum (RFC 1071).
//!
//! A *sum* is the ones' complement sum of big-endian 16-bit words, **not** inverted; a *checksum*
//! is what goes into a header field: the inverted sum.

/// The ones' complement sum of `bytes`, padded with a zero byte if their number is odd.
pub fn sum(bytes: &[u8]) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut lanes = Lanes::default();
    for block in blocks {
        lanes.add(block);
    }
    lanes.finish(rest)
}

/// Copies `from` to `to`, which are of the same length, and sums it in the same pass. Of different
/// lengths, the shorter one counts.
pub fn copy(to: &mut [u8], from: &[u8]) -> u16 {
    let len = to.len().min(from.len());
    let (to, from) = (&mut to[..len], &from[..len]);
    let (to_blocks, to_rest) = to.as_chunks_mut::<BLOCK>();
    let (from_blocks, from_rest) = from.as_chunks::<BLOCK>();
    let mut lanes = Lanes::default();
    for (to, from) in to_blocks.iter_mut().zip(from_blocks) {
        *to = *from;
        lanes.add(from);
    }
    to_rest.copy_from_slice(from_rest);
    lanes.finish(from_rest)
}

/// The sum over two blocks of which the first has an even length, from the sums of each.
pub fn combine(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// A sum of 16-bit or 32-bit words in 16 bits, with end-around carry.
pub fn fold(mut total: u64) -> u16 {
    total = (total >> 32) + (total & 0xffff_ffff);
    total = (total >> 32) + (total & 0xffff_ffff);
    total = (total >> 16) + (total & 0xffff);
    total = (total >> 16) + (total & 0xffff);
    total as u16
}

const BLOCK: usize = 32;

/// Partial sums. Byte order does not matter until the end (RFC 1071 §2B), nor does the width of the
/// words (§2C). 32-bit words in 64-bit lanes cannot overflow, and compile to vector code.
#[derive(Default)]
struct Lanes([u64; BLOCK / 4]);

impl Lanes {
    #[inline]
    fn add(&mut self, block: &[u8; BLOCK]) {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in self.0.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }

    /// The sum with what is left behind the last whole block.
    #[inline]
    fn finish(self, rest: &[u8]) -> u16 {
        let mut total: u64 = self.0.iter().sum();
        let (words, tail) = rest.as_chunks::<4>();
        for word in words {
            total += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        total += u64::from(u32::from_ne_bytes(last));
        fold(total).to_be()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071 §1 says it.
    fn naive(data: &[u8]) -> u16 {
        let mut total = 0_u64;
        for pair in data.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        while total > 0xffff {
            total = (total >> 16) + (total & 0xffff);
        }
        total as u16
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn longest_block_of_ones_does_not_overflow() {
        assert_eq!(sum(&vec![0xff; 1 << 20]), 0xffff);
    }

    proptest! {
        #[test]
        fn sums_as_the_reference(
            data in proptest::collection::vec(any::<u8>(), 0..3000),
            room in 0_usize..3000,
        ) {
            prop_assert_eq!(sum(&data), naive(&data));
            let mut to = vec![0; data.len()];
            prop_assert_eq!(copy(&mut to, &data), naive(&data));
            prop_assert_eq!(&to, &data);
            let len = room.min(data.len());
            let mut to = vec![0; room];
            prop_assert_eq!(copy(&mut to, &data), naive(&data[..len]));
            prop_assert_eq!(&to[..len], &data[..len]);
        }
    }
}
