//! Cutting IP packets that do not fit the MTU (RFC 791 §3.2, RFC 8200 §4.5).

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::checksum;
use crate::packet::{Packet, protocol};

const IPV4_HEADER_LEN: usize = 20;
const MAX_IPV4_HEADER_LEN: usize = 60;
const FRAGMENT_HEADER_LEN: usize = 8;

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FragmentError {
    /// IPv4, and its header forbids it.
    #[error("the packet must not be fragmented (DF)")]
    DontFragment,
    /// IPv6, and it is a fragment.
    #[error("the packet is a fragment already")]
    Fragment,
    /// No 8 bytes of data fit behind the headers.
    #[error("an MTU of {0} bytes is too small for a fragment")]
    Mtu(usize),
}

/// The fragments of one packet, in order.
pub(crate) struct Fragments<'a> {
    packet: &'a [u8],
    /// Headers of every fragment but the first one of IPv4, with room for a Fragment header.
    later_header: [u8; MAX_IPV4_HEADER_LEN],
    later_header_len: usize,
    /// Where the fragmentable part begins.
    split: usize,
    /// Data per fragment, a multiple of 8.
    step: usize,
    id: u32,
    /// Where the next fragment begins in `packet`.
    at: usize,
}

/// One fragment, not yet written.
pub(crate) struct FragmentOut<'f> {
    header: &'f [u8],
    data: &'f [u8],
    /// IPv6: the identification; IPv4 has it in `header`.
    id: u32,
    offset: usize,
    more: bool,
}

/// Cuts `packet` into fragments of at most `mtu` bytes, headers included. `id` is the identification
/// of all of them (its low 16 bits, over IPv4); see [`FragmentIds`].
pub(crate) fn fragment<'a>(
    packet: &Packet<'a>,
    mtu: usize,
    id: u32,
) -> Result<Fragments<'a>, FragmentError> {
    let bytes = packet.bytes;
    let (split, extra) = match packet.src {
        IpAddr::V4(_) if bytes[6] & 0x40 != 0 => return Err(FragmentError::DontFragment),
        IpAddr::V4(_) => (packet.payload_at, 0),
        IpAddr::V6(_) if packet.fragment.is_some() => return Err(FragmentError::Fragment),
        IpAddr::V6(_) => (unfragmentable_len(bytes), FRAGMENT_HEADER_LEN),
    };
    let step = mtu.saturating_sub(split + extra) & !7;
    if step == 0 {
        return Err(FragmentError::Mtu(mtu));
    }
    let (later_header, later_header_len) = match packet.src {
        IpAddr::V4(_) => later_ipv4_header(&bytes[..split]),
        IpAddr::V6(_) => ([0; MAX_IPV4_HEADER_LEN], split),
    };
    Ok(Fragments { packet: bytes, later_header, later_header_len, split, step, id, at: split })
}

impl Fragments<'_> {
    /// The next fragment; `None` after the last one.
    pub(crate) fn next(&mut self) -> Option<FragmentOut<'_>> {
        let start = self.at;
        let end = self.packet.len().min(start + self.step);
        if start == end {
            return None;
        }
        self.at = end;
        let is_ipv4 = self.packet[0] >> 4 == 4;
        let header = if is_ipv4 && start > self.split {
            &self.later_header[..self.later_header_len]
        } else {
            &self.packet[..self.split]
        };
        // A fragment may be cut again (IPv4): it keeps its place in the datagram.
        let field = u16::from_be_bytes([self.packet[6], self.packet[7]]);
        let (base, more) = if is_ipv4 {
            (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0)
        } else {
            (0, false)
        };
        Some(FragmentOut {
            header,
            data: &self.packet[start..end],
            id: self.id,
            offset: base + start - self.split,
            more: more || end < self.packet.len(),
        })
    }
}

impl FragmentOut<'_> {
    /// Length of the fragment in bytes, headers included.
    pub(crate) fn len(&self) -> usize {
        self.header_len() + self.data.len()
    }

    /// Writes the fragment to `out`, which is [`len`](Self::len) bytes long.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let total = self.len();
        let (header, data) = out.split_at_mut(self.header_len());
        data.copy_from_slice(self.data);
        let (ip, fragment) = header.split_at_mut(self.header.len());
        ip.copy_from_slice(self.header);
        if self.is_ipv4() {
            let field = (self.offset / 8) as u16 | u16::from(self.more) << 13;
            ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            ip[4..6].copy_from_slice(&(self.id as u16).to_be_bytes());
            ip[6..8].copy_from_slice(&field.to_be_bytes());
            ip[10..12].fill(0);
            let sum = !checksum::sum(ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let field = next_header_field(ip, ip.len());
            let next_header = std::mem::replace(&mut ip[field], protocol::FRAGMENT);
            ip[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
            let place = self.offset as u16 | u16::from(self.more);
            fragment[0] = next_header;
            fragment[1] = 0;
            fragment[2..4].copy_from_slice(&place.to_be_bytes());
            fragment[4..8].copy_from_slice(&self.id.to_be_bytes());
        }
    }

    fn is_ipv4(&self) -> bool {
        self.header[0] >> 4 == 4
    }

    fn header_len(&self) -> usize {
        self.header.len() + if self.is_ipv4() { 0 } else { FRAGMENT_HEADER_LEN }
    }
}

/// Makes fragment identifications that an outsider cannot guess, and that one destination does not
/// see again soon (RFC 7739 §5.3).
pub(crate) struct FragmentIds {
    hasher: SipHasher24,
    counters: Box<[u32; Self::COUNTERS]>,
    /// From one packet to the next.
    step: u32,
}

impl FragmentIds {
    const COUNTERS: usize = 1024;

    /// `secret` comes from the operating system's random source.
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self::of_shard(secret, 0, 1)
    }

    /// The numbers of one of `shards` shards that have the same secret: each takes every
    /// `shards`th, so that two never cut packets with one number.
    pub(crate) fn of_shard(secret: [u8; 16], shard: usize, shards: usize) -> Self {
        Self {
            hasher: SipHasher24::new_with_key(&secret),
            counters: Box::new([shard as u32; Self::COUNTERS]),
            step: shards as u32,
        }
    }

    /// The identification of the next packet from `src` to `dst` that is to be cut.
    pub(crate) fn next(&mut self, src: IpAddr, dst: IpAddr) -> u32 {
        let mut key = [0; 32];
        for (half, ip) in key.chunks_mut(16).zip([src, dst]) {
            match ip {
                IpAddr::V4(ip) => half[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => half.copy_from_slice(&ip.octets()),
            }
        }
        let hash = self.hasher.hash(&key);
        let counter = &mut self.counters[(hash >> 32) as usize % Self::COUNTERS];
        *counter = counter.wrapping_add(self.step);
        counter.wrapping_add(hash as u32)
    }
}

/// Where, in an IPv6 packet, the number of the header at `header_at` is written: in the field of
/// the header before it. `header_at` is a header boundary at or behind byte 40.
pub(crate) fn next_header_field(packet: &[u8], header_at: usize) -> usize {
    let (mut field, mut at) = (6, 40);
    while at < header_at {
        let units = packet.get(at + 1).copied().unwrap_or(0);
        let is_fragment = packet.get(field) == Some(&protocol::FRAGMENT);
        field = at;
        at += if is_fragment { FRAGMENT_HEADER_LEN } else { (usize::from(units) + 1) * 8 };
    }
    field
}

/// Length of the IPv6 headers that every fragment repeats: up to and with the last one that routers
/// on the way look at (RFC 8200 §4.5).
fn unfragmentable_len(packet: &[u8]) -> usize {
    let (mut next, mut at, mut end) = (packet[6], 40, 40);
    while let protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS = next {
        let Some([after, units]) = packet.get(at..).and_then(|rest| rest.first_chunk::<2>()) else {
            break;
        };
        at += (usize::from(*units) + 1) * 8;
        if next != protocol::DESTINATION_OPTIONS && at <= packet.len() {
            end = at;
        }
        next = *after;
    }
    end
}

/// The header with those options alone that go into every fragment (RFC 791 §3.1, copied flag).
fn later_ipv4_header(header: &[u8]) -> ([u8; MAX_IPV4_HEADER_LEN], usize) {
    let mut later = [0; MAX_IPV4_HEADER_LEN];
    let (fixed, mut options) = header.split_at(IPV4_HEADER_LEN);
    later[..IPV4_HEADER_LEN].copy_from_slice(fixed);
    let mut len = IPV4_HEADER_LEN;
    loop {
        let option = match *options {
            [1, ..] => 1,
            [kind, units, ..] if kind != 0 && units >= 2 => usize::from(units),
            _ => break,
        };
        let Some((this, rest)) = options.split_at_checked(option) else {
            break;
        };
        if this[0] & 0x80 != 0 {
            later[len..len + option].copy_from_slice(this);
            len += option;
        }
        options = rest;
    }
    // Padded with zeroes: the end of options.
    let len = len.next_multiple_of(4);
    later[0] = 0x40 | (len / 4) as u8;
    (later, len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reassembly::{Reassembler, ReassemblyConfig};
    use underpass_devices::Instant;

    fn ipv4(options: &[u8], data: &[u8]) -> Vec<u8> {
        let header_len = 20 + options.len();
        let mut packet = vec![0; header_len];
        packet[0] = 0x40 | (header_len / 4) as u8;
        packet[2..4].copy_from_slice(&((header_len + data.len()) as u16).to_be_bytes());
        packet[8] = 64;
        packet[9] = protocol::UDP;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..].copy_from_slice(options);
        packet[4..6].copy_from_slice(&77_u16.to_be_bytes());
        let sum = !checksum::sum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(data);
        packet
    }

    /// With a hop-by-hop header, and destination options that belong to the fragmentable part.
    fn ipv6(data: &[u8], extensions: bool) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = protocol::UDP;
        packet[7] = 64;
        packet[8..40].copy_from_slice(&[0x11; 32]);
        packet[39] = 2;
        if extensions {
            packet[6] = protocol::HOP_BY_HOP;
            packet.extend([protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0]);
            packet.extend([protocol::UDP, 0, 1, 4, 0, 0, 0, 0]);
        }
        packet.extend_from_slice(data);
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn cut(packet: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
        let mut fragments = fragment(&Packet::parse(packet).unwrap(), mtu, id).unwrap();
        let mut all = Vec::new();
        while let Some(fragment) = fragments.next() {
            let mut out = vec![0xee; fragment.len()];
            fragment.write(&mut out);
            assert!(out.len() <= mtu);
            all.push(out);
        }
        all
    }

    fn reassemble(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut reassembler = Reassembler::new(ReassemblyConfig::default(), [1; 16]);
        let mut whole = None;
        for bytes in fragments {
            assert!(whole.is_none(), "whole before the last fragment");
            let packet = Packet::parse(bytes).unwrap();
            assert!(packet.fragment.is_some());
            whole = reassembler.insert(Instant::ZERO, &packet).unwrap();
        }
        whole
    }

    proptest! {
        #[test]
        fn reassembly_undoes_fragmentation(
            len in 1481_usize..8000,
            mtu in 150_usize..1500,
            id: u32,
            (v6, extensions) in any::<(bool, bool)>(),
            turn: u16,
        ) {
            let data: Vec<u8> = (0..len).map(|n| (n * 7 + n / 251) as u8).collect();
            let id = if v6 { id } else { 77 };
            let packet = if v6 {
                ipv6(&data, extensions)
            } else {
                // Router alert (copied) and record route (not copied).
                let options: &[u8] = if extensions { &[148, 4, 0, 0, 7, 4, 4, 0] } else { &[] };
                ipv4(options, &data)
            };
            let mut fragments = cut(&packet, mtu, id);
            prop_assert!(fragments.len() > 1);
            let middle = usize::from(turn) % fragments.len();
            fragments.rotate_left(middle);
            prop_assert_eq!(reassemble(&fragments), Some(packet));
        }
    }

    #[test]
    fn a_fragment_of_ipv4_can_be_cut_again() {
        let packet = ipv4(&[], &[5; 3000]);
        let twice: Vec<_> =
            cut(&packet, 1500, 77).iter().flat_map(|piece| cut(piece, 576, 77)).collect();
        assert_eq!(twice.len(), 3 + 3 + 1);
        assert_eq!(reassemble(&twice), Some(packet));
    }

    #[test]
    fn an_option_without_the_copied_flag_goes_with_the_first_fragment_only() {
        let packet = ipv4(&[148, 4, 0, 0, 7, 4, 4, 0], &[0; 100]);
        let lens: Vec<u8> = cut(&packet, 60, 1).iter().map(|f| (f[0] & 15) * 4).collect();
        assert_eq!(lens, [28, 24, 24, 24]);
    }

    #[test]
    fn hostile_options_are_not_copied_out_of_bounds() {
        for options in [[0x83, 0, 9, 9], [0x83, 9, 9, 9], [0x83, 1, 9, 9], [1, 1, 1, 0x83]] {
            let packet = ipv4(&options, &[0; 100]);
            assert_eq!(cut(&packet, 60, 1).len(), 4);
        }
    }

    #[test]
    fn what_cannot_be_cut_says_so() {
        let mut packet = ipv4(&[], &[0; 2000]);
        assert_eq!(error(&packet, 27), FragmentError::Mtu(27));
        packet[6] |= 0x40;
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(error(&packet, 1500), FragmentError::DontFragment);
        let pieces = cut(&ipv6(&[0; 2000], false), 1280, 1);
        assert_eq!(error(&pieces[0], 600), FragmentError::Fragment);
        assert_eq!(error(&ipv6(&[0; 2000], false), 55), FragmentError::Mtu(55));
    }

    fn error(packet: &[u8], mtu: usize) -> FragmentError {
        fragment(&Packet::parse(packet).unwrap(), mtu, 1).err().unwrap()
    }

    #[test]
    fn identifications_count_per_destination() {
        let mut ids = FragmentIds::new([1; 16]);
        let [us, a, b] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().unwrap());
        let first = ids.next(us, a);
        assert_ne!(ids.next(us, b), first.wrapping_add(1));
        assert_eq!(ids.next(us, a), first.wrapping_add(1));
        assert_ne!(FragmentIds::new([2; 16]).next(us, a), first);
    }
}
