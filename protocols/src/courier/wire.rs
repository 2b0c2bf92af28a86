//! What is on the wire: headers, their checks, and a packet on its way into a transmit slot.

use underpass_devices::Selector;
use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::DropReason;
use crate::dissector::Dissector;

/// Length of [`Header`] in bytes; no packet is shorter.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Length of a packet's headers in front of a part of a message, in bytes.
pub const DATA_HEADER_LEN: usize = HEADER_LEN + TAIL_LEN;

/// [`MessageHeader`] and [`Hello`] are equally long.
const TAIL_LEN: usize = size_of::<MessageHeader>();
/// The version of the protocol is the upper half of the octet that tells the kind.
const VERSION: u8 = 0x10;

/// Where stations listen unless they agree on something else.
const PORT: u16 = 7000;

crate::header! {
    /// Courier: messages and remote calls
    ///
    /// The first header of every packet. It travels on any carrier; the selector is the usual one.
    pub struct Header("underpass.courier", Selector::udp_port(None, PORT)) {
        /// CRC32C of everything after it: the rest of this header and `len` more bytes
        pub checksum: U32,
        /// Version 1 in the upper half, what the packet is for in the lower
        pub kind: u8,
        /// 1: echo is to be looked at; 2: the sender waits for the acknowledgement
        pub flags: u8,
        /// Bytes after this header that belong to the packet; more are padding
        pub len: U16,
        /// The identifier that the receiver has given to the session; of a hello zero, of a reset the one
        /// that the sender does not know
        pub session: U64,
        /// The number of the packet, if it is a part of a body; of a close, why
        pub seq: U32,
        /// All packets before this one have been received
        pub ack: U32,
        /// Bit i: packet ack + 1 + i has been received
        pub sack: U64,
        /// Cells that the receiver of this packet may use since the session began
        pub credit: U32,
        /// The sender's clock in nanoseconds
        pub stamp: U32,
        /// The stamp of the last packet received, and the time that it has waited for this one
        pub echo: U32,
    }
}

impl Header {
    /// In [`flags`](Self::flags): [`echo`](Self::echo) is to be looked at.
    pub const ECHO: u8 = 1;
    /// In [`flags`](Self::flags): the sender cannot go on before this packet is acknowledged.
    pub const NOW: u8 = 2;
}

crate::header! {
    /// Courier: a part of a body
    ///
    /// Follows [`Header`] in a request, a response and a message.
    pub struct MessageHeader("underpass.courier.part", Header::SELECTOR) {
        /// The slot of the call; of a message zero
        pub slot: U16,
        /// Zero
        pub reserved: U16,
        /// How many calls there have been in this slot, this one included; of a message, how many messages
        /// have been before it
        pub number: U32,
        /// Bytes of the whole body
        pub length: U32,
        /// Where in the body the bytes after this header belong
        pub offset: U32,
    }
}

crate::header! {
    /// Courier: what a station offers
    ///
    /// Follows [`Header`] in a hello and a welcome.
    pub struct Hello("underpass.courier.hello", Header::SELECTOR) {
        /// The sender's identifier of the session, which packets to it have to carry
        pub session: U64,
        /// Longest body that it takes, in bytes
        pub message_bytes: U32,
        /// Longest packet that it takes, in bytes
        pub packet_bytes: U16,
        /// Calls that it serves at once
        pub calls: U16,
    }
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks for a session.
    Hello = 1,
    /// Grants it.
    Welcome = 2,
    /// A part of a request.
    Request = 3,
    /// A part of a response.
    Response = 4,
    /// A part of a message without response.
    Message = 5,
    /// Says nothing but what every header says.
    Ack = 6,
    /// Asks for an acknowledgement.
    Ping = 7,
    /// The session is not known here.
    Reset = 8,
    /// The session has ended.
    Close = 9,
}

impl Kind {
    fn parse(octet: u8) -> Option<Self> {
        if octet & 0xf0 != VERSION {
            return None;
        }
        Some(match octet & 0x0f {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Request,
            4 => Self::Response,
            5 => Self::Message,
            6 => Self::Ack,
            7 => Self::Ping,
            8 => Self::Reset,
            9 => Self::Close,
            _ => return None,
        })
    }
}

/// Of every packet, for Wireshark.
pub(crate) fn dissector() -> Dissector {
    let kinds =
        |kinds: &[Kind]| kinds.iter().map(|kind| u64::from(VERSION | *kind as u8)).collect();
    Dissector::of::<Header>()
        .followed_by::<MessageHeader>(
            "kind",
            kinds(&[Kind::Request, Kind::Response, Kind::Message]),
        )
        .followed_by::<Hello>("kind", kinds(&[Kind::Hello, Kind::Welcome]))
}

/// What follows the first header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail<'a> {
    /// Nothing.
    None,
    /// Of a hello and a welcome.
    Hello(Hello),
    /// Of a request, a response and a message, with the bytes of the body.
    Part(MessageHeader, &'a [u8]),
}

/// Reads a packet. Bytes behind it are ignored: Ethernet pads short frames.
///
/// # Errors
/// Why it is to be dropped: too short, damaged, of another version or of an unknown kind.
pub fn parse(bytes: &[u8]) -> Result<(&Header, Kind, Tail<'_>), DropReason> {
    let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| DropReason::Short)?;
    let body = rest.get(..usize::from(header.len.get())).ok_or(DropReason::Short)?;
    let covered = bytes.get(4..HEADER_LEN + body.len()).ok_or(DropReason::Short)?;
    if crc32c::crc32c(covered) != header.checksum.get() {
        return Err(DropReason::Checksum);
    }
    let kind = Kind::parse(header.kind).ok_or(DropReason::Unknown)?;
    let tail = match kind {
        Kind::Hello | Kind::Welcome => {
            let (hello, _) = Hello::read_from_prefix(body).map_err(|_| DropReason::Short)?;
            Tail::Hello(hello)
        }
        Kind::Request | Kind::Response | Kind::Message => {
            let (message, part) =
                MessageHeader::read_from_prefix(body).map_err(|_| DropReason::Short)?;
            Tail::Part(message, part)
        }
        Kind::Ack | Kind::Ping | Kind::Reset | Kind::Close => Tail::None,
    };
    Ok((header, kind, tail))
}

/// A packet to be written into a slot that the caller has.
#[derive(Clone, Debug)]
pub struct Packet<'a, A> {
    /// Where it goes.
    pub to: A,
    header: Header,
    tail: Tail<'a>,
}

impl<'a, A> Packet<'a, A> {
    /// `header` needs no checksum, length and kind.
    pub fn new(to: A, kind: Kind, mut header: Header, tail: Tail<'a>) -> Self {
        header.kind = VERSION | kind as u8;
        header.len = U16::new(match tail {
            Tail::None => 0,
            Tail::Hello(_) => TAIL_LEN as u16,
            Tail::Part(_, part) => (TAIL_LEN + part.len()) as u16,
        });
        Self { to, header, tail }
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no packet is empty")]
    pub fn len(&self) -> usize {
        HEADER_LEN + usize::from(self.header.len.get())
    }

    /// Writes it to the front of `slot`, with its checksum. False: the slot is shorter than
    /// [`len`](Self::len), and nothing was written.
    pub fn write(&self, slot: &mut [u8]) -> bool {
        let Some(slot) = slot.get_mut(..self.len()) else { return false };
        let (front, rest) = slot.split_at_mut(HEADER_LEN);
        front.copy_from_slice(self.header.as_bytes());
        match &self.tail {
            Tail::None => {}
            Tail::Hello(hello) => rest.copy_from_slice(hello.as_bytes()),
            Tail::Part(message, part) => {
                let (front, rest) = rest.split_at_mut(TAIL_LEN);
                front.copy_from_slice(message.as_bytes());
                rest.copy_from_slice(part);
            }
        }
        let (checksum, covered) = slot.split_at_mut(4);
        checksum.copy_from_slice(&crc32c::crc32c(covered).to_be_bytes());
        true
    }
}
