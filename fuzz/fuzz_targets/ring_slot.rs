//! Slots of an AF_PACKET ring as a hostile kernel writes them, and what is done with the frame in
//! one: it lies in the slot, and so does everything that is said about it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use underpass_devices::segment::complete_checksum;
use underpass_devices::{Medium, PacketKey, RxChecksum};
use underpass_drivers::fuzzing::{decode_vnet_header, packet_slot};

/// Bytes of `struct tpacket2_hdr` and `struct sockaddr_ll`.
const HEADER_LEN: usize = 52;
const STATUS_VLAN_VALID: u8 = 1 << 4;

fuzz_target!(|input: (u16, &[u8])| {
    // Most of a slot is frame, which need not be in the input.
    let (room, written) = input;
    let mut slot = written.to_vec();
    slot.resize(written.len().max(usize::from(room) % 4096), 0x5a);
    let before = slot.clone();
    if let Some((frame, meta)) = packet_slot(&mut slot) {
        assert!(frame.start >= HEADER_LEN && frame.end <= slot.len(), "{frame:?}");
        assert!(frame.len() >= 14);
        let tagged = before[0] & STATUS_VLAN_VALID != 0;
        let (head, tag) = if tagged { (frame.start + 4, 4) } else { (frame.start, 0) };
        let bytes = &slot[frame.clone()];
        assert_eq!(bytes[..12], before[head..head + 12], "the addresses");
        assert_eq!(bytes[12 + tag..], before[head + 12..frame.end], "what is behind them");
        if tagged {
            let tci = u16::from_ne_bytes([before[24], before[25]]);
            assert_eq!(bytes[14..16], tci.to_be_bytes());
        }
        if let RxChecksum::Partial(partial) = meta.checksum {
            let end = usize::from(partial.start) + usize::from(partial.offset) + 2;
            assert!(end <= bytes.len(), "{partial:?} of {} bytes", bytes.len());
            let mut copy = bytes.to_vec();
            assert_eq!(complete_checksum(&mut copy, partial), Ok(()));
        }
        let _ = PacketKey::of_frame(Medium::Ethernet, bytes);
    } else if before.len() < HEADER_LEN || before[0] & STATUS_VLAN_VALID == 0 {
        assert_eq!(slot, before, "a slot that goes back unread");
    }
    // TAP writes the same header in front of a frame.
    if let Some((header, frame)) = written.split_first_chunk()
        && let Some(meta) = decode_vnet_header(*header, frame.len())
        && let RxChecksum::Partial(partial) = meta.checksum
    {
        assert!(usize::from(partial.start) + usize::from(partial.offset) + 2 <= frame.len());
    }
});
