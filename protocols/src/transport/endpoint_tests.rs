//! Endpoints on sockets in memory that pass any number of bytes at a time.

use std::io;

use proptest::prelude::*;

use super::*;

/// Stations with an endpoint each, and the connections between them.
struct Net {
    stations: Vec<Endpoint>,
    /// Both ends of each: station and id.
    links: Vec<[(usize, ConnectionId); 2]>,
}

const LIMITS: Limits = Limits { message_bytes: 500, queue_bytes: 2000, peers: 4, strangers: 2 };

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 7))
}

impl Net {
    fn new(count: usize, limits: Limits) -> Self {
        let stations = (0..count).map(|n| Endpoint::new(address(n), limits)).collect();
        Self { stations, links: Vec::new() }
    }

    /// Carries out what the endpoints ask for, moving up to `piece` bytes at a time.
    fn step(&mut self, piece: usize) -> bool {
        let mut busy = false;
        for from in 0..self.stations.len() {
            while let Some((id, to)) = self.stations[from].next_dial() {
                busy = true;
                let to = (0..self.stations.len()).find(|n| address(*n) == to);
                let remote = SocketAddr::new(address(from).ip(), 40_000);
                match to.and_then(|to| Some((to, self.stations[to].accepted(remote)?))) {
                    Some(end) => {
                        self.links.push([(from, id), end]);
                        self.stations[from].connected(id);
                    }
                    None => {
                        let refused = io::ErrorKind::ConnectionRefused;
                        self.stations[from].broken(id, refused.into());
                    }
                }
            }
            while let Some(id) = self.stations[from].next_close() {
                busy = true;
                self.hang_up(from, id);
            }
            // Every connection is tried: it need not be told twice.
            while self.stations[from].next_output().is_some() {}
            while self.stations[from].next_input().is_some() {}
        }
        for at in 0..self.links.len() {
            let [a, b] = self.links[at];
            busy |= self.pass(a, b, piece) | self.pass(b, a, piece);
        }
        busy
    }

    fn pass(
        &mut self,
        from: (usize, ConnectionId),
        to: (usize, ConnectionId),
        piece: usize,
    ) -> bool {
        if !self.stations[to.0].wants_input(to.1) {
            return false;
        }
        let output = self.stations[from.0].output(from.1);
        let bytes = output[..output.len().min(piece)].to_vec();
        self.stations[from.0].sent(from.1, bytes.len());
        self.stations[to.0].received(to.1, &bytes);
        !bytes.is_empty()
    }

    /// Drops the socket of one end; the other end reads the end of the stream.
    fn hang_up(&mut self, station: usize, id: ConnectionId) {
        let Some(at) = self.links.iter().position(|link| link.contains(&(station, id))) else {
            return;
        };
        for (other, id) in self.links.swap_remove(at).into_iter().filter(|end| end.0 != station) {
            self.stations[other].ended(id);
        }
    }

    fn settle(&mut self) {
        while self.step(usize::MAX) {}
    }

    fn received(&mut self, station: usize) -> Vec<(Vec<u8>, SocketAddr)> {
        let next = || self.stations[station].recv().map(|(bytes, from)| (bytes.to_vec(), from));
        std::iter::from_fn(next).collect()
    }
}

#[test]
fn an_answer_takes_the_connection_of_the_question() {
    let mut net = Net::new(2, LIMITS);
    net.stations[0].send(address(1), b"question").unwrap();
    net.settle();
    assert_eq!(net.received(1), [(b"question".to_vec(), address(0))]);
    net.stations[1].send(address(0), b"answer").unwrap();
    net.settle();
    assert_eq!(net.received(0), [(b"answer".to_vec(), address(1))]);
    assert_eq!(net.links.len(), 1);
    assert_eq!(net.stations[0].queued() + net.stations[1].queued(), 0);
}

#[test]
fn both_may_dial_at_once() {
    let mut net = Net::new(2, LIMITS);
    for n in 0..3 {
        net.stations[0].send(address(1), &[n]).unwrap();
        net.stations[1].send(address(0), &[n]).unwrap();
    }
    net.settle();
    for n in 3..6 {
        net.stations[0].send(address(1), &[n]).unwrap();
        net.stations[1].send(address(0), &[n]).unwrap();
    }
    net.settle();
    for (station, from) in [(0, address(1)), (1, address(0))] {
        let expected: Vec<_> = (0..6).map(|n| (vec![n], from)).collect();
        assert_eq!(net.received(station), expected);
    }
    assert_eq!(net.links.len(), 2);
}

#[test]
fn a_full_queue_takes_nothing_and_loses_nothing() {
    let mut net = Net::new(2, LIMITS);
    let mut sent = 0;
    while net.stations[0].send(address(1), &[sent; 400]).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 4);
    let long = net.stations[0].send(address(1), &[0; 501]);
    assert_eq!(long, Err(TooLong { len: 501, max: 500 }.into()));
    net.settle();
    net.stations[0].send(address(1), &[sent; 400]).unwrap();
    net.settle();
    let received: Vec<u8> = net.received(1).iter().map(|(bytes, _)| bytes[0]).collect();
    assert_eq!(received, [0, 1, 2, 3, 4]);
    assert_eq!(net.stations[0].counters().full, 1);
}

#[test]
fn a_receiver_that_does_not_receive_stops_the_sender() {
    let mut net = Net::new(2, LIMITS);
    let mut sent = 0;
    loop {
        while net.stations[0].send(address(1), &[7; 500]).is_ok() {
            sent += 1;
        }
        if !net.step(usize::MAX) {
            break;
        }
    }
    // One read may pass the mark by as much as the socket held.
    assert!((READ_AHEAD / 504..(READ_AHEAD + 6000) / 504).contains(&sent), "{sent} messages");
    let received = net.received(1).len();
    net.settle();
    assert_eq!(received + net.received(1).len(), sent);
}

#[test]
fn the_limit_of_peers_holds_for_both_directions() {
    let mut net = Net::new(7, LIMITS);
    for n in 1..5 {
        net.stations[0].send(address(n), b"x").unwrap();
    }
    let fifth = net.stations[0].send(address(5), b"x");
    assert_eq!(fifth, Err(SendError::TooManyPeers { max: 4 }));
    net.settle();
    net.stations[6].send(address(0), b"x").unwrap();
    net.settle();
    assert_eq!(net.received(0), []);
    assert_eq!(net.stations[0].counters().refused, 1);
    let lost = net.stations[6].lost().unwrap();
    assert_eq!((lost.peer, lost.cause.to_string().as_str()), (address(0), "closed by the peer"));
}

#[test]
fn strangers_make_room_for_strangers() {
    let mut endpoint = Endpoint::new(address(0), LIMITS);
    let ids = [1, 2, 3].map(|n| endpoint.accepted(address(n)).unwrap());
    assert_eq!(endpoint.next_close(), Some(ids[0]));
    assert_eq!(endpoint.next_close(), None);
    assert_eq!(endpoint.counters().refused, 1);
    // What is no hello is refused as soon as it shows.
    endpoint.received(ids[1], b"GET ");
    assert_eq!(endpoint.next_close(), Some(ids[1]));
    endpoint.received(ids[2], b"\0\0\0\x06SSH-2.0");
    assert_eq!(endpoint.next_close(), Some(ids[2]));
    assert!(endpoint.lost().is_none() && endpoint.recv().is_none());
}

#[test]
fn the_end_of_a_connection_is_told_after_its_messages() {
    let mut net = Net::new(2, LIMITS);
    net.stations[0].send(address(1), b"one").unwrap();
    net.stations[0].send(address(1), b"two").unwrap();
    while !net.step(11) || net.stations[0].queued() > 3 {}
    let [(_, id), _] = net.links[0];
    net.hang_up(0, id);
    let error = io::Error::from(io::ErrorKind::ConnectionReset);
    net.stations[0].broken(id, error);
    let lost = net.stations[0].lost().unwrap();
    assert!(matches!(lost.cause, LostCause::Io(_)) && lost.unsent > 0, "{lost:?}");
    assert!(net.stations[1].lost().is_none());
    assert_eq!(net.received(1), [(b"one".to_vec(), address(0))]);
    let lost = net.stations[1].lost().unwrap();
    assert!(matches!(lost.cause, LostCause::Truncated), "{lost:?}");
    // The next message dials anew.
    net.stations[0].send(address(1), b"three").unwrap();
    net.settle();
    assert_eq!(net.received(1), [(b"three".to_vec(), address(0))]);
}

#[test]
fn a_peer_that_dials_again_has_lost_its_first_connection() {
    let mut net = Net::new(2, LIMITS);
    net.stations[0].send(address(1), b"before").unwrap();
    net.settle();
    // It starts again, and the end of its connection never arrives.
    net.links.clear();
    net.stations[0] = Endpoint::new(address(0), LIMITS);
    net.stations[0].send(address(1), b"after").unwrap();
    net.settle();
    assert_eq!(net.received(1).len(), 2);
    let lost = net.stations[1].lost().unwrap();
    assert!(matches!(lost.cause, LostCause::Replaced), "{lost:?}");
    net.stations[1].send(address(0), b"answer").unwrap();
    net.settle();
    assert_eq!(net.received(0), [(b"answer".to_vec(), address(1))]);
}

#[test]
fn losses_that_nobody_asks_for_are_bounded() {
    let mut net = Net::new(1, LIMITS);
    for _ in 0..10 {
        net.stations[0].send(address(3), b"to nobody").unwrap();
        net.settle();
    }
    let counters = net.stations[0].counters();
    assert_eq!((counters.lost, counters.untold), (10, 6));
    assert_eq!(std::iter::from_fn(|| net.stations[0].lost()).count(), 4);
    assert_eq!(net.stations[0].connections.len() + net.stations[0].peers.len(), 0);
}

proptest! {
    /// Whatever the sizes and however the bytes are cut, all messages arrive in order, and the
    /// buffers taken out for a ring are accounted for as those lent are.
    #[test]
    fn every_message_arrives_once_and_in_order(
        messages in proptest::collection::vec((0usize..3, 0usize..3, 0usize..500), 1..80),
        pieces in proptest::collection::vec(1usize..900, 1..20),
    ) {
        let mut net = Net::new(3, LIMITS);
        let mut received = vec![Vec::new(); 3];
        let mut pieces = pieces.iter().cycle();
        for (n, (from, to, len)) in messages.iter().enumerate() {
            let message = vec![n as u8; *len];
            while from != to && net.stations[*from].send(address(*to), &message).is_err() {
                net.step(*pieces.next().unwrap());
                received[*to].extend(net.received(*to));
            }
        }
        net.settle();
        for (station, received) in received.iter_mut().enumerate() {
            received.extend(net.received(station));
            for sender in 0..3 {
                let expected: Vec<_> = messages.iter().enumerate()
                    .filter(|(_, m)| m.0 == sender && m.1 == station && sender != station)
                    .map(|(n, m)| (vec![n as u8; m.2], address(sender)))
                    .collect();
                let got: Vec<_> =
                    received.iter().filter(|(_, from)| *from == address(sender)).cloned().collect();
                prop_assert_eq!(got, expected);
            }
            prop_assert_eq!(net.stations[station].queued(), 0);
        }
    }

    #[test]
    fn nothing_a_peer_sends_breaks_the_endpoint(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        introduced: bool,
    ) {
        let mut endpoint = Endpoint::new(address(0), LIMITS);
        let id = endpoint.accepted(address(1)).unwrap();
        if introduced {
            endpoint.received(id, b"\0\0\0\x06UPT\x01\0\x07");
        }
        for piece in pieces {
            endpoint.received(id, &piece);
            while let Some((message, _)) = endpoint.recv() {
                prop_assert!(message.len() <= 500);
            }
        }
        endpoint.ended(id);
        while endpoint.recv().is_some() {}
        prop_assert_eq!((endpoint.connections.len(), endpoint.peers.len()), (0, 0));
    }
}

#[test]
fn buffers_taken_for_a_ring_count_until_they_are_sent() {
    let mut endpoint = Endpoint::new(address(0), LIMITS);
    endpoint.send(address(1), &[1; 400]).unwrap();
    let (id, _) = endpoint.next_dial().unwrap();
    assert_eq!(endpoint.next_output(), None);
    endpoint.connected(id);
    assert_eq!(endpoint.next_output(), Some(id));
    let taken = endpoint.take_output(id, Vec::new());
    assert_eq!((taken.len(), endpoint.queued()), (414, 414));
    endpoint.send(address(1), &[2; 400]).unwrap();
    assert_eq!(endpoint.next_output(), None, "it is not asked again while bytes are under way");
    endpoint.sent(id, 414);
    assert_eq!(endpoint.queued(), 404);
    let taken = endpoint.take_output(id, taken);
    assert_eq!(taken[4..], [2; 400]);
    endpoint.sent(id, 404);
    endpoint.send(address(1), b"x").unwrap();
    assert_eq!(endpoint.next_output(), Some(id));
    endpoint.broken(id, io::ErrorKind::BrokenPipe.into());
    assert_eq!(endpoint.queued(), 0);
}
