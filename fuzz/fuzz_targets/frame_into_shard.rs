//! Any frames into a shard that has a socket of every kind, a connection, and clients that wait for
//! answers. Afterwards all counts add up and a new connection works.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use underpass_fuzz::frames::{decode, meta};
use underpass_fuzz::station::{PEER_PORT, Station};

fuzz_target!(|input: &[u8]| {
    let mut station = Station::busy();
    let (_, stream) = station.handshake(false, 2, PEER_PORT).unwrap();
    station.streams.push(stream);
    for frame in decode(input) {
        if frame.wait {
            station.run_for(Duration::from_millis(700));
        }
        if frame.read {
            station.read_all();
        }
        station.inject(&frame.bytes, meta(&frame.bytes, frame.vouch));
        station.check();
    }
    station.run_for(Duration::from_millis(10));
    station.check_service(false);
    station.check_service(true);
    station.check();
});
