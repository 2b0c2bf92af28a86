//! Any bytes in place of a message of the handshake that precedes an RDMA connection, and of a region that
//! a peer offers. What is understood is written as it was read, and no memory leads beyond all addresses.

#![no_main]

use libfuzzer_sys::fuzz_target;
use underpass_drivers::fuzzing::{
    Permissions, RemoteRegion, WireError, rdma_handshake, rdma_refused_token,
};

const MAX_REGIONS: usize = 4;
/// Bytes of a message without a station, and of a station without its regions.
const HEAD: usize = 16;
const STATION: usize = 28;
const READY: u8 = 3;

fuzz_target!(|bytes: &[u8]| {
    match rdma_handshake(bytes, MAX_REGIONS) {
        Ok(written) => {
            assert_eq!(written.len(), bytes.len());
            assert!(written.len() <= HEAD + STATION + MAX_REGIONS * RemoteRegion::LEN);
            // Nothing is said in the detail of this one.
            let detail = if bytes[5] == READY { 6..8 } else { 0..0 };
            let differ = |at: &usize| written[*at] != bytes[*at] && !detail.contains(at);
            assert_eq!((0..bytes.len()).find(differ), None);
            for region in bytes.get(HEAD + STATION..).unwrap_or_default().as_chunks().0 {
                look_at(&RemoteRegion::from_bytes(region).expect("it was accepted"));
            }
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let foreign = error == WireError::NoHandshake;
            assert!(!foreign || rdma_refused_token(bytes).is_none());
        }
    }
    if let Some(Ok(region)) = bytes.first_chunk().map(RemoteRegion::from_bytes) {
        look_at(&region);
        assert_eq!(Some(&region.to_bytes()), bytes.first_chunk());
    }
});

fn look_at(region: &RemoteRegion) {
    assert!(region.len() > 0);
    assert!(Permissions::ALL.contains(region.permissions()));
    let bytes = region.to_bytes();
    let address = u64::from_be_bytes(*bytes.first_chunk().expect("24 bytes"));
    assert!(address.checked_add(region.len()).is_some());
}
