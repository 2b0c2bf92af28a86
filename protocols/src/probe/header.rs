use underpass_devices::Selector;
use zerocopy::network_endian::{U16, U64};

use crate::header::Checksum;

/// IP protocol number for experimentation and testing (RFC 3692 §2.1).
const IP_PROTOCOL: u8 = 253;

pub(super) const VERSION: u8 = 1;
pub(super) const REQUEST: u8 = 1;
pub(super) const REPLY: u8 = 2;

crate::header! {
    /// Probe: round-trip time and hops of a way
    pub struct ProbeHeader("probe", Selector::ip_protocol(None, IP_PROTOCOL)) {
        /// Of this format: 1
        pub version: u8,
        /// 1: request, 2: reply
        pub kind: u8,
        /// Internet checksum of header and payload
        pub checksum: Checksum,
        /// Chosen by the requester, to tell its requests from those of an earlier run
        pub session: U16,
        /// Number of the request in the session
        pub sequence: U16,
        /// When the request was sent, in nanoseconds on the requester's clock
        pub sent_at: U64,
        /// Time to live or hop limit that this packet was sent with
        pub hop_limit: u8,
        /// Routers on the way of the request; 0 in a request
        pub hops_there: u8,
        /// Sent as 0, not looked at
        pub reserved: U16,
    }
}
