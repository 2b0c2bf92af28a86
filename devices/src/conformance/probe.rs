//! The frames of the kit.

use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::MacAddr;

/// IEEE 802 Local Experimental EtherType 1.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const HEADER_LEN: usize = 14;
/// Ethernet pads to this length (without the frame check sequence).
const MIN_WIRE_LEN: usize = 60;

/// The frames of one case. Each is known by its source address, so that a frame of 14 bytes is
/// known too: 02, the number of the case (2 bytes), the number of the frame (3 bytes).
#[derive(Debug)]
pub(super) struct Probes {
    case: [u8; 2],
    frames: Vec<Content>,
}

#[derive(Debug)]
enum Content {
    /// A length; the bytes follow from the number.
    Pattern(usize),
    /// The bytes themselves, checked by their case.
    Custom,
}

impl Probes {
    pub(super) fn new() -> Self {
        // Cases of tests that run side by side on one link differ too.
        static CASES: AtomicU16 = AtomicU16::new(0);
        let number = CASES.fetch_add(1, Ordering::Relaxed);
        let process = (process::id() as u16).wrapping_mul(97);
        Self { case: process.wrapping_add(number).to_be_bytes(), frames: Vec::new() }
    }

    /// Number of the next frame.
    pub(super) fn next(&self) -> usize {
        self.frames.len()
    }

    /// A new frame of `len` bytes, at least 14, and its number.
    pub(super) fn make(&mut self, dst: MacAddr, len: usize) -> (usize, Vec<u8>) {
        let seq = self.frames.len();
        self.frames.push(Content::Pattern(len));
        (seq, self.bytes(dst, seq, len))
    }

    /// The source address of a new frame whose bytes the case makes and checks itself.
    pub(super) fn make_custom(&mut self) -> (usize, MacAddr) {
        let seq = self.frames.len();
        self.frames.push(Content::Custom);
        (seq, self.source(seq))
    }

    /// The number of the frame, if it is one of these.
    pub(super) fn recognise(&self, frame: &[u8]) -> Option<usize> {
        let source = frame.get(6..12)?;
        let [2, c0, c1, s0, s1, s2] = *source else {
            return None;
        };
        let seq = usize::from(s0) << 16 | usize::from(s1) << 8 | usize::from(s2);
        ([c0, c1] == self.case && seq < self.frames.len()).then_some(seq)
    }

    /// The number of the frame, if it is one of these, or what is wrong with it.
    pub(super) fn check(&self, frame: &[u8]) -> Result<Option<usize>, String> {
        let Some(seq) = self.recognise(frame) else {
            return Ok(None);
        };
        let Some(&Content::Pattern(len)) = self.frames.get(seq) else {
            return Ok(Some(seq));
        };
        let expected = self.bytes(MacAddr::default(), seq, len);
        let longest = len.max(MIN_WIRE_LEN);
        if frame.len() < len || frame.len() > longest {
            return Err(format!("frame {seq} of {len} bytes arrived with {}", frame.len()));
        }
        let pairs = frame.iter().zip(&expected).enumerate().skip(6);
        match pairs.filter(|(_, (got, want))| got != want).map(|(at, _)| at).next() {
            Some(at) => Err(format!("frame {seq} of {len} bytes arrived with byte {at} changed")),
            None => Ok(Some(seq)),
        }
    }

    fn source(&self, seq: usize) -> MacAddr {
        let [c0, c1] = self.case;
        MacAddr([2, c0, c1, (seq >> 16) as u8, (seq >> 8) as u8, seq as u8])
    }

    fn bytes(&self, dst: MacAddr, seq: usize, len: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(len);
        frame.extend(dst.0);
        frame.extend(self.source(seq).0);
        frame.extend(ETHERTYPE);
        // A frame that took over another one's payload, or a part of it, does not look right.
        frame.extend((HEADER_LEN..len).map(|at| (seq * 31 + at * 7 + at / 256 * 13) as u8));
        frame
    }
}
