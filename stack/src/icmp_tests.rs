use std::time::Duration;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable,
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, Ipv4Packet, Ipv6Packet,
};

use super::*;

fn pair(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap())
    } else {
        ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
    }
}

/// An IP packet from them to us.
fn packet(v6: bool, number: u8, payload: &[u8]) -> Vec<u8> {
    let (us, them) = pair(v6);
    between(them, us, number, payload)
}

fn between(src: IpAddr, dst: IpAddr, number: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ip_header_len(dst)];
    write_ip_header(&mut bytes, src, dst, number, payload.len(), 64);
    bytes.extend_from_slice(payload);
    bytes
}

/// An ICMP message from them to us, with the right checksum.
fn message(v6: bool, header: [u8; 8], body: &[u8]) -> Vec<u8> {
    let (us, them) = pair(v6);
    let mut out = vec![0; echo_len(us, body.len())];
    write_message(&mut out, them, us, header, body);
    out
}

fn receive_bytes(bytes: &[u8]) -> Result<IcmpMessage<'_>, DropReason> {
    receive(&Packet::parse(bytes).unwrap())
}

#[test]
fn an_echo_request_comes_back_as_a_reply() {
    for v6 in [false, true] {
        let (us, them) = pair(v6);
        let echo = Echo { ident: 0x1234, seq: 7, payload: b"are you there" };
        let mut request = vec![0xee; echo_len(us, echo.payload.len())];
        write_echo(&mut request, them, us, EchoKind::Request, &echo);
        assert_eq!(receive_bytes(&request), Ok(IcmpMessage::EchoRequest(echo)));
        assert!(may_answer_echo(&Packet::parse(&request).unwrap()));

        let mut reply = vec![0xee; request.len()];
        write_echo(&mut reply, us, them, EchoKind::Reply, &echo);
        assert_eq!(receive_bytes(&reply), Ok(IcmpMessage::EchoReply(echo)));
        let caps = ChecksumCapabilities::default();
        if v6 {
            let ip = Ipv6Packet::new_checked(&reply).unwrap();
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            let parsed = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps).unwrap();
            let data = echo.payload;
            assert_eq!(parsed, Icmpv6Repr::EchoReply { ident: 0x1234, seq_no: 7, data });
        } else {
            let ip = Ipv4Packet::new_checked(&reply).unwrap();
            assert!(ip.verify_checksum());
            let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
            let parsed = Icmpv4Repr::parse(&icmp, &caps).unwrap();
            let data = echo.payload;
            assert_eq!(parsed, Icmpv4Repr::EchoReply { ident: 0x1234, seq_no: 7, data });
        }
    }
}

#[test]
fn a_ping_to_or_from_a_group_is_not_answered() {
    for (src, dst) in [
        ("10.0.0.2", "255.255.255.255"),
        ("10.0.0.2", "224.0.0.1"),
        ("224.0.0.1", "10.0.0.1"),
        ("255.255.255.255", "10.0.0.1"),
        ("0.0.0.0", "10.0.0.1"),
        ("ff02::1", "fe80::1"),
        ("fe80::2", "ff02::1"),
        ("::", "fe80::1"),
    ] {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let bytes = between(src, dst, 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
        let packet = Packet::parse(&bytes).unwrap();
        assert!(!may_answer_echo(&packet), "{src} to {dst}");
        assert!(!may_answer_error(&packet, false), "{src} to {dst}");
    }
}

#[test]
fn a_wrong_checksum_or_length_is_malformed() {
    for v6 in [false, true] {
        let good = message(v6, [if v6 { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 2], b"data");
        assert!(receive_bytes(&good).is_ok());
        let last = good.len() - 1;
        let mut bad = good.clone();
        bad[last] ^= 1;
        assert_eq!(receive_bytes(&bad), Err(DropReason::MalformedIcmp));
        for len in 0..8 {
            let number = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
            let short = packet(v6, number, &[8; 8][..len]);
            assert_eq!(receive_bytes(&short), Err(DropReason::MalformedIcmp));
        }
        // The protocol of the other IP version.
        let number = if v6 { protocol::ICMP } else { protocol::ICMPV6 };
        let crossed = packet(v6, number, &[0xff; 8]);
        assert_eq!(receive_bytes(&crossed), Err(DropReason::MalformedIcmp));
    }
}

#[test]
fn a_refused_packet_is_recognised_by_its_sender() {
    for v6 in [false, true] {
        let (us, them) = pair(v6);
        for (why, kind) in [
            (Unreachable::Port, IcmpErrorKind::PortUnreachable),
            (Unreachable::Protocol, IcmpErrorKind::ProtocolUnreachable),
        ] {
            let mut segment = vec![0x99, 0x99, 0, 80, 1, 2, 3, 4];
            segment.resize(3000, 5);
            let original = packet(v6, protocol::TCP, &segment);
            let original = Packet::parse(&original).unwrap();
            assert!(may_answer_error(&original, false));
            assert!(!may_answer_error(&original, true));
            let mut error = vec![0xee; unreachable_len(&original)];
            write_unreachable(&mut error, &original, why);
            assert_eq!(error.len(), if v6 { 1280 } else { 576 });
            let expected = IcmpError {
                from: us,
                kind,
                quoted: QuotedPacket {
                    src: them,
                    dst: us,
                    protocol: protocol::TCP,
                    src_port: 0x9999,
                    dst_port: 80,
                    tcp_seq: Some(0x0102_0304),
                    echo_ident: None,
                    len: original.bytes.len(),
                    transport: &segment[..error.len() - 2 * ip_header_len(us) - 8],
                },
            };
            assert_eq!(receive_bytes(&error), Ok(IcmpMessage::Error(expected)));
            let error = Packet::parse(&error).unwrap();
            assert!(!may_answer_error(&error, false), "never an error about an error");
            if why == Unreachable::Port {
                smoltcp_reads_port_unreachable(&error);
            }
        }
    }
}

/// The header only: smoltcp refuses quotes that are not whole packets.
fn smoltcp_reads_port_unreachable(error: &Packet<'_>) {
    if let (IpAddr::V6(src), IpAddr::V6(dst)) = (error.src, error.dst) {
        let icmp = Icmpv6Packet::new_checked(error.payload()).unwrap();
        assert!(icmp.verify_checksum(&src, &dst));
        let code = Icmpv6DstUnreachable::PortUnreachable.into();
        assert_eq!((icmp.msg_type(), icmp.msg_code()), (Icmpv6Message::DstUnreachable, code));
    } else {
        let icmp = Icmpv4Packet::new_checked(error.payload()).unwrap();
        assert!(icmp.verify_checksum());
        let code = Icmpv4DstUnreachable::PortUnreachable.into();
        assert_eq!((icmp.msg_type(), icmp.msg_code()), (Icmpv4Message::DstUnreachable, code));
    }
}

#[test]
fn an_unknown_protocol_behind_extensions_is_pointed_at() {
    // Destination options, then protocol 253.
    let original = packet(true, protocol::DESTINATION_OPTIONS, &[253, 0, 1, 4, 0, 0, 0, 0, 1, 2]);
    let original = Packet::parse(&original).unwrap();
    let mut error = vec![0; unreachable_len(&original)];
    write_unreachable(&mut error, &original, Unreachable::Protocol);
    assert_eq!(error[40..42], [4, 1]);
    assert_eq!(error[44..48], [0, 0, 0, 40]);
}

#[test]
fn later_fragments_are_not_answered() {
    let mut bytes = packet(false, protocol::UDP, &[0; 16]);
    for (offset, answered) in [(0, true), (5, false)] {
        bytes[6..8].copy_from_slice(&(0x2000_u16 | offset).to_be_bytes());
        bytes[10..12].fill(0);
        let sum = !checksum::sum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(may_answer_error(&Packet::parse(&bytes).unwrap(), false), answered);
    }
}

#[test]
fn path_mtu_and_the_other_kinds() {
    let (us4, them4) = pair(false);
    let quoted4 = between(us4, them4, protocol::UDP, &[0, 53, 0, 54, 0, 8, 0, 0]);
    let kind = |bytes: &[u8]| match receive_bytes(bytes) {
        Ok(IcmpMessage::Error(error)) => Some(error.kind),
        Ok(IcmpMessage::Other) => None,
        other => panic!("{other:?}"),
    };
    for (header, expected) in [
        ([3, 4, 0, 0, 0, 0, 5, 0x14], Some(IcmpErrorKind::PacketTooBig { mtu: 1300 })),
        ([3, 0, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::NetUnreachable)),
        ([3, 1, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::HostUnreachable)),
        ([3, 13, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::AdminProhibited)),
        ([11, 0, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::TimeExceeded)),
        ([12, 0, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::ParameterProblem)),
        ([5, 1, 0, 0, 0, 0, 0, 0], None),
    ] {
        assert_eq!(kind(&message(false, header, &quoted4)), expected);
    }
    let (us6, them6) = pair(true);
    let quoted6 = between(us6, them6, protocol::UDP, &[0, 53, 0, 54, 0, 8, 0, 0]);
    for (header, expected) in [
        ([2, 0, 0, 0, 0, 0, 5, 0x14], Some(IcmpErrorKind::PacketTooBig { mtu: 1300 })),
        ([1, 0, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::NetUnreachable)),
        ([1, 1, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::AdminProhibited)),
        ([1, 3, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::HostUnreachable)),
        ([3, 0, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::TimeExceeded)),
        ([4, 0, 0, 0, 0, 0, 0, 0], Some(IcmpErrorKind::ParameterProblem)),
        ([130, 0, 0, 0, 0, 0, 0, 0], None),
    ] {
        assert_eq!(kind(&message(true, header, &quoted6)), expected);
    }
}

#[test]
fn a_quote_that_is_not_ours_is_refused() {
    let (us, them) = pair(false);
    let header = [3, 3, 0, 0, 0, 0, 0, 0];
    let theirs = between(them, us, protocol::UDP, &[0; 8]);
    let short = &between(us, them, protocol::UDP, &[0; 7])[..];
    let mut later = between(us, them, protocol::UDP, &[0; 8]);
    later[7] = 1;
    let mut long_header = between(us, them, protocol::UDP, &[0; 8]);
    long_header[0] = 0x4f;
    for quote in [&theirs[..], short, &later, &long_header, &[]] {
        let bytes = message(false, header, quote);
        assert_eq!(receive_bytes(&bytes), Err(DropReason::MalformedIcmp));
    }
}

#[test]
fn the_rate_is_limited() {
    let mut limiter = RateLimiter::new(10);
    let mut now = Instant::from_millis(50);
    assert_eq!((0..100).filter(|_| limiter.allow(now)).count(), 10, "a burst");
    now += Duration::from_millis(250);
    assert_eq!((0..100).filter(|_| limiter.allow(now)).count(), 2);
    now += Duration::from_secs(3600);
    assert_eq!((0..100).filter(|_| limiter.allow(now)).count(), 10);
    assert!(!RateLimiter::new(0).allow(now));
    assert!(RateLimiter::new(u32::MAX).allow(Instant::ZERO));
}

proptest! {
    #[test]
    fn any_message_is_judged(
        v6: bool,
        header: [u8; 8],
        body in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut header = header;
        header[0] %= if v6 { 140 } else { 20 };
        let bytes = message(v6, header, &body);
        let packet = Packet::parse(&bytes).unwrap();
        let _ = receive(&packet);
        may_answer_error(&packet, false);
    }

    #[test]
    fn any_quote_is_judged(
        v6: bool,
        tail in proptest::collection::vec(any::<u8>(), 0..120),
        next: u8,
    ) {
        let (us, them) = pair(v6);
        let next = if v6 && next > 100 { [0, 43, 44, 60][usize::from(next % 4)] } else { next };
        let quote = between(us, them, next, &tail);
        let header = [if v6 { 1 } else { 3 }, 3, 0, 0, 0, 0, 0, 0];
        let _ = receive_bytes(&message(v6, header, &quote));
    }

    #[test]
    fn any_packet_can_be_refused(
        v6: bool,
        number: u8,
        payload in proptest::collection::vec(any::<u8>(), 0..1600),
        why in prop_oneof![Just(Unreachable::Port), Just(Unreachable::Protocol)],
    ) {
        let bytes = packet(v6, number, &payload);
        if let Ok(original) = Packet::parse(&bytes) {
            let mut out = vec![0; unreachable_len(&original)];
            write_unreachable(&mut out, &original, why);
            let largest = if v6 { 1280 } else { 576 };
            prop_assert!(out.len() <= largest);
            let packet = Packet::parse(&out).unwrap();
            if v6 {
                let (src, dst) = (packet.src, packet.dst);
                let icmp = packet.payload();
                prop_assert!(checksum::verify_transport(src, dst, protocol::ICMPV6, icmp));
            } else {
                prop_assert_eq!(checksum::sum(packet.payload()), 0xffff);
            }
        }
    }
}
