use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn station() -> Station {
    Station {
        gid: "::ffff:10.9.0.1".parse::<Ipv6Addr>().unwrap().octets(),
        queue_pair: 0x11,
        first_packet: 0xff_ffff,
        mtu: 4096,
        responder_resources: 16,
        initiator_depth: 1,
        regions: vec![
            RemoteRegion { address: 0x1000, key: 7, len: 4096, permissions: Permissions::NONE },
            RemoteRegion {
                address: 1,
                key: u32::MAX,
                len: u64::MAX - 1,
                permissions: Permissions::ALL,
            },
        ],
    }
}

fn request() -> Vec<u8> {
    Message { token: 0x0102_0304_0506_0708, content: Content::Request(station()) }.to_bytes()
}

#[test]
fn a_request_is_these_bytes() {
    let expected = [
        &b"UPOS\x01\x01\x00\x02\x01\x02\x03\x04\x05\x06\x07\x08"[..],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 9, 0, 1],
        &[0, 0, 0, 0x11, 0, 0xff, 0xff, 0xff, 0x10, 0, 16, 1],
        &[0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 7, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 254],
        &[255, 255, 255, 255, 0, 0, 0, 7],
    ];
    assert_eq!(request(), expected.concat());
}

#[test]
fn every_field_is_checked() {
    let changed = |at: usize, bytes: &[u8]| {
        let mut message = request();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        Message::parse(&message, 64).unwrap_err()
    };
    assert_eq!(changed(0, b"X"), WireError::NoHandshake);
    assert_eq!(changed(4, &[2]), WireError::Version(2));
    assert_eq!(changed(5, &[5]), WireError::Kind(5));
    assert_eq!(changed(6, &[0, 65]), WireError::TooManyRegions { count: 65, max: 64 });
    assert_eq!(changed(6, &[0, 3]), WireError::Length { len: 92, expected: 116 });
    assert_eq!(changed(5, &[3]), WireError::Length { len: 92, expected: 16 });
    let group: Ipv6Addr = "ff02::1".parse().unwrap();
    for gid in ["::", "ff02::1", "::ffff:0.0.0.0", "::ffff:224.0.0.1", "::ffff:255.255.255.255"] {
        let gid: Ipv6Addr = gid.parse().unwrap();
        assert_eq!(changed(16, &gid.octets()), WireError::Gid(gid));
    }
    assert!(WireError::Gid(group).to_string().contains("ff02::1"));
    for pair in [0u32, 1, 0xff_ffff, 0x100_0000] {
        assert_eq!(changed(32, &pair.to_be_bytes()), WireError::QueuePair(pair));
    }
    assert_eq!(changed(36, &[1]), WireError::Packet(0x1ff_ffff));
    for mtu in [0u16, 128, 1500, 8192] {
        assert_eq!(changed(40, &mtu.to_be_bytes()), WireError::Mtu(mtu));
    }
    let region = |error| WireError::Region { index: 1, error };
    let beyond = RegionError::Range { address: 2, len: u64::MAX - 1 };
    assert_eq!(changed(75, &[2]), region(beyond));
    assert_eq!(changed(75, &[0]), region(RegionError::Range { address: 0, len: u64::MAX - 1 }));
    assert_eq!(changed(76, &[0; 8]), region(RegionError::Range { address: 1, len: 0 }));
    assert_eq!(changed(88, &[0, 0, 0, 8]), region(RegionError::Permissions(8)));
    assert_eq!(changed(88, &[1, 0, 0, 0]), region(RegionError::Permissions(0x0100_0000)));
}

#[test]
fn a_refusal_is_not_answered_with_one() {
    let refusal = Message { token: 3, content: Content::Refusal(Refusal::Busy) }.to_bytes();
    assert_eq!(Message::token_of(&refusal), None);
    assert_eq!(Message::token_of(&request()), Some(0x0102_0304_0506_0708));
    assert_eq!(Message::token_of(&request()[..15]), None);
}

fn any_region() -> impl Strategy<Value = RemoteRegion> {
    (1..u64::MAX, 1..u64::MAX, any::<u32>(), 0..8u8).prop_map(|(address, len, key, bits)| {
        let len = len.min(u64::MAX - address);
        RemoteRegion { address, key, len: len.max(1), permissions: Permissions(bits) }
    })
}

fn any_station() -> impl Strategy<Value = Station> {
    (vec(any_region(), 0..5), 2..0xff_ffffu32, 0..0x100_0000u32, 8..13u32).prop_map(
        |(regions, queue_pair, first_packet, mtu)| Station {
            queue_pair,
            first_packet,
            mtu: 1 << mtu,
            regions,
            ..station()
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    let content = prop_oneof![
        any_station().prop_map(Content::Request),
        any_station().prop_map(Content::Reply),
        Just(Content::Ready),
        any::<u16>().prop_map(|code| Content::Refusal(Refusal::from_code(code))),
    ];
    (any::<u64>(), content).prop_map(|(token, content)| Message { token, content })
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written_and_no_part_of_it_is_one(message in any_message()) {
        let bytes = message.to_bytes();
        prop_assert_eq!(Message::parse(&bytes, 5), Ok(message));
        for end in 0..bytes.len() {
            prop_assert!(Message::parse(&bytes[..end], 5).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(Message::parse(&longer, 5).is_err());
    }

    #[test]
    fn whatever_is_read_can_be_written_again(
        message in any_message(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = message.to_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(message) = Message::parse(&bytes, 5) {
            let Content::Ready = message.content else {
                prop_assert_eq!(message.to_bytes(), bytes);
                return Ok(());
            };
        }
    }
}
