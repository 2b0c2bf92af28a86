//! What the attacker does, and what goes on meanwhile.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use underpass::devices::{PartialChecksum, SegmentKind, Segmentation, TxMeta};

use crate::wire::{self, IPV6, TCP};
use crate::world::*;

/// One thing an attacker who sees the connections may do, or the program, or time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Segment(Segment),
    Repeat(Mutation),
    Wait(u64),
    Read,
    Write(usize),
    Accept,
    Shutdown(Index),
    Abort(Index),
}

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) v6: bool,
    /// An honest connection, or one of the attacker's own.
    pub(crate) connection: Option<Index>,
    pub(crate) port: u16,
    pub(crate) seq: Number,
    pub(crate) ack: Number,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) data_len: usize,
    /// Header length in words, if it is to be wrong.
    pub(crate) header_words: Option<u8>,
}

/// A sequence number relative to what the target would like.
#[derive(Clone, Debug)]
pub(crate) enum Number {
    Near(i32),
    Any(u32),
}

impl Number {
    pub(crate) fn from(&self, expected: u32) -> u32 {
        match self {
            Self::Near(offset) => expected.wrapping_add_signed(*offset),
            Self::Any(number) => *number,
        }
    }
}

/// A recorded frame with changes.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) frame: Index,
    pub(crate) changes: Vec<(Index, u8)>,
    pub(crate) len: Option<Index>,
    pub(crate) fix_checksums: bool,
    pub(crate) vouch: bool,
}

pub(crate) fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        4 => Just(Number::Near(0)),
        4 => (-3..=3).prop_map(Number::Near),
        2 => (-70_000..=70_000).prop_map(Number::Near),
        1 => prop_oneof![Just(i32::MIN), Just(i32::MAX)].prop_map(Number::Near),
        1 => any::<u32>().prop_map(Number::Any),
    ]
}

pub(crate) fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![
        4 => Just(0x10), 2 => Just(0x02), 1 => Just(0x12), 1 => Just(0x11), 1 => Just(0x04),
        1 => Just(0x14), 1 => Just(0x01), 2 => any::<u8>(),
    ];
    let options = prop_oneof![
        3 => Just(Vec::new()),
        // Maximum segment size, window scale, timestamps, selective acknowledgement.
        1 => any::<[u8; 2]>().prop_map(|[a, b]| vec![2, 4, a, b]),
        1 => any::<u8>().prop_map(|shift| vec![3, 3, shift, 1]),
        1 => any::<[u8; 8]>().prop_map(|t| [&[8, 10], &t[..], &[1, 1]].concat()),
        1 => vec(any::<u8>(), 0..10).prop_map(|s| [&[4, 2, 5, s.len() as u8 * 4 + 2], &s[..]].concat()),
        1 => vec(any::<u8>(), 0..40),
    ];
    let data_len = prop_oneof![3 => Just(0), 2 => 1..20_usize, 1 => 1..9000_usize];
    let header_words = prop_oneof![8 => Just(None), 1 => (0..16_u8).prop_map(Some)];
    (
        (any::<bool>(), prop::option::weighted(0.8, any::<Index>()), 1000..1004_u16),
        (number(), number(), flags),
        (prop_oneof![any::<u16>(), Just(0)], any::<u16>(), options, data_len, header_words),
    )
        .prop_map(|((v6, connection, port), (seq, ack, flags), rest)| {
            let (window, urgent, options, data_len, header_words) = rest;
            Segment {
                v6,
                connection,
                port,
                seq,
                ack,
                flags,
                window,
                urgent,
                options,
                data_len,
                header_words,
            }
        })
}

pub(crate) fn mutation() -> impl Strategy<Value = Mutation> {
    (
        any::<Index>(),
        vec((any::<Index>(), any::<u8>()), 0..4),
        prop::option::weighted(0.3, any::<Index>()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(frame, changes, len, fix_checksums, vouch)| Mutation {
            frame,
            changes,
            len,
            fix_checksums,
            vouch,
        })
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => segment().prop_map(Event::Segment),
        6 => mutation().prop_map(Event::Repeat),
        3 => (0..3000_u64).prop_map(Event::Wait),
        1 => (3000..200_000_u64).prop_map(Event::Wait),
        2 => Just(Event::Read),
        2 => (0..9000_usize).prop_map(Event::Write),
        1 => Just(Event::Accept),
        1 => any::<Index>().prop_map(Event::Shutdown),
        1 => any::<Index>().prop_map(Event::Abort),
    ]
}

impl World {
    pub(crate) fn happen(&mut self, event: &Event) {
        match event {
            Event::Segment(segment) => {
                let frame = self.segment(segment);
                self.inject(&frame, meta(&frame, false));
            }
            Event::Repeat(mutation) => {
                let (frame, meta) = self.mutated(mutation);
                self.inject(&frame, meta);
            }
            Event::Wait(millis) => self.run_for(Duration::from_millis(*millis)),
            Event::Read => {
                let mut buffer = [0; 9000];
                for stream in &self.streams {
                    let _whatever = (&mut &*stream).read(&mut buffer);
                }
                while self.udp.recv_from(&mut buffer).is_ok() {}
            }
            Event::Write(len) => {
                for stream in &self.streams {
                    let _whatever = (&mut &*stream).write(&vec![3; *len]);
                }
                for v6 in [false, true] {
                    let to = SocketAddr::new(peer(v6), UDP_PORT);
                    let _whatever = self.udp.send_to(&vec![4; *len], to);
                }
            }
            Event::Accept => self.accept(),
            Event::Shutdown(index) => {
                let stream = &self.streams[index.index(self.streams.len())];
                let _whatever = stream.shutdown(Shutdown::Write);
            }
            Event::Abort(index) => self.streams[index.index(self.streams.len())].abort(),
        }
    }

    pub(crate) fn segment(&self, segment: &Segment) -> Vec<u8> {
        let ends = match &segment.connection {
            Some(index) => self.honest[index.index(self.honest.len())],
            None => (segment.v6, PORTS[0], segment.port),
        };
        let (v6, our_port, peer_port) = ends;
        let known = self.sequences.get(&ends).copied().unwrap_or_default();
        let mut options = segment.options.clone();
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        let words = segment.header_words.unwrap_or(5 + options.len() as u8 / 4);
        let tcp = [
            &peer_port.to_be_bytes()[..],
            &our_port.to_be_bytes(),
            &segment.seq.from(known.rcv_nxt).to_be_bytes(),
            &segment.ack.from(known.snd_nxt).to_be_bytes(),
            &[words << 4, segment.flags],
            &segment.window.to_be_bytes(),
            &[0, 0],
            &segment.urgent.to_be_bytes(),
            &options,
            &vec![9; segment.data_len],
        ]
        .concat();
        wire::ip_frame((OUR_MAC, PEER_MAC), (peer(v6), ours(v6)), TCP, &tcp)
    }

    pub(crate) fn mutated(&self, mutation: &Mutation) -> (Vec<u8>, TxMeta) {
        let mut frame = mutation.frame.get(&self.recorded).0.clone();
        if let Some(len) = &mutation.len {
            frame.truncate(14 + len.index(frame.len() - 13));
        }
        for (at, change) in &mutation.changes {
            // The destination stays, so that it is looked at.
            if frame.len() > 6 {
                let at = 6 + at.index(frame.len() - 6);
                frame[at] ^= change;
            }
        }
        if mutation.fix_checksums {
            wire::fix_checksums(&mut frame);
        }
        let meta = meta(&frame, mutation.vouch);
        (frame, meta)
    }
}

/// What the link says of a frame: that it is a coalesced one if it is too long for a single one, and
/// that its checksum is right if asked to vouch for it.
pub(crate) fn meta(frame: &[u8], vouch: bool) -> TxMeta {
    let v6 = wire::ether_type(frame) == IPV6;
    let start = if v6 { 54 } else { 34 };
    let long = frame.len() > 1514;
    let vouch = long || vouch && frame.len() >= usize::from(start) + 18;
    let kind = if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
    TxMeta {
        checksum: vouch.then_some(PartialChecksum { start, offset: 16 }),
        segmentation: NonZeroU16::new(1400).filter(|_| long).map(|size| Segmentation {
            kind,
            size,
            header_len: start + 20,
        }),
    }
}
