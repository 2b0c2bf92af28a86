use std::net::IpAddr;
use std::num::NonZeroU16;

use underpass_devices::PartialChecksum;

/// One IP packet about to be written: everything that must be known before its bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    /// Final destination, as in the IP header.
    pub(crate) dst: IpAddr,
    /// Length of the whole IP packet in bytes.
    pub(crate) len: usize,
    /// The writer leaves the pseudo-header sum in this field, and somebody below completes it.
    /// Offsets count from the IP header.
    pub(crate) checksum: Option<PartialChecksum>,
    /// A TCP packet to be cut, by the device or for it.
    pub(crate) segment: Option<Segment>,
    /// The packet goes out whole even if it is longer than its path is known to take.
    pub(crate) dont_fragment: bool,
}

/// How a TCP packet larger than its path takes is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Payload bytes per packet on the wire.
    pub(crate) size: NonZeroU16,
    /// IP and TCP header in bytes, options included.
    pub(crate) header_len: u16,
}

/// Where engines and protocols put IP packets: the link below resolves the next hop and writes the
/// packet straight into a transmit slot.
pub(crate) trait Output {
    /// False if the next packet that leaves by `interface` would find no slot.
    fn has_room(&self, interface: usize) -> bool;

    /// The interface that packets to `dst` leave by. `None`: there is no route.
    fn interface_to(&self, dst: IpAddr) -> Option<usize>;

    /// Longest IP packet that reaches `dst` whole, as far as routers have told; `usize::MAX` if they
    /// have not.
    fn path_mtu(&self, dst: IpAddr) -> usize;

    /// Lends `packet.len` bytes to `write`. `None`: there is no slot or no route, and `write` was not
    /// called. Every packet that is lost, here or later, is counted below.
    fn packet<R>(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8]) -> R) -> Option<R>;
}
