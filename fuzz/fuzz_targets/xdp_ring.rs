//! Descriptors as a hostile kernel writes them into AF_XDP rings: nothing leads to memory that is
//! not ours to read, no chunk is in two hands, and the books balance.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass_devices::{Medium, PacketKey};
use underpass_drivers::fuzzing::{XdpLedger, XdpReceived, partial_checksum};

#[derive(Arbitrary, Debug)]
struct Input {
    /// In kilobytes.
    start: u16,
    large_chunks: bool,
    chunks: u8,
    calls: Vec<Call>,
    frame: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Call {
    Give(Address),
    /// A descriptor of the completion ring.
    Complete(Address),
    /// A descriptor of the receive ring, and its length.
    Receive(Address, u32),
}

#[derive(Arbitrary, Debug)]
enum Address {
    InChunk(u8, u16),
    Any(u64),
}

fuzz_target!(|input: Input| {
    let chunk_len = if input.large_chunks { 4096 } else { 2048 };
    let (start, count) = (usize::from(input.start) * 1024, usize::from(input.chunks));
    let mut ledger = XdpLedger::new(start, chunk_len, count);
    let mut with_kernel = vec![false; count];
    for call in &input.calls {
        let (Call::Give(address) | Call::Complete(address) | Call::Receive(address, _)) = call;
        let address = match *address {
            Address::InChunk(chunk, offset) => {
                start + usize::from(chunk) * chunk_len + usize::from(offset) % chunk_len
            }
            Address::Any(address) => address as usize,
        };
        // Which chunk it is in, found by looking at each.
        let begins = |index: usize| start + index * chunk_len;
        let chunk = (0..count).find(|index| (begins(*index)..begins(index + 1)).contains(&address));
        let held = chunk.filter(|index| with_kernel[*index]);
        let mut set = |chunk: Option<usize>, to| {
            if let Some(index) = chunk {
                with_kernel[index] = to;
            }
        };
        match call {
            Call::Give(_) => {
                ledger.give(address);
                set(chunk, true);
            }
            Call::Complete(_) => {
                assert_eq!(ledger.take_back(address), held);
                set(held, false);
            }
            Call::Receive(_, len) => {
                let received = ledger.receive(address, *len as usize);
                let fits = |index| address + *len as usize <= begins(index + 1);
                let expected = match held {
                    Some(index) if fits(index) => XdpReceived::Frame(index),
                    Some(_) => XdpReceived::TooLong,
                    None => XdpReceived::NotGiven,
                };
                assert_eq!(received, expected);
                set(held, false);
            }
        }
        assert_eq!(ledger.given(), with_kernel.iter().filter(|held| **held).count());
    }
    if let Some(partial) = partial_checksum(&input.frame) {
        assert!(usize::from(partial.start) + usize::from(partial.offset) + 2 <= input.frame.len());
    }
    let _ = PacketKey::of_frame(Medium::Ethernet, &input.frame);
});
