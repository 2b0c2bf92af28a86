//! Custom protocols beside TCP, in virtual time.

#[path = "../common/mod.rs"]
mod common;
#[path = "../scatter/mod.rs"]
mod scatter;
#[path = "../sharing/mod.rs"]
mod sharing;
#[path = "../wire/mod.rs"]
mod wire;

mod attach;
mod beacon;
mod chatter;
mod hostile;
mod link;
mod noise;
mod segment;
mod shards;

use std::net::IpAddr;
use std::time::Duration;

use common::World;
use underpass::Limits;
use underpass::devices::{LinkConfig, MacAddr};
use underpass::protocols::Peer;

/// For experiments (IEEE 802).
const EXPERIMENT: u16 = 0x88b5;
const PATIENCE: Duration = Duration::from_secs(60);

fn world() -> World {
    World::new(
        LinkConfig { delay: Duration::from_millis(1), ..LinkConfig::default() },
        &Limits::default(),
    )
}

fn host(text: &str) -> Peer {
    Peer::Host(ip(text))
}

fn port(text: &str, port: u16) -> Peer {
    Peer::Port((ip(text), port).into())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn station(address: MacAddr) -> Peer {
    Peer::Station { interface: 0, address }
}
