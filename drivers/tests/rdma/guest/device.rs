//! The device.

use std::io;

use underpass_devices::conformance::{self, DevicePeer, Harness};
use underpass_devices::{Device, MacAddr};
use underpass_drivers::rdma::{RdmaConfig, RdmaDevice};

use super::stations::{frame, introduce, open, received, send, small, until};

struct Pair {
    config: RdmaConfig,
    ends: Option<(RdmaDevice, DevicePeer<RdmaDevice>)>,
    peer_mac: MacAddr,
}

impl Pair {
    fn open(config: RdmaConfig) -> Self {
        let mut pair = Self { config, ends: None, peer_mac: MacAddr::BROADCAST };
        pair.reopen().unwrap();
        pair
    }
}

impl Harness for Pair {
    type Device = RdmaDevice;
    type Peer = DevicePeer<RdmaDevice>;

    fn parts(&mut self) -> (&mut RdmaDevice, &mut DevicePeer<RdmaDevice>) {
        let (device, peer) = self.ends.as_mut().unwrap();
        (device, peer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.ends = None;
        let mut device = RdmaDevice::open("rxe0", &self.config).map_err(io::Error::other)?;
        // It learns of the device by itself, or it is in its group.
        let config = RdmaConfig { peers: vec![device.station()], ..RdmaConfig::default() };
        let config = RdmaConfig { multicast: self.config.multicast, ..config };
        let mut peer = RdmaDevice::open("rxe1", &config).map_err(io::Error::other)?;
        introduce(&mut device, &mut peer);
        self.peer_mac = peer.caps().mac;
        self.ends = Some((device, DevicePeer::new(peer)));
        Ok(())
    }

    fn peer_mac(&self) -> MacAddr {
        self.peer_mac
    }

    fn sees_wire(&self) -> bool {
        true
    }
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn conforms_in_the_group() {
    println!("{}", conformance::run(&mut Pair::open(small())).unwrap());
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn conforms_without_the_group() {
    let config = RdmaConfig { multicast: false, ..RdmaConfig::default() };
    println!("{}", conformance::run(&mut Pair::open(config)).unwrap());
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn stations_that_know_nothing_of_each_other_meet_in_the_group() {
    let (mut a, mut b) = (open("rxe0", &small()), open("rxe1", &small()));
    assert!(a.is_in_group() && b.is_in_group());
    let hello = frame(MacAddr::BROADCAST, 1);
    send(&mut a, &hello).unwrap();
    assert_eq!(received(&mut b), [hello]);
    assert!(received(&mut a).is_empty(), "nobody hears itself");
    until("the way to a", || b.peer_counters().reachable == 1);
    let answer = frame(a.caps().mac, 2);
    send(&mut b, &answer).unwrap();
    assert_eq!(received(&mut a), [answer]);
    assert_eq!(b.counters().tx_errors, 0);
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_gid_of_ipv6_has_a_group_too() {
    let config = RdmaConfig { gid: Some(0), ..small() };
    let (mut a, mut b) = (open("rxe0", &config), open("rxe1", &config));
    assert!(a.station().to_string().starts_with("fe80::"), "{}", a.station());
    introduce(&mut a, &mut b);
    let hello = frame(b.caps().mac, 1);
    send(&mut a, &hello).unwrap();
    assert_eq!(received(&mut b), [hello]);
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn without_the_group_known_peers_get_everything() {
    let apart = RdmaConfig { multicast: false, ..small() };
    let (mut b, mut c) = (open("rxe1", &apart), open("rxe1", &apart));
    let peers = vec![b.station(), c.station()];
    let mut a = open("rxe0", &RdmaConfig { peers, ..apart });
    assert!(!a.is_in_group());
    until("the ways to both", || a.peer_counters().reachable == 2);
    let hello = frame(MacAddr::BROADCAST, 1);
    for _ in 0..100 {
        send(&mut a, &hello).unwrap();
        for station in [&mut b, &mut c] {
            let mut got = Vec::new();
            until("the broadcast", || {
                got.extend(received_now(station));
                !got.is_empty()
            });
            assert_eq!(got, std::slice::from_ref(&hello));
        }
    }
    send(&mut a, &frame(b.caps().mac, 2)).unwrap();
    assert_eq!(received(&mut b).len(), 1);
    assert!(received(&mut c).is_empty(), "it is for the other one");
    let stranger = frame(MacAddr::local(77), 3);
    send(&mut a, &stranger).unwrap();
    assert_eq!(a.counters().tx_errors, 1, "there is no way to it");
    assert_eq!(a.buffers().tx_total, a.buffers().tx_free);
}

fn received_now(device: &mut RdmaDevice) -> Vec<Vec<u8>> {
    use underpass_devices::RxQueue;

    let (rx, _) = device.split();
    rx.fill(super::stations::now()).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = rx.next() {
        frames.push(frame.bytes.to_vec());
    }
    rx.release();
    frames
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_full_table_refuses_newcomers_who_are_reached_through_the_group() {
    let mut a = open("rxe0", &RdmaConfig { max_peers: 1, ..small() });
    let (mut b, mut c) = (open("rxe1", &small()), open("rxe1", &small()));
    for station in [&mut b, &mut c] {
        send(station, &frame(MacAddr::BROADCAST, 1)).unwrap();
        assert_eq!(received(&mut a).len(), 1);
    }
    until("the way to b", || a.peer_counters().reachable == 1);
    let counters = a.peer_counters();
    assert_eq!((counters.known, counters.refused), (1, 1));
    let answer = frame(c.caps().mac, 2);
    send(&mut a, &answer).unwrap();
    assert!(received(&mut c).contains(&answer));
}
