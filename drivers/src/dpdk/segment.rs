//! Where the bytes of a received frame are. A poll-mode driver writes it into mbufs, from what a device or
//! a peer process has said; nothing is read that is not within a buffer.

use std::ops::Range;

/// What an mbuf says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes of its buffer.
    pub(super) buf_len: u16,
    /// Where its data begin in the buffer.
    pub(super) data_off: u16,
    /// How many there are.
    pub(super) data_len: u16,
}

/// Longest frame: what IP can say, behind an Ethernet header with a tag.
pub(super) const MAX_FRAME: usize = 18 + 65_535;
/// Most segments of a frame.
pub(super) const MAX_SEGMENTS: usize = 128;

impl Segment {
    /// Its data in the buffer; `None`: they go beyond it.
    pub(super) fn range(self) -> Option<Range<usize>> {
        let start = usize::from(self.data_off);
        let end = start + usize::from(self.data_len);
        (end <= usize::from(self.buf_len)).then_some(start..end)
    }
}

/// Adds up the segments of a frame as they are found.
#[derive(Debug, Default)]
pub(super) struct Chain {
    segments: usize,
    len: usize,
}

impl Chain {
    /// The next segment: where its data are. `None`: the frame is malformed.
    pub(super) fn push(&mut self, segment: Segment) -> Option<Range<usize>> {
        let range = segment.range()?;
        self.segments += 1;
        self.len += range.len();
        (self.segments <= MAX_SEGMENTS && self.len <= MAX_FRAME).then_some(range)
    }

    /// Whether these are all, as the first one has said. Every frame has an Ethernet header.
    pub(super) fn is_whole(&self, nb_segs: u16, pkt_len: u32) -> bool {
        self.segments == usize::from(nb_segs) && self.len == pkt_len as usize && self.len >= 14
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Segment = Segment { buf_len: 2176, data_off: 128, data_len: 1514 };

    #[test]
    fn what_is_within_the_buffer_is_believed() {
        assert_eq!(FIRST.range(), Some(128..1642));
        assert_eq!(Segment { data_len: 2048, ..FIRST }.range(), Some(128..2176));
        assert_eq!(Segment { data_len: 2049, ..FIRST }.range(), None);
        assert_eq!(Segment { data_off: 65_535, data_len: 65_535, ..FIRST }.range(), None);
    }

    #[test]
    fn a_chain_has_as_many_segments_and_bytes_as_it_says() {
        let mut chain = Chain::default();
        assert!(chain.push(FIRST).is_some());
        assert!(chain.is_whole(1, 1514));
        assert!(chain.push(Segment { data_len: 100, ..FIRST }).is_some());
        assert!(chain.is_whole(2, 1614));
        assert!(!chain.is_whole(3, 1614));
        assert!(!chain.is_whole(2, 1613));
    }

    #[test]
    fn a_chain_that_does_not_end_is_malformed() {
        let mut chain = Chain::default();
        let short = Segment { data_len: 0, ..FIRST };
        assert!((0..MAX_SEGMENTS).all(|_| chain.push(short).is_some()));
        assert_eq!(chain.push(short), None);
        let mut chain = Chain::default();
        let full = Segment { data_len: 2048, ..FIRST };
        assert!((0..32).all(|_| chain.push(full).is_some()));
        assert_eq!(chain.push(full), None);
    }
}
