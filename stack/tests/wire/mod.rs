//! The bare end of a link in memory, and frames made by hand.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::net::IpAddr;

use underpass::devices::{
    Device, Instant, MacAddr, MemoryDevice, RxMeta, RxQueue, SegmentKind, Segmentation, TxMeta,
    TxQueue,
};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// The bare end of a link.
pub(crate) struct Wire(pub(crate) MemoryDevice);

/// A received frame and what is known of it.
pub(crate) type Received = (Vec<u8>, RxMeta);

impl Wire {
    /// Everything that has arrived.
    pub(crate) fn recv(&mut self) -> Vec<Received> {
        let (rx, _) = self.0.split();
        let mut frames = Vec::new();
        rx.fill(Instant::ZERO).unwrap();
        while let Some(frame) = rx.next() {
            frames.push((frame.bytes.to_vec(), frame.meta));
        }
        rx.release();
        frames
    }

    /// Sends a complete frame.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_with(frame, TxMeta::default());
    }

    /// Sends a frame with something left to do.
    pub(crate) fn send_with(&mut self, frame: &[u8], meta: TxMeta) {
        let (_, tx) = self.0.split();
        tx.send(frame.len(), meta, |slot| slot.copy_from_slice(frame)).unwrap();
        tx.flush(Instant::ZERO).unwrap();
    }

    /// Passes on what came out of another link.
    pub(crate) fn forward(&mut self, (frame, meta): &Received) {
        let checksum = meta.checksum.partial();
        let segmentation = meta.segmentation.zip(checksum).map(|(size, checksum)| Segmentation {
            kind: if ether_type(frame) == IPV4 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
            size,
            header_len: checksum.start
                + u16::from(frame[usize::from(checksum.start) + 12] >> 4) * 4,
        });
        self.send_with(frame, TxMeta { checksum, segmentation });
    }
}

pub(crate) fn ether_type(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

pub(crate) fn ethernet(dst: MacAddr, src: MacAddr, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ether_type.to_be_bytes(), payload].concat()
}

/// An ARP packet (RFC 826) from one station to another.
pub(crate) fn arp(
    operation: u16,
    (sender_mac, sender): (MacAddr, [u8; 4]),
    (target_mac, target): (MacAddr, [u8; 4]),
) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    let [high, low] = operation.to_be_bytes();
    [&head[..], &[high, low], &sender_mac.0, &sender, &target_mac.0, &target].concat()
}

/// An IP packet with hop limit 255. Checksums are to be [put right](fix_checksums).
pub(crate) fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = (20 + payload.len() as u16).to_be_bytes();
            let head = [0x45, 0, len[0], len[1], 0, 0, 0, 0, 255, protocol, 0, 0];
            [&head[..], &src.octets(), &dst.octets(), payload].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = (payload.len() as u16).to_be_bytes();
            let head = [0x60, 0, 0, 0, len[0], len[1], protocol, 255];
            [&head[..], &src.octets(), &dst.octets(), payload].concat()
        }
        _ => panic!("{src} and {dst} are of different versions"),
    }
}

/// An IP packet with right checksums in an Ethernet frame.
pub(crate) fn ip_frame(
    (dst_mac, src_mac): (MacAddr, MacAddr),
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let ether_type = if src.is_ipv4() { IPV4 } else { IPV6 };
    let mut frame = ethernet(dst_mac, src_mac, ether_type, &ip(src, dst, protocol, payload));
    fix_checksums(&mut frame);
    frame
}

/// A neighbour solicitation (135) or advertisement (136) about `target` with one link address option
/// (RFC 4861 §4.3, §4.4).
pub(crate) fn ndp(kind: u8, flags: u8, target: IpAddr, mac: MacAddr) -> Vec<u8> {
    let IpAddr::V6(target) = target else {
        panic!("{target} is no IPv6 address");
    };
    let option = if kind == 135 { 1 } else { 2 };
    let head = [kind, 0, 0, 0, flags, 0, 0, 0];
    [&head[..], &target.octets(), &[option, 1], &mac.0].concat()
}

/// Puts the checksums of IPv4, TCP, UDP and ICMP right, as far as the frame has them.
pub(crate) fn fix_checksums(frame: &mut [u8]) {
    if frame.len() < 14 + 20 {
        return;
    }
    let (ether_type, packet) = (ether_type(frame), &mut frame[14..]);
    let (addresses, protocol, header_len) = match ether_type {
        IPV4 => {
            let header_len = usize::from(packet[0] & 0x0f) * 4;
            if header_len < 20 || header_len > packet.len() {
                return;
            }
            put_checksum(&mut packet[..header_len], 10, 0);
            let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
            if is_fragment {
                return;
            }
            (12..20, packet[9], header_len)
        }
        IPV6 if packet.len() >= 40 => (8..40, packet[6], 40),
        _ => return,
    };
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => return,
    };
    let named = usize::from(u16::from_be_bytes(if header_len == 40 && ether_type == IPV6 {
        [packet[4], packet[5]]
    } else {
        [packet[2], packet[3]]
    }));
    let end = if ether_type == IPV6 { header_len + named } else { named };
    let end = end.clamp(header_len, packet.len());
    let len = end - header_len;
    if len < at + 2 {
        return;
    }
    let pseudo = match protocol {
        ICMP => 0,
        _ => sum(&packet[addresses]) + u32::from(protocol) + len as u32,
    };
    put_checksum(&mut packet[header_len..end], at, pseudo);
}

fn put_checksum(bytes: &mut [u8], at: usize, pseudo: u32) {
    bytes[at..at + 2].fill(0);
    let mut total = sum(bytes) + pseudo;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let checksum = match !(total as u16) {
        0 => 0xffff,
        other => other,
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum of 16-bit words, not yet folded.
fn sum(bytes: &[u8]) -> u32 {
    let word =
        |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}
