//! One slot of a TPACKET_V2 receive ring: `tpacket2_hdr`, `sockaddr_ll`, `virtio_net_hdr`, frame.

use underpass_devices::{Instant, RxChecksum, RxMeta};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::vnet_hdr;

/// Value of the option PACKET_VERSION.
pub(super) const TPACKET_V2: u32 = 1;
/// Bytes of a slot: a superframe of 64 KiB with all headers, rounded up to whole pages of 4 KiB. An
/// odd number of pages, so that equal offsets of neighbouring slots share no cache set.
pub(super) const SLOT_LEN: usize = 17 * 4096;

/// `tp_status`: the kernel owns the slot.
pub(super) const TP_STATUS_KERNEL: u32 = 0;
/// `tp_status`: the slot holds a frame for us.
pub(super) const TP_STATUS_USER: u32 = 1;
/// `tp_status`: frames were dropped since the statistics were last read.
pub(super) const TP_STATUS_LOSING: u32 = 1 << 2;

/// Where the frame of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// Offset of the first byte of the frame in the slot.
    pub(super) start: usize,
    /// Its bytes.
    pub(super) len: usize,
    pub(super) meta: RxMeta,
}

/// Why a slot goes back unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// This machine sent the frame.
    Outgoing,
    /// Truncated, shorter than an Ethernet header, or at odds with the slot or with itself.
    Malformed,
}

/// Reads a slot that the kernel has handed over. A VLAN tag, which the kernel keeps beside the
/// frame, is put back into it.
pub(super) fn read(slot: &mut [u8]) -> Result<Received, Rejected> {
    let (header, _) = SlotHeader::read_from_prefix(slot).map_err(|_| Rejected::Malformed)?;
    if header.packet_type == libc::PACKET_OUTGOING {
        return Err(Rejected::Outgoing);
    }
    let mut received = locate(&header, slot).ok_or(Rejected::Malformed)?;
    received.meta.timestamp =
        Some(Instant::from_nanos(u64::from(header.sec) * 1_000_000_000 + u64::from(header.nsec)));
    if header.status & TP_STATUS_VLAN_VALID != 0 {
        restore_vlan_tag(&header, slot, &mut received).ok_or(Rejected::Malformed)?;
    }
    Ok(received)
}

const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
const TP_STATUS_CSUM_VALID: u32 = 1 << 7;

const ETHERNET_HEADER_LEN: usize = 14;
const MAC_ADDRESSES_LEN: usize = 12;
const VLAN_TAG_LEN: usize = 4;
const ETH_P_8021Q: u16 = 0x8100;

/// `struct tpacket2_hdr`, and `struct sockaddr_ll` at the next multiple of 16.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
#[cfg_attr(test, derive(zerocopy::IntoBytes))]
struct SlotHeader {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    sec: u32,
    nsec: u32,
    vlan_tci: u16,
    vlan_tpid: u16,
    padding: [u8; 4],
    family: u16,
    protocol: u16,
    interface: i32,
    hardware_type: u16,
    packet_type: u8,
    address_len: u8,
    address: [u8; 8],
}

fn locate(header: &SlotHeader, slot: &[u8]) -> Option<Received> {
    let (start, len) = (usize::from(header.mac), header.snaplen as usize);
    let before = start.checked_sub(vnet_hdr::LEN)?;
    let end = start.checked_add(len)?;
    if before < size_of::<SlotHeader>()
        || end > slot.len()
        || header.len != header.snaplen
        || len < ETHERNET_HEADER_LEN
    {
        return None;
    }
    let vnet_hdr = slot.get(before..start)?.try_into().ok()?;
    let mut meta = vnet_hdr::decode(vnet_hdr, len).ok()?;
    if header.status & TP_STATUS_CSUM_VALID != 0 && meta.checksum == RxChecksum::Unverified {
        meta.checksum = RxChecksum::Valid;
    }
    Some(Received { start, len, meta })
}

/// Moves the MAC addresses over the virtio_net_hdr, which has been read, and writes the tag behind
/// them.
fn restore_vlan_tag(header: &SlotHeader, slot: &mut [u8], received: &mut Received) -> Option<()> {
    let tpid =
        if header.status & TP_STATUS_VLAN_TPID_VALID == 0 { ETH_P_8021Q } else { header.vlan_tpid };
    let start = received.start - VLAN_TAG_LEN;
    let head = slot.get_mut(start..received.start + MAC_ADDRESSES_LEN)?;
    head.copy_within(VLAN_TAG_LEN.., 0);
    let tag = head.get_mut(MAC_ADDRESSES_LEN..)?;
    tag[..2].copy_from_slice(&tpid.to_be_bytes());
    tag[2..].copy_from_slice(&header.vlan_tci.to_be_bytes());
    received.start = start;
    received.len += VLAN_TAG_LEN;
    if let RxChecksum::Partial(partial) = &mut received.meta.checksum {
        partial.start = partial.start.checked_add(VLAN_TAG_LEN as u16)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use underpass_devices::{PartialChecksum, TxMeta};
    use zerocopy::IntoBytes;

    use super::*;

    const MAC: usize = 76;

    fn header(len: u32) -> SlotHeader {
        SlotHeader {
            status: TP_STATUS_USER,
            len,
            snaplen: len,
            mac: MAC as u16,
            net: MAC as u16 + 14,
            sec: 3,
            nsec: 7,
            vlan_tci: 0,
            vlan_tpid: 0,
            padding: [0; 4],
            family: libc::AF_PACKET as u16,
            protocol: 0,
            interface: 1,
            hardware_type: 1,
            packet_type: 0,
            address_len: 6,
            address: [0; 8],
        }
    }

    fn slot(header: &SlotHeader, meta: &TxMeta) -> Vec<u8> {
        let mut slot = vec![0; 2048];
        slot[..size_of::<SlotHeader>()].copy_from_slice(header.as_bytes());
        slot[MAC - vnet_hdr::LEN..MAC].copy_from_slice(&vnet_hdr::encode(meta));
        for (i, byte) in slot[MAC..].iter_mut().enumerate() {
            *byte = i as u8;
        }
        slot
    }

    #[test]
    fn a_frame_is_where_the_header_says() {
        let received = read(&mut slot(&header(60), &TxMeta::default())).unwrap();
        assert_eq!((received.start, received.len), (MAC, 60));
        assert_eq!(received.meta.timestamp, Some(Instant::from_nanos(3_000_000_007)));
    }

    #[test]
    fn a_vlan_tag_is_put_back_into_the_frame() {
        let mut header = header(60);
        header.status |= TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID;
        header.vlan_tpid = 0x88a8;
        header.vlan_tci = 0x2042;
        let partial = PartialChecksum { start: 34, offset: 16 };
        let mut slot = slot(&header, &TxMeta { checksum: Some(partial), segmentation: None });
        let received = read(&mut slot).unwrap();
        assert_eq!(received.len, 64);
        let frame = &slot[received.start..received.start + received.len];
        let addresses: Vec<u8> = (0..12).collect();
        assert_eq!(frame[..12], addresses);
        assert_eq!(frame[12..16], [0x88, 0xa8, 0x20, 0x42]);
        assert_eq!(frame[16], 12);
        let start = 38;
        assert_eq!(
            received.meta.checksum,
            RxChecksum::Partial(PartialChecksum { start, ..partial })
        );
    }

    #[test]
    fn slots_that_lie_are_refused() {
        let cases: [fn(&mut SlotHeader); 6] = [
            |h| h.snaplen = 59,
            |h| (h.len, h.snaplen) = (13, 13),
            |h| (h.len, h.snaplen) = (2048, 2048),
            |h| (h.len, h.snaplen) = (u32::MAX, u32::MAX),
            |h| h.mac = 61,
            |h| h.mac = 0,
        ];
        for change in cases {
            let mut header = header(60);
            change(&mut header);
            let result = read(&mut slot(&header, &TxMeta::default()));
            assert_eq!(result, Err(Rejected::Malformed));
        }
        assert_eq!(read(&mut []), Err(Rejected::Malformed));
    }

    #[test]
    fn frames_of_this_machine_are_told_apart() {
        let mut header = header(60);
        header.packet_type = libc::PACKET_OUTGOING;
        let result = read(&mut slot(&header, &TxMeta::default()));
        assert_eq!(result, Err(Rejected::Outgoing));
    }

    proptest! {
        #[test]
        fn no_slot_leads_outside_itself(mut slot in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(received) = read(&mut slot) {
                prop_assert!(received.start + received.len <= slot.len());
            }
        }

        #[test]
        fn no_plausible_slot_leads_outside_itself(
            status: u32, len in 0u32..500, mac in 50u16..500, mut slot in
            proptest::collection::vec(any::<u8>(), 60..400),
        ) {
            let header = SlotHeader { status, mac, ..header(len) };
            slot[..size_of::<SlotHeader>()].copy_from_slice(header.as_bytes());
            if let Ok(received) = read(&mut slot) {
                prop_assert!(received.start + received.len <= slot.len());
            }
        }
    }
}
