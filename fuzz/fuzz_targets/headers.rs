//! Any bytes as headers that `header!` has declared: those of the protocols that we ship, and one with
//! every type of field. What is emitted is parsed as the same, the other way round as well, and nothing
//! is parsed that is too short.

#![no_main]

use libfuzzer_sys::fuzz_target;
use underpass_devices::Selector;
use underpass_protocols::beacon::BeaconHeader;
use underpass_protocols::courier::{Header, Hello, MessageHeader};
use underpass_protocols::header::{Checksum, fuzz_header};
use underpass_protocols::probe::ProbeHeader;
use zerocopy::network_endian::{U16, U32, U64};

underpass_protocols::header! {
    /// One field of each type, with the checksum in the middle
    struct Every("every", Selector::EtherType(0x88b5)) {
        one: u8,
        bytes: [u8; 3],
        two: U16,
        checksum: Checksum,
        four: U32,
        eight: U64,
        last: u8,
    }
}

fuzz_target!(|bytes: &[u8]| {
    fuzz_header::<ProbeHeader>(bytes);
    fuzz_header::<BeaconHeader>(bytes);
    fuzz_header::<Header>(bytes);
    fuzz_header::<MessageHeader>(bytes);
    fuzz_header::<Hello>(bytes);
    fuzz_header::<Every>(bytes);
});
