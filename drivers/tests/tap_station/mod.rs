//! Just enough of a TCP/IP station to let a kernel socket connect to it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant as Clock};

use underpass_devices::{
    Device, Instant, PartialChecksum, RxChecksum, RxMeta, RxQueue, SegmentKind, Segmentation,
    TxMeta, TxQueue,
};
use underpass_drivers::tap::TapDevice;

const ETHERNET: usize = 14;
const TCP: usize = 20;

const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// A station with one address that answers ARP and neighbour solicitations.
pub(crate) struct Station<'d> {
    device: &'d mut TapDevice,
    address: IpAddr,
}

/// A connection with a kernel stream.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Link and network header towards the peer, without the length.
    headers: Vec<u8>,
    ports: [u8; 4],
    next_seq: u32,
    next_ack: u32,
    /// Payload of a full segment: the MTU without IP and TCP headers.
    pub(crate) mss: u16,
}

/// What a stream was received in.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) longest: usize,
    pub(crate) superframes: usize,
    pub(crate) segment_size: u16,
    /// Frames with an open checksum, and with a complete one (which is verified).
    pub(crate) partial: usize,
    pub(crate) complete: usize,
}

impl<'d> Station<'d> {
    pub(crate) fn new(device: &'d mut TapDevice, address: IpAddr) -> Self {
        Self { device, address }
    }

    /// The next frame that is `wanted`.
    pub(crate) fn next(&mut self, wanted: impl Fn(&[u8]) -> bool) -> (Vec<u8>, RxMeta) {
        let deadline = Clock::now() + Duration::from_secs(3);
        while Clock::now() < deadline {
            let (rx, _) = self.device.split();
            rx.fill(Instant::ZERO).unwrap();
            let frame = rx.next().map(|frame| (frame.bytes.to_vec(), frame.meta));
            rx.release();
            match frame {
                Some((bytes, meta)) if wanted(&bytes) => return (bytes, meta),
                Some((bytes, _)) => self.resolve(&bytes),
                None => {}
            }
        }
        panic!("nothing arrived");
    }

    /// Waits for a SYN and completes the handshake.
    pub(crate) fn accept(&mut self) -> Connection {
        let (syn, _) = self.next(|frame| tcp(frame).is_some_and(|tcp| tcp[13] == SYN));
        let tcp = tcp(&syn).unwrap();
        let ip = &syn[ETHERNET..syn.len() - tcp.len()];
        let mut headers = [&syn[6..12], &self.device.caps().mac.0, &syn[12..14]].concat();
        if self.address.is_ipv4() {
            headers.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            headers.extend([&ip[16..20], &ip[12..16]].concat());
        } else {
            headers.extend([0x60, 0, 0, 0, 0, 0, 6, 64]);
            headers.extend([&ip[24..40], &ip[8..24]].concat());
        }
        let mut connection = Connection {
            mss: (1500 - (headers.len() - ETHERNET) - TCP) as u16,
            headers,
            ports: [tcp[2], tcp[3], tcp[0], tcp[1]],
            next_seq: 0x0102_0304,
            next_ack: number(tcp, 4).wrapping_add(1),
        };
        self.emit(&connection, SYN | ACK, &[]);
        connection.next_seq += 1;
        connection
    }

    /// Takes `len` bytes from the peer, and acknowledges them.
    pub(crate) fn receive(&mut self, connection: &mut Connection, len: usize) -> Received {
        let mut received = Received::default();
        while received.bytes.len() < len {
            let (frame, meta) = self.next(|frame| tcp(frame).is_some());
            let tcp = tcp(&frame).unwrap();
            let payload = &tcp[usize::from(tcp[12] >> 4) * 4..];
            if payload.is_empty() || number(tcp, 4) != connection.next_ack {
                continue;
            }
            received.bytes.extend_from_slice(payload);
            received.longest = received.longest.max(frame.len());
            if let Some(size) = meta.segmentation {
                received.superframes += 1;
                received.segment_size = size.get();
            }
            if let RxChecksum::Partial(partial) = meta.checksum {
                assert_eq!(usize::from(partial.start), frame.len() - tcp.len());
                assert_eq!(partial.offset, 16);
                received.partial += 1;
            } else {
                let addresses = connection.headers.len() - 2 * self.address_len();
                let pseudo = pseudo_sum(&connection.headers[addresses..], 6, tcp.len());
                assert_eq!(fold(pseudo + sum(tcp)), 0xffff, "the checksum is wrong");
                received.complete += 1;
            }
            connection.next_ack = connection.next_ack.wrapping_add(payload.len() as u32);
            self.emit(connection, ACK, &[]);
        }
        received
    }

    /// Gives `bytes` to the peer: as one superframe, or without offloads in segments.
    pub(crate) fn send(&mut self, connection: &mut Connection, bytes: &[u8]) {
        let at_once = match self.device.caps().tx_segment_tcp4 {
            Some(_) => bytes.len(),
            None => usize::from(connection.mss),
        };
        for piece in bytes.chunks(at_once) {
            self.emit(connection, ACK | PSH, piece);
            connection.next_seq = connection.next_seq.wrapping_add(piece.len() as u32);
        }
    }

    fn emit(&mut self, connection: &Connection, flags: u8, payload: &[u8]) {
        let headers = &connection.headers;
        let start = headers.len();
        let mut frame = headers.clone();
        frame.extend(connection.ports);
        frame.extend(connection.next_seq.to_be_bytes());
        frame.extend(connection.next_ack.to_be_bytes());
        let words = if flags & SYN != 0 { 6 } else { 5 };
        frame.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        if flags & SYN != 0 {
            frame.extend([2, 4]);
            frame.extend(connection.mss.to_be_bytes());
        }
        frame.extend_from_slice(payload);
        let tcp_len = frame.len() - start;
        if self.address.is_ipv4() {
            let total = (frame.len() - ETHERNET) as u16;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            let checksum = !fold(sum(&frame[ETHERNET..start]));
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        } else {
            frame[18..20].copy_from_slice(&(tcp_len as u16).to_be_bytes());
        }
        let pseudo = pseudo_sum(&headers[start - 2 * self.address_len()..], 6, tcp_len);
        let mut meta = TxMeta::default();
        let checksum = if self.device.caps().tx_checksum {
            meta.checksum = Some(PartialChecksum { start: start as u16, offset: 16 });
            fold(pseudo)
        } else {
            !fold(pseudo + sum(&frame[start..]))
        };
        frame[start + 16..start + 18].copy_from_slice(&checksum.to_be_bytes());
        if payload.len() > usize::from(connection.mss) {
            meta.segmentation = Some(Segmentation {
                kind: if self.address.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
                size: NonZeroU16::new(connection.mss).unwrap(),
                header_len: (start + TCP) as u16,
            });
        }
        self.transmit(&frame, meta);
    }

    fn transmit(&mut self, frame: &[u8], meta: TxMeta) {
        let (_, tx) = self.device.split();
        tx.send(frame.len(), meta, |slot| slot.copy_from_slice(frame)).unwrap();
        tx.flush(Instant::ZERO).unwrap();
    }

    /// Answers an ARP request (RFC 826) or a neighbour solicitation (RFC 4861) for our address.
    fn resolve(&mut self, frame: &[u8]) {
        let ours = self.device.caps().mac.0;
        match self.address {
            IpAddr::V4(address) if frame[12..14] == [8, 6] && frame[38..42] == address.octets() => {
                let mut reply = [&frame[6..12], &ours, &frame[12..20], &[0, 2], &ours].concat();
                reply.extend(address.octets());
                reply.extend_from_slice(&frame[22..32]);
                self.transmit(&reply, TxMeta::default());
            }
            IpAddr::V6(address)
                if frame.len() >= 78
                    && frame[20] == 58
                    && frame[54] == 135
                    && frame[62..78] == address.octets() =>
            {
                let mut reply = [&frame[6..12], &ours, &[0x86, 0xdd]].concat();
                reply.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
                reply.extend(address.octets());
                reply.extend_from_slice(&frame[22..38]);
                reply.extend([136, 0, 0, 0, 0x60, 0, 0, 0]);
                reply.extend(address.octets());
                reply.extend([2, 1]);
                reply.extend(ours);
                let checksum = !fold(pseudo_sum(&reply[22..54], 58, 32) + sum(&reply[54..]));
                reply[56..58].copy_from_slice(&checksum.to_be_bytes());
                self.transmit(&reply, TxMeta::default());
            }
            _ => {}
        }
    }

    fn address_len(&self) -> usize {
        if self.address.is_ipv4() { 4 } else { 16 }
    }
}

/// The TCP segment in a frame without IP options, up to the end of the packet.
fn tcp(frame: &[u8]) -> Option<&[u8]> {
    match frame.get(12..14)? {
        [8, 0] if frame.get(23) == Some(&6) => frame.get(34..),
        [0x86, 0xdd] if frame.get(20) == Some(&6) => frame.get(54..),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// RFC 1071, before the carries are folded in.
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum()
}

fn pseudo_sum(addresses: &[u8], protocol: u64, len: usize) -> u64 {
    sum(addresses) + protocol + len as u64
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
