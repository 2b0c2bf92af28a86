//! Words as a hostile kernel module writes them into its rings, between calls of one that does as it
//! should: no frame is in two hands, none leads outside, and the books balance. As long as nothing
//! hostile was written, frames arrive whole, and in order.

#![no_main]

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass_devices::SendError;
use underpass_drivers::fuzzing::KringRings;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Frames each way: two to the power of one more.
    slots: u8,
    calls: Vec<Call>,
}

#[derive(Arbitrary, Debug)]
enum Call {
    /// The module does as it should.
    Deliver(u8),
    Transmit,
    /// It claims what it likes.
    Claim(u8, [u32; 4]),
    /// It writes into the control words, or anywhere.
    Control(u8, u32),
    Add(u8, i8),
    Anywhere(u16, u32),
    /// We go on.
    Receive,
    Send(u16),
    Flush,
}

/// Control words are on cache lines of their own, eleven of them.
const LINE: usize = 16;
const CONTROLS: usize = 11;

fuzz_target!(|input: Input| {
    let slots = 2 << (input.slots % 5);
    let mut rings = KringRings::new(slots).unwrap();
    let words = rings.words();
    let mut honest = true;
    let (mut arriving, mut leaving) = (VecDeque::new(), VecDeque::new());
    for call in input.calls {
        match call {
            Call::Deliver(len) => {
                let frame = vec![len; usize::from(len).max(14)];
                if rings.deliver(&frame) {
                    arriving.push_back(frame);
                }
            }
            Call::Transmit => {
                let sent = rings.transmit();
                // What was not flushed is not there yet.
                if honest && let Some(sent) = sent {
                    assert_eq!(Some(sent.len()), leaving.pop_front());
                }
            }
            Call::Claim(number, rest) => {
                honest = false;
                rings.claim([number.into(), rest[0], rest[1], rest[2], rest[3]]);
            }
            Call::Control(at, value) => {
                honest = false;
                words[usize::from(at) % CONTROLS * LINE].store(value, Ordering::Relaxed);
            }
            Call::Add(at, step) => {
                honest = false;
                let word = &words[usize::from(at) % CONTROLS * LINE];
                word.fetch_add(i32::from(step) as u32, Ordering::Relaxed);
            }
            Call::Anywhere(at, value) => {
                honest = false;
                words[usize::from(at) % words.len()].store(value, Ordering::Relaxed);
            }
            Call::Receive => {
                let mut places = HashSet::new();
                let result = rings.receive(|place, bytes| {
                    assert!(places.insert(place) && bytes.len() <= 2048 && bytes.len() >= 14);
                    let expected = arriving.pop_front();
                    assert!(!honest || expected.as_deref() == Some(bytes));
                    bytes.fill(0);
                });
                assert!(!honest || (result.is_ok() && arriving.is_empty()));
            }
            Call::Send(len) => {
                let len = usize::from(len);
                match rings.send(len, |_| {}) {
                    Ok(()) => leaving.push_back(len),
                    Err(SendError::Full) => assert!(!honest || rings.buffers().tx_free == 0),
                    Err(SendError::Unsupported) => assert!(!(14..=1514).contains(&len)),
                }
            }
            Call::Flush => {
                let result = rings.flush();
                assert!(!honest || result.is_ok());
            }
        }
        let buffers = rings.buffers();
        assert!(buffers.add_up(), "{buffers:?}");
        assert_eq!((buffers.rx_total, buffers.tx_total), (slots as usize, slots as usize));
    }
});
