//! Segments of a peer that is nearly right, while the program and time go on. Every byte that the
//! peer sends at a sequence number is the same whenever it sends it, so whatever is read has to be
//! the beginning of its stream; what the stack sends has to be that of the program's.

#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass::TcpStream;
use underpass_fuzz::station::{Known, PEER_PORT, Station, TCP_PORT, limits};
use underpass_fuzz::tcp::{FIN, RST, SYN, Segment};

#[derive(Arbitrary, Debug)]
enum Step {
    Segment(Wanted),
    Wait(u16),
    WaitLong,
    Read(u16),
    Write(u16),
    Shutdown,
}

#[derive(Arbitrary, Debug)]
struct Wanted {
    seq: Number,
    ack: Number,
    flags: u8,
    window: u16,
    len: u16,
    options: Options,
}

/// Beside what the stack would like.
#[derive(Arbitrary, Debug)]
enum Number {
    Right,
    Near(i16),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
enum Options {
    None,
    Timestamps([u8; 8]),
    Selective(u8, [u8; 16]),
    Any(Vec<u8>),
}

/// The longest piece of data in a segment.
const MAX_LEN: usize = 1400;
const STEPS: usize = 60;

struct Connection {
    known: Known,
    stream: TcpStream,
    /// Sequence numbers of the first byte of either stream.
    theirs: u32,
    ours: u32,
    read: usize,
    written: usize,
    /// Behind how many bytes the peer has said its stream ends.
    ends: Vec<u32>,
}

fn byte(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The bytes of a stream that begins at sequence number `first`.
fn bytes(first: u32, seq: u32, len: usize) -> Vec<u8> {
    let at = seq.wrapping_sub(first);
    (0..len as u32).map(|n| byte(at.wrapping_add(n) as usize)).collect()
}

impl Number {
    fn from(&self, right: u32) -> u32 {
        match self {
            Self::Right => right,
            Self::Near(offset) => right.wrapping_add_signed(i32::from(*offset)),
            Self::Any(number) => *number,
        }
    }
}

impl Options {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Timestamps(times) => [&[8, 10], &times[..], &[1, 1]].concat(),
            Self::Selective(len, edges) => [&[5, len % 32], &edges[..]].concat(),
            Self::Any(bytes) => bytes.iter().copied().take(40).collect(),
        }
    }
}

impl Connection {
    fn send(&mut self, station: &mut Station, wanted: &Wanted) {
        let seq = wanted.seq.from(self.known.seq);
        let len = usize::from(wanted.len) % (MAX_LEN + 1);
        if wanted.flags & FIN != 0 {
            let syn = u32::from(wanted.flags & SYN != 0);
            self.ends.push(seq.wrapping_add(len as u32 + syn).wrapping_sub(self.theirs));
        }
        // The byte behind a SYN has the number after it.
        let first = if wanted.flags & SYN == 0 { seq } else { seq.wrapping_add(1) };
        let segment = Segment {
            ports: (PEER_PORT, TCP_PORT),
            seq,
            ack: wanted.ack.from(self.known.ack),
            flags: wanted.flags,
            window: wanted.window,
            options: wanted.options.bytes(),
            data: bytes(self.theirs, first, len),
        };
        station.segment(&self.known, &segment);
    }

    /// Looks at what the stack has sent.
    fn listen(&mut self, station: &mut Station) {
        for segment in station.heard(&self.known) {
            if !segment.has(RST) && !segment.has(SYN) {
                let at = segment.seq.wrapping_sub(self.ours) as usize;
                let end = at.wrapping_add(segment.data.len());
                assert!(
                    segment.data.is_empty() || at <= end && end <= self.written,
                    "{at}..{end} of {} bytes were sent",
                    self.written
                );
                assert_eq!(segment.data, bytes(self.ours, segment.seq, segment.data.len()));
                let len = segment.data.len() as u32 + u32::from(segment.has(FIN));
                self.known.ack = segment.seq.wrapping_add(len);
                self.known.seq = segment.ack;
            }
        }
    }

    fn read(&mut self, room: usize) {
        let mut buffer = vec![0; room + 1];
        match (&mut &self.stream).read(&mut buffer) {
            Ok(0) => {
                let read = self.read as u32;
                assert!(self.ends.contains(&read), "the end came behind {read} bytes");
            }
            Ok(len) => {
                for got in &buffer[..len] {
                    assert_eq!(*got, byte(self.read), "byte {}", self.read);
                    self.read += 1;
                }
            }
            Err(_) => {}
        }
    }

    fn write(&mut self, len: usize) {
        let data: Vec<u8> = (self.written..self.written + len).map(byte).collect();
        if let Ok(len) = (&mut &self.stream).write(&data) {
            self.written += len;
        }
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (v6, steps) = input;
    let mut station = Station::quiet();
    let (known, stream) = station.handshake(v6, 2, PEER_PORT).unwrap();
    let (theirs, ours) = (known.seq, known.ack);
    let (read, written, ends) = (0, 0, Vec::new());
    let mut connection = Connection { known, stream, theirs, ours, read, written, ends };
    for step in steps.iter().take(STEPS) {
        match step {
            Step::Segment(wanted) => connection.send(&mut station, wanted),
            Step::Wait(millis) => station.run_for(Duration::from_millis((*millis).into())),
            Step::WaitLong => station.run_for(Duration::from_secs(70)),
            Step::Read(room) => connection.read((*room).into()),
            Step::Write(len) => {
                connection.write(usize::from(*len) % 5000);
                station.turn();
            }
            Step::Shutdown => {
                let _closed_already = connection.stream.shutdown(Shutdown::Write);
                station.turn();
            }
        }
        connection.listen(&mut station);
        station.check();
    }
    connection.read(2 * limits().recv_buffer);
    drop(connection);
    // A window that stays closed holds a connection for as long as it takes to give the peer up.
    station.run_for(Duration::from_secs(400));
    station.read_all();
    station.streams.clear();
    station.run_for(Duration::from_secs(400));
    let stats = station.stack.stats();
    assert_eq!((stats.tcp_flows, stats.tcp_half_open), (0, 0), "{stats}");
});
