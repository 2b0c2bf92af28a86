//! Completions and routing headers as a device hands them over, which writes what came over the network,
//! into the receive buffers and the table of peers: no buffer is in two hands, no frame leads outside of
//! one, the table keeps to its limit, no way is lost, and nobody gets the MAC address of somebody else.

#![no_main]

use std::collections::HashMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use underpass_devices::Instant;
use underpass_drivers::fuzzing::{Gid, Peer, RdmaArrival, RdmaReceiver};

#[derive(Arbitrary, Debug)]
struct Input {
    buffers: u8,
    limit: u8,
    configured: Vec<(u8, u8)>,
    calls: Vec<Call>,
}

#[derive(Arbitrary, Debug)]
enum Call {
    Give(u8),
    /// A completion of a buffer of ours.
    Receive {
        buffer: u8,
        offset: u8,
        len: u16,
        has_header: bool,
        queue_pair: u32,
        header: Header,
    },
    /// One that makes no sense.
    Stray(u64, u64),
    /// The way to the peer that was asked for so many questions ago is found, or there is none.
    Answer {
        which: u8,
        found: bool,
    },
    Wait(u16),
}

#[derive(Arbitrary, Debug)]
enum Header {
    Any([u8; 32], [u8; 8]),
    Ipv4 { before: u8, source: u8 },
    Ipv6 { source: u8 },
}

const BUFFER_LEN: usize = 4160;
const OWN: Peer =
    Peer { gid: Gid([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), queue_pair: 17 };

impl Header {
    fn bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        match self {
            Self::Any(first, last) => {
                bytes[..32].copy_from_slice(first);
                bytes[32..].copy_from_slice(last);
            }
            Self::Ipv4 { before, source } => {
                bytes[..20].fill(*before);
                bytes[20] = 0x45;
                bytes[32..36].copy_from_slice(&[10, 9, 0, *source]);
            }
            Self::Ipv6 { source } => {
                bytes[0] = 0x60;
                bytes[8..10].copy_from_slice(&[0xfe, 0x80]);
                bytes[23] = *source;
            }
        }
        bytes
    }
}

fuzz_target!(|input: Input| {
    let (count, limit) = (usize::from(input.buffers), usize::from(input.limit).max(1));
    let peer = |(source, number): &(u8, u8)| Peer {
        gid: Gid::of_ipv4([10, 9, 0, *source].into()),
        queue_pair: u32::from(*number) + 1,
    };
    let configured: Vec<Peer> = input.configured.iter().take(limit).map(peer).collect();
    let mut receiver = RdmaReceiver::new(BUFFER_LEN, count, OWN, limit, &configured);
    let mut with_device = vec![false; count];
    let mut now = Instant::ZERO;
    let mut questions = configured.clone();
    // Ways by their number, and whether somebody still has them.
    let mut ways: HashMap<u32, Peer> = HashMap::new();
    let mut next_way = 0;
    for call in &input.calls {
        match call {
            Call::Give(buffer) => {
                receiver.give(usize::from(*buffer) * BUFFER_LEN);
                if let Some(held) = with_device.get_mut(usize::from(*buffer)) {
                    *held = true;
                }
            }
            Call::Stray(address, len) => {
                let (address, len) = (*address as usize, *len as usize);
                let receipt = (address, len, true, 18);
                let inside = with_device.get(address / BUFFER_LEN) == Some(&true);
                let arrival = receiver.receive(receipt, Header::Ipv6 { source: 2 }.bytes());
                match arrival {
                    RdmaArrival::Frame(number, ..) | RdmaArrival::Dropped(Some(number)) => {
                        assert!(inside && number == address / BUFFER_LEN);
                        with_device[number] = false;
                    }
                    RdmaArrival::Dropped(None) => assert!(!inside),
                }
            }
            Call::Receive { buffer, offset, len, has_header, queue_pair, header } => {
                let number = usize::from(*buffer);
                let address = number * BUFFER_LEN + usize::from(*offset);
                let receipt = (address, usize::from(*len), *has_header, *queue_pair);
                let held = with_device.get_mut(number).is_some_and(std::mem::take);
                match receiver.receive(receipt, header.bytes()) {
                    RdmaArrival::Frame(found, frame_len, sender) => {
                        assert!(held && *has_header && found == number);
                        assert!(frame_len >= 14 && usize::from(*len) == 40 + frame_len);
                        assert!(usize::from(*len) <= BUFFER_LEN);
                        assert!(sender != OWN && sender.queue_pair == *queue_pair);
                        assert!((1..0xff_ffff).contains(&sender.queue_pair));
                        assert!(sender.mac().is_unicast());
                        let (known, _, refused) = receiver.peers();
                        let (is_new, replaced) = receiver.heard(sender, now);
                        if is_new {
                            questions.push(sender);
                        }
                        if let Some(way) = replaced {
                            let gone = ways.remove(&way).expect("a way comes back once");
                            assert!(known == limit && !configured.contains(&gone));
                        }
                        let after = receiver.peers();
                        assert!(after.0 >= known && after.2 - refused <= u64::from(!is_new));
                    }
                    RdmaArrival::Dropped(found) => assert_eq!(found, held.then_some(number)),
                }
            }
            Call::Answer { which, found } => {
                if questions.is_empty() {
                    continue;
                }
                let peer = questions.swap_remove(usize::from(*which) % questions.len());
                let way = found.then(|| {
                    next_way += 1;
                    ways.insert(next_way, peer);
                    next_way
                });
                if let Some(unneeded) = receiver.found(&peer, way) {
                    ways.remove(&unneeded).expect("a way comes back once");
                }
            }
            Call::Wait(milliseconds) => {
                now += std::time::Duration::from_millis(u64::from(*milliseconds))
            }
        }
        assert_eq!(receiver.given(), with_device.iter().filter(|held| **held).count());
        let (known, reachable, _) = receiver.peers();
        assert!(known <= limit && reachable == ways.len());
        assert!(receiver.missing().iter().all(|peer| configured.contains(peer)));
    }
    for (way, peer) in ways {
        assert_eq!(receiver.way(peer.mac()), Some((peer, way)));
    }
});
