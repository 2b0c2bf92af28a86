//! Packets that a link does not take whole.

use std::net::IpAddr;
use std::num::NonZeroU16;

use underpass_devices::segment::segment;
use underpass_devices::{Segmentation, TxMeta, TxQueue};

use super::{Hop, Out, ether_type_of, segmentation};
use crate::checksum;
use crate::fragment;
use crate::output::{Outgoing, Output, Segment};
use crate::packet::Packet;
use crate::stats::DropReason;

/// Offset of the checksum field in a TCP header; no other protocol's is there.
const TCP_CHECKSUM_AT: u16 = 16;

impl<T: TxQueue> Out<'_, T> {
    /// A packet that the device or the path does not take whole: a TCP superframe that the device does
    /// not cut, or that was made for another interface before the route changed, becomes segments
    /// that fit; any other packet IP fragments.
    pub(super) fn in_pieces<R>(
        &mut self,
        interface: usize,
        hop: Hop,
        packet: &Outgoing,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let mut whole = vec![0; packet.len];
        let result = write(&mut whole);
        let Some(checksum) = packet.checksum else {
            self.fragments(interface, hop, packet.dst, &whole);
            return result;
        };
        if let Some(cut) = self.segments(interface, packet, &whole) {
            let segmented = segment(&whole, cut, checksum, |piece| {
                self.fragments(interface, hop, packet.dst, piece);
            });
            if segmented.is_err() {
                self.net.drop(DropReason::TxUnsupported);
            }
        } else {
            checksum::complete(&mut whole, checksum);
            self.fragments(interface, hop, packet.dst, &whole);
        }
        result
    }

    /// How a TCP packet is cut so that its segments fit an interface. `None`: it is no TCP.
    fn segments(&self, interface: usize, packet: &Outgoing, whole: &[u8]) -> Option<Segmentation> {
        let checksum = packet.checksum.filter(|sum| sum.offset == TCP_CHECKSUM_AT)?;
        let tcp = whole.get(usize::from(checksum.start)..)?;
        let header_len = checksum.start + u16::from(tcp.get(12)? >> 4) * 4;
        let room = self.net.links[interface].mtu.get().saturating_sub(header_len.into());
        let room = NonZeroU16::new(u16::try_from(room).unwrap_or(u16::MAX))?;
        let size = packet.segment.map_or(room, |cut| cut.size.min(room));
        Some(segmentation(packet.dst, Segment { size, header_len }, 0))
    }

    /// Sends a complete packet, cut into IP fragments if it is above the MTU of the path; TCP is cut
    /// to that already.
    fn fragments(&mut self, interface: usize, hop: Hop, dst: IpAddr, whole: &[u8]) {
        let ether_type = ether_type_of(dst);
        let mtu = self.net.links[interface].mtu.get().min(self.path_mtu(dst));
        if whole.len() <= mtu {
            let write = |slot: &mut [u8]| slot.copy_from_slice(whole);
            return self.piece(interface, hop, ether_type, whole.len(), write);
        }
        let Ok(parsed) = Packet::parse(whole) else {
            return self.net.drop(DropReason::TxUnsupported);
        };
        let id = self.net.fragment_ids.next(parsed.src, parsed.dst);
        let Ok(mut fragments) = fragment::fragment(&parsed, mtu, id) else {
            return self.net.drop(DropReason::TxUnsupported);
        };
        while let Some(fragment) = fragments.next() {
            let write = |slot: &mut [u8]| fragment.write(slot);
            self.piece(interface, hop, ether_type, fragment.len(), write);
        }
    }

    fn piece(
        &mut self,
        interface: usize,
        hop: Hop,
        ether_type: u16,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) {
        let meta = TxMeta::default();
        match hop {
            Hop::Known(mac) => {
                let _counted = self.frame(interface, mac, ether_type, len, meta, write);
            }
            Hop::Asked(hop) => {
                let mut bytes = vec![0; len].into_boxed_slice();
                write(&mut bytes);
                self.wait_for_neighbor(interface, hop, bytes, meta);
            }
        }
    }
}
