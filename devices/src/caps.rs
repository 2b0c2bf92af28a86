use crate::{FlowHash, MacAddr, SegmentKind, TxMeta};

/// Longest superframe of the devices in memory: an Ethernet header and the longest IP packet.
pub(crate) const MAX_SUPERFRAME: usize = 14 + 65_535;

/// What a frame of a device begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A 14-byte Ethernet II header without the frame check sequence.
    Ethernet,
    /// The IP header itself.
    Ip,
}

/// What a device can do. Fixed once the device is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// What a frame begins with.
    pub medium: Medium,
    /// The station's own address; meaningless on [`Medium::Ip`].
    pub mac: MacAddr,
    /// The kernel is a station on the same link with the same MAC address: what is made of it, such
    /// as IPv6 interface identifiers, must not be what the kernel makes.
    pub shares_mac: bool,
    /// Largest IP packet the link carries in one frame, in bytes (Linux's meaning of MTU: without
    /// the Ethernet header).
    pub mtu: usize,
    /// The device completes a [`PartialChecksum`](crate::PartialChecksum) of TCP and UDP on send.
    pub tx_checksum: bool,
    /// Longest frame, headers included, that the device segments on send over IPv4; `None`: it
    /// takes nothing larger than the MTU. Implies `tx_checksum`.
    pub tx_segment_tcp4: Option<usize>,
    /// The same over IPv6.
    pub tx_segment_tcp6: Option<usize>,
    /// Received frames may be longer than the MTU (coalesced by the sender, kernel or NIC).
    pub rx_coalesced: bool,
    /// The hash by which the device, as one queue of several, puts received frames on queues: the
    /// queue of a frame is the hash of its flow modulo the number of queues
    /// ([`Steering`](crate::Steering)). `None`: a single queue, or nobody can tell which queue a
    /// flow will be on.
    pub steering: Option<FlowHash>,
}

impl Caps {
    /// An Ethernet device without any offload.
    pub const fn ethernet(mac: MacAddr, mtu: usize) -> Self {
        Self {
            medium: Medium::Ethernet,
            mac,
            shares_mac: false,
            mtu,
            tx_checksum: false,
            tx_segment_tcp4: None,
            tx_segment_tcp6: None,
            rx_coalesced: false,
            steering: None,
        }
    }

    /// The same device with checksum and TCP segmentation offload both ways, for frames of up to
    /// `max_frame` bytes.
    #[must_use]
    pub const fn with_offloads(self, max_frame: usize) -> Self {
        Self {
            tx_checksum: true,
            tx_segment_tcp4: Some(max_frame),
            tx_segment_tcp6: Some(max_frame),
            rx_coalesced: true,
            ..self
        }
    }

    /// Bytes in front of the IP header: 14 on Ethernet, 0 on IP.
    pub const fn header_len(&self) -> usize {
        match self.medium {
            Medium::Ethernet => 14,
            Medium::Ip => 0,
        }
    }

    /// Longest frame that may be sent without segmentation: header and MTU.
    pub const fn max_frame(&self) -> usize {
        self.header_len() + self.mtu
    }

    /// Longest frame that may be sent at all, with segmentation if the device has it.
    pub fn max_tx_frame(&self) -> usize {
        self.max_frame()
            .max(self.tx_segment_tcp4.unwrap_or(0))
            .max(self.tx_segment_tcp6.unwrap_or(0))
    }

    /// True if a device with these capabilities takes a frame of `len` bytes with `meta`: long
    /// enough for its headers, not too long, and no offload asked for that the device does not
    /// have. What it does not take is [`SendError::Unsupported`](crate::SendError::Unsupported).
    pub fn takes(&self, len: usize, meta: &TxMeta) -> bool {
        let checksum_fits = meta.checksum.is_none_or(|sum| {
            self.tx_checksum && usize::from(sum.start) + usize::from(sum.offset) + 2 <= len
        });
        let longest = match meta.segmentation {
            None => self.max_frame(),
            Some(cut) => {
                let limit = match cut.kind {
                    SegmentKind::Tcp4 => self.tx_segment_tcp4,
                    SegmentKind::Tcp6 => self.tx_segment_tcp6,
                };
                let headers = usize::from(cut.header_len);
                let segment = headers + usize::from(cut.size.get());
                if meta.checksum.is_none() || headers > len || segment > self.max_frame() {
                    return false;
                }
                limit.unwrap_or(0)
            }
        };
        checksum_fits && (self.header_len()..=longest).contains(&len)
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use super::*;
    use crate::{PartialChecksum, Segmentation};

    const CHECKSUM: PartialChecksum = PartialChecksum { start: 34, offset: 16 };

    fn tso(size: u16) -> TxMeta {
        TxMeta {
            checksum: Some(CHECKSUM),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Tcp4,
                size: NonZeroU16::new(size).unwrap(),
                header_len: 54,
            }),
        }
    }

    #[test]
    fn a_plain_device_takes_complete_frames_of_header_to_mtu() {
        let caps = Caps::ethernet(MacAddr::local(1), 1500);
        let plain = TxMeta::default();
        let lengths = [13, 14, 1514, 1515];
        assert_eq!(lengths.map(|len| caps.takes(len, &plain)), [false, true, true, false]);
        assert!(!caps.takes(100, &TxMeta { checksum: Some(CHECKSUM), ..plain }));
        assert!(!caps.takes(100, &tso(1460)));
    }

    #[test]
    fn an_offloading_device_takes_requests_that_fit_the_frame() {
        let caps = Caps::ethernet(MacAddr::local(1), 1500).with_offloads(65_549);
        let checksum = TxMeta { checksum: Some(CHECKSUM), segmentation: None };
        assert_eq!([51, 52, 1515].map(|len| caps.takes(len, &checksum)), [false, true, false]);
        assert_eq!(
            [53, 54, 65_549, 65_550].map(|len| caps.takes(len, &tso(1460))),
            [false, true, true, false]
        );
        assert!(!caps.takes(9000, &tso(1461)), "segments longer than the MTU");
        assert!(!caps.takes(9000, &TxMeta { checksum: None, ..tso(1460) }));
    }
}
