//! Offload requests, carried out by the device or shown undone to a peer on the same host.

use std::time::Instant as Clock;

use super::Harness;
use super::rig::{PATIENCE, Rig, Stop, fail};
use crate::checksum::{fold, sum};
use crate::{MacAddr, PartialChecksum, SegmentKind, Segmentation, TxMeta};

const ETHERNET_LEN: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// TEST-NET-1 (RFC 5737): source and destination.
const IPV4: [u8; 8] = [192, 0, 2, 1, 192, 0, 2, 2];
/// 2001:db8::/32 (RFC 3849).
const IPV6: [u8; 32] = {
    let mut addresses = [0; 32];
    (addresses[0], addresses[1], addresses[2], addresses[3]) = (0x20, 0x01, 0x0d, 0xb8);
    (addresses[16], addresses[17], addresses[18], addresses[19]) = (0x20, 0x01, 0x0d, 0xb8);
    (addresses[15], addresses[31]) = (1, 2);
    addresses
};

pub(super) fn offloads<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let caps = rig.caps.clone();
    if !caps.tx_checksum {
        return Err(Stop::Skip("the device has no offloads".to_owned()));
    }
    for (protocol, v6) in [(UDP, false), (TCP, false), (UDP, true), (TCP, true)] {
        let headers = Headers { protocol, v6 };
        for payload in [1, 32, 33, caps.max_frame() - headers.len()] {
            let meta = TxMeta { checksum: Some(headers.checksum()), segmentation: None };
            carried_out(rig, headers, payload, meta)?;
        }
    }
    let kinds =
        [(SegmentKind::Tcp4, caps.tx_segment_tcp4), (SegmentKind::Tcp6, caps.tx_segment_tcp6)];
    for (kind, longest) in kinds {
        let Some(longest) = longest else { continue };
        let headers = Headers { protocol: TCP, v6: kind == SegmentKind::Tcp6 };
        let size = caps.max_frame() - headers.len();
        let Some(segment) = u16::try_from(size).ok().and_then(|size| size.try_into().ok()) else {
            return fail("the MTU is not one of an IP link");
        };
        let header_len = headers.len() as u16;
        for payload in [size, size + 1, 3 * size, longest.min(65_535) - headers.len()] {
            let meta = TxMeta {
                checksum: Some(headers.checksum()),
                segmentation: Some(Segmentation { kind, size: segment, header_len }),
            };
            carried_out(rig, headers, payload, meta)?;
        }
    }
    Ok(())
}

/// Sends one frame, and checks that its payload arrives with right checksums.
fn carried_out<H: Harness>(
    rig: &mut Rig<'_, H>,
    headers: Headers,
    payload: usize,
    meta: TxMeta,
) -> Result<(), Stop> {
    let what = format!("{headers:?}, {payload} bytes of payload, {meta:?}");
    let (seq, source) = rig.probes.make_custom();
    let frame = headers.frame(rig.harness.peer_mac(), source, payload);
    rig.wait_for_room()?;
    match rig.send_bytes(&frame, meta)? {
        Ok(()) => rig.flush()?,
        Err(e) => return fail(format!("{what}: expected the device to take it, got {e:?}")),
    }
    let deadline = Clock::now() + PATIENCE;
    let mut arrived: Vec<u8> = Vec::new();
    while arrived.len() < payload {
        if Clock::now() > deadline {
            let got = arrived.len();
            return fail(format!("{what}: {got} bytes of payload arrived"));
        }
        let Some(got) = rig.recv()? else {
            rig.flush()?;
            continue;
        };
        if rig.probes.recognise(&got) != Some(seq) {
            continue;
        }
        if got == frame && !rig.harness.sees_wire() {
            return Ok(());
        }
        if got.len() > rig.caps.max_frame() && rig.harness.sees_wire() {
            return fail(format!("{what}: a frame of {} bytes is on the wire", got.len()));
        }
        let segment = headers.payload(&got).map_err(|e| format!("{what}: {e}"))?;
        arrived.extend(segment);
    }
    if arrived != frame[headers.len()..] {
        return fail(format!("{what}: the payload arrived changed"));
    }
    Ok(())
}

/// The headers of a packet over Ethernet, without options.
#[derive(Clone, Copy, Debug)]
struct Headers {
    protocol: u8,
    v6: bool,
}

impl Headers {
    fn len(self) -> usize {
        ETHERNET_LEN + self.ip_len() + self.transport_len()
    }

    fn checksum(self) -> PartialChecksum {
        let offset = if self.protocol == TCP { 16 } else { 6 };
        PartialChecksum { start: (ETHERNET_LEN + self.ip_len()) as u16, offset }
    }

    fn ip_len(self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn transport_len(self) -> usize {
        if self.protocol == TCP { 20 } else { 8 }
    }

    fn addresses(self) -> &'static [u8] {
        if self.v6 { &IPV6 } else { &IPV4 }
    }

    /// Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn pseudo_sum(self, segment_len: usize) -> u64 {
        u64::from(sum(self.addresses())) + u64::from(self.protocol) + segment_len as u64
    }

    /// A packet with a partial checksum, to the discard service, so that nobody answers.
    fn frame(self, dst: MacAddr, src: MacAddr, payload: usize) -> Vec<u8> {
        let segment_len = self.transport_len() + payload;
        let mut frame = [dst.0, src.0].concat();
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((segment_len as u16).to_be_bytes());
            frame.extend([self.protocol, 64]);
            frame.extend(IPV6);
        } else {
            let mut ip = vec![0x45, 0];
            ip.extend((20 + segment_len as u16).to_be_bytes());
            ip.extend([0, 7, 0x40, 0, 64, self.protocol, 0, 0]);
            ip.extend(IPV4);
            let checksum = !sum(&ip);
            ip.splice(10..12, checksum.to_be_bytes());
            frame.extend([0x08, 0x00]);
            frame.extend(ip);
        }
        let partial = fold(self.pseudo_sum(segment_len)).to_be_bytes();
        frame.extend([0, 9, 0, 9]);
        if self.protocol == TCP {
            frame.extend([0, 0, 1, 0, 0, 0, 2, 0, 0x50, 0x10, 1, 0]);
            frame.extend(partial);
            frame.extend([0, 0]);
        } else {
            frame.extend((segment_len as u16).to_be_bytes());
            frame.extend(partial);
        }
        frame.extend((0..payload).map(|at| (at * 11 + at / 256) as u8));
        frame
    }

    /// The payload of a frame that arrived, if its lengths and checksums are right.
    fn payload(self, frame: &[u8]) -> Result<&[u8], String> {
        let damaged = || format!("the peer received a damaged packet: {frame:02x?}");
        let ip = frame.get(ETHERNET_LEN..).ok_or_else(damaged)?;
        let (at, before) = if self.v6 { (4, 40) } else { (2, 0) };
        // What follows the packet pads a short frame.
        let len = match ip.get(at..at + 2) {
            Some(&[high, low]) => before + usize::from(u16::from_be_bytes([high, low])),
            _ => return Err(damaged()),
        };
        let packet = ip.get(..len).ok_or_else(damaged)?;
        let (header, segment) = packet.split_at_checked(self.ip_len()).ok_or_else(damaged)?;
        if !self.v6 && sum(header) != 0xffff {
            return Err("the IP header checksum is wrong at the peer".to_owned());
        }
        if fold(self.pseudo_sum(segment.len()) + u64::from(sum(segment))) != 0xffff {
            return Err("the transport checksum is wrong at the peer".to_owned());
        }
        segment.get(self.transport_len()..).ok_or_else(damaged)
    }
}
