use underpass_devices::Selector;
use zerocopy::network_endian::{U16, U32, U64};

use crate::header::Checksum;

/// "Local Experimental EtherType 1" (IEEE 802-2014 §9.2.3).
const ETHER_TYPE: u16 = 0x88b5;

pub(super) const VERSION: u8 = 1;
/// Sent once per interval.
pub(super) const BEACON: u8 = 1;
/// A beacon out of turn, which asks for those of the others.
pub(super) const SOLICITATION: u8 = 2;
/// A beacon out of turn, because somebody has asked.
pub(super) const ANSWER: u8 = 3;
/// The last one.
pub(super) const GOODBYE: u8 = 4;

// Wireshark has a "beacon" already.
crate::header! {
    /// Beacon: who is on this segment
    pub struct BeaconHeader("underpass.beacon", Selector::EtherType(ETHER_TYPE)) {
        /// Of this format: 1
        pub version: u8,
        /// 1: beacon, 2: solicitation, 3: answer, 4: goodbye
        pub kind: u8,
        /// Internet checksum of header and lists
        pub checksum: Checksum,
        /// Greater in each run of the station
        pub incarnation: U64,
        /// Number of the frame in this run
        pub sequence: U32,
        /// Mean time between two beacons, in milliseconds
        pub interval: U32,
        /// Shards that the station has
        pub shards: U16,
        /// Number of IPv4 addresses that follow
        pub ipv4: u8,
        /// Number of IPv6 addresses behind them
        pub ipv6: u8,
        /// Number of services behind these, each two bytes
        pub services: u8,
        /// Sent as 0, not looked at
        pub reserved: [u8; 3],
    }
}
