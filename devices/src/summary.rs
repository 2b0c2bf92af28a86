//! One line about a frame.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{MacAddr, Medium};

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// Prints a frame in one line as tcpdump does: length, addresses, protocol, ports, flags. Prints
/// what it can of a frame that is cut short or makes no sense.
///
/// ```
/// use underpass_devices::{FrameSummary, Medium};
///
/// let udp = [
///     0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
///     0, 53, 0x30, 0x39, 0, 9, 0, 0, 7, // UDP
/// ];
/// let line = FrameSummary::new(Medium::Ip, &udp).to_string();
/// assert_eq!(line, "29 192.0.2.1 > 192.0.2.2 UDP 53 > 12345");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FrameSummary<'a> {
    medium: Medium,
    frame: &'a [u8],
}

impl<'a> FrameSummary<'a> {
    /// The summary of `frame`, which begins as `medium` says.
    pub const fn new(medium: Medium, frame: &'a [u8]) -> Self {
        Self { medium, frame }
    }
}

impl fmt::Display for FrameSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.frame.len())?;
        let complete = match self.medium {
            Medium::Ethernet => ethernet(f, self.frame)?,
            Medium::Ip => ip(f, self.frame)?,
        };
        match complete {
            Some(()) => Ok(()),
            None => write!(f, "(cut short)"),
        }
    }
}

/// `None`: the frame ends too early.
type Printed = Result<Option<()>, fmt::Error>;

fn ethernet(f: &mut fmt::Formatter<'_>, frame: &[u8]) -> Printed {
    let Some((header, rest)) = frame.split_first_chunk::<12>() else {
        return Ok(None);
    };
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *header;
    let (dst, src) = (MacAddr([d0, d1, d2, d3, d4, d5]), MacAddr([s0, s1, s2, s3, s4, s5]));
    write!(f, "{src} > {dst} ")?;
    let Some((mut ethertype, mut payload)) = split_u16(rest) else {
        return Ok(None);
    };
    if matches!(ethertype, 0x8100 | 0x88a8) {
        let Some((tag, rest)) = split_u16(payload) else {
            return Ok(None);
        };
        write!(f, "VLAN {} ", tag & 0xfff)?;
        let Some((inner, rest)) = split_u16(rest) else {
            return Ok(None);
        };
        (ethertype, payload) = (inner, rest);
    }
    match ethertype {
        IPV4 | IPV6 => ip(f, payload),
        ARP => arp(f, payload),
        other => write!(f, "ethertype {other:#06x}").map(Some),
    }
}

fn ip(f: &mut fmt::Formatter<'_>, packet: &[u8]) -> Printed {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4(f, packet),
        Some(6) => ipv6(f, packet),
        Some(version) => write!(f, "IP version {version}").map(Some),
        None => Ok(None),
    }
}

fn ipv4(f: &mut fmt::Formatter<'_>, packet: &[u8]) -> Printed {
    let Some(header) = packet.first_chunk::<20>() else {
        return Ok(None);
    };
    let [first, .., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    write!(f, "{src} > {dst} ")?;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if fragment > 0 {
        return write!(f, "fragment at {}", u32::from(fragment) * 8).map(Some);
    }
    let payload = packet.get(usize::from(first & 0xf) * 4..).unwrap_or_default();
    transport(f, header[9], payload)
}

fn ipv6(f: &mut fmt::Formatter<'_>, packet: &[u8]) -> Printed {
    let Some((header, payload)) = packet.split_first_chunk::<40>() else {
        return Ok(None);
    };
    let address = |at: usize| {
        let bytes = header.get(at..).and_then(<[u8]>::first_chunk::<16>);
        bytes.map_or(Ipv6Addr::UNSPECIFIED, |bytes| Ipv6Addr::from(*bytes))
    };
    write!(f, "{} > {} ", address(8), address(24))?;
    transport(f, header[6], payload)
}

fn transport(f: &mut fmt::Formatter<'_>, protocol: u8, segment: &[u8]) -> Printed {
    match protocol {
        6 => tcp(f, segment),
        17 => {
            let Some(&[s0, s1, d0, d1]) = segment.first_chunk() else {
                return Ok(None);
            };
            let (src, dst) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
            write!(f, "UDP {src} > {dst}").map(Some)
        }
        1 | 58 => {
            let Some(&[kind, code]) = segment.first_chunk() else {
                return Ok(None);
            };
            let name = if protocol == 1 { "ICMP" } else { "ICMPv6" };
            write!(f, "{name} type {kind} code {code}").map(Some)
        }
        other => write!(f, "protocol {other}").map(Some),
    }
}

fn tcp(f: &mut fmt::Formatter<'_>, segment: &[u8]) -> Printed {
    let Some(header) = segment.first_chunk::<20>() else {
        return Ok(None);
    };
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, w0, w1, ..] = *header;
    let (src, dst) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    write!(f, "TCP {src} > {dst} [")?;
    // tcpdump's letters, from bit 0 up: FIN SYN RST PSH ACK URG ECE CWR.
    for (bit, letter) in "FSRP.UEW".chars().enumerate() {
        if flags >> bit & 1 != 0 {
            write!(f, "{letter}")?;
        }
    }
    let (seq, ack) = (u32::from_be_bytes([q0, q1, q2, q3]), u32::from_be_bytes([a0, a1, a2, a3]));
    let len = segment.len().saturating_sub(usize::from(offset >> 4) * 4);
    let window = u16::from_be_bytes([w0, w1]);
    write!(f, "] seq {seq} ack {ack} win {window} len {len}").map(Some)
}

fn arp(f: &mut fmt::Formatter<'_>, packet: &[u8]) -> Printed {
    let Some(packet) = packet.first_chunk::<28>() else {
        return Ok(None);
    };
    let [.., operation, _, _, _, _, _, _, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] =
        *packet;
    let (sender, target) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(t0, t1, t2, t3));
    match operation {
        1 => write!(f, "ARP who has {target}? tell {sender}"),
        2 => write!(f, "ARP {sender} is here"),
        other => write!(f, "ARP operation {other}"),
    }
    .map(Some)
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes.split_first_chunk().map(|(value, rest)| (u16::from_be_bytes(*value), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MACS: [u8; 12] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1];
    const PREFIX: &str = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff";

    fn line(parts: &[&[u8]]) -> String {
        let frame = [&[&MACS[..]], parts].concat().concat();
        let line = FrameSummary::new(Medium::Ethernet, &frame).to_string();
        line.strip_prefix(&format!("{} {PREFIX} ", frame.len())).unwrap().to_owned()
    }

    fn ipv4(protocol: u8, fragment: u8) -> Vec<u8> {
        let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, fragment, 64, protocol, 0, 0];
        header.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        header
    }

    #[test]
    fn frames_read_like_tcpdump() {
        let tcp = [0, 80, 0x10, 0x92, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x12, 4, 0, 0, 0, 0, 0, 7, 7];
        assert_eq!(
            line(&[&[8, 0], &ipv4(6, 0), &tcp]),
            "10.0.0.1 > 10.0.0.2 TCP 80 > 4242 [S.] seq 5 ack 9 win 1024 len 2"
        );
        assert_eq!(
            line(&[&[0x81, 0, 0x20, 7, 8, 0], &ipv4(17, 0), &[0, 1, 0, 2]]),
            "VLAN 7 10.0.0.1 > 10.0.0.2 UDP 1 > 2"
        );
        assert_eq!(line(&[&[8, 0], &ipv4(6, 3), &tcp]), "10.0.0.1 > 10.0.0.2 fragment at 24");
        let ipv6 = [&[0x60, 0, 0, 0, 0, 8, 58, 255][..], &[0xfe; 16], &[0xfd; 16]].concat();
        assert!(line(&[&[0x86, 0xdd], &ipv6, &[135, 0]]).ends_with("ICMPv6 type 135 code 0"));
        let mut arp = [0; 28];
        arp[7] = 1;
        arp[14..18].copy_from_slice(&[10, 0, 0, 1]);
        arp[24..].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(line(&[&[8, 6], &arp]), "ARP who has 10.0.0.2? tell 10.0.0.1");
        assert_eq!(line(&[&[8, 0], &[0x45]]), "(cut short)");
    }

    proptest! {
        #[test]
        fn any_frame_has_a_summary(
            start in prop::sample::select(vec![&[8, 0][..], &[8, 6], &[0x86, 0xdd], &[0x81, 0]]),
            rest in prop::collection::vec(any::<u8>(), 0..100),
            ip: bool,
        ) {
            let medium = if ip { Medium::Ip } else { Medium::Ethernet };
            let ethernet = [&MACS[..], start, &rest].concat();
            let frame = if ip { &rest } else { &ethernet };
            let line = FrameSummary::new(medium, frame).to_string();
            prop_assert!(line.starts_with(&frame.len().to_string()) && !line.contains('\n'));
        }
    }
}
