//! Many kernel addresses on one link: none waits for another's ARP or neighbour discovery.

#![forbid(unsafe_code)]

mod kernel;

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use kernel::{Lab, V4, V6, Version};
use underpass::TcpStream;

on_each_device! { sixty_four_ipv4_neighbours, sixty_four_ipv6_neighbours }

fn sixty_four_ipv4_neighbours(lab: &Lab) {
    connect_to_all(lab, V4, "10.7.0.");
}

fn sixty_four_ipv6_neighbours(lab: &Lab) {
    connect_to_all(lab, V6, "fd07::");
}

fn connect_to_all(lab: &Lab, version: Version, prefix: &str) {
    /// Less than the second after which an address is asked for again.
    const LIMIT: Duration = Duration::from_millis(800);
    let neighbours: Vec<IpAddr> =
        (100..164).map(|n| format!("{prefix}{n}").parse().unwrap()).collect();
    for address in &neighbours {
        lab.add_address(*address);
    }
    let _listeners: Vec<_> = neighbours
        .iter()
        .map(|ip| lab.at_kernel(|| std::net::TcpListener::bind((*ip, 80))).unwrap())
        .collect();
    let hears_all = || lab.at_kernel(|| neighbours.iter().all(hears_questions_for));
    let patience = Instant::now();
    while !hears_all() {
        assert!(
            patience.elapsed() < Duration::from_secs(30),
            "the kernel does not use its addresses"
        );
        thread::sleep(Duration::from_millis(5));
    }
    let absent = TcpStream::start(&lab.stack, version.absent(80)).unwrap();

    let start = Instant::now();
    let streams: Vec<TcpStream> = neighbours
        .iter()
        .map(|ip| TcpStream::start(&lab.stack, SocketAddr::new(*ip, 80)).unwrap())
        .collect();
    while !streams.iter().all(|stream| connected(stream).is_some()) {
        assert!(start.elapsed() < LIMIT, "not all after {LIMIT:?}: {}", lab.stack.stats());
        thread::sleep(Duration::from_millis(1));
    }
    for stream in &streams {
        connected(stream).unwrap().unwrap();
    }
    assert!(connected(&absent).is_none(), "nobody is there, and one second has not passed");
    assert!(lab.stack.stats().neighbors >= streams.len());
}

/// Whether the kernel has joined the group at which it is asked for its link address: it does so a
/// little after it was given an IPv6 address.
fn hears_questions_for(address: &IpAddr) -> bool {
    let IpAddr::V6(address) = address else {
        return true;
    };
    let [.., a, b, c] = address.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    fs::read_to_string("/proc/thread-self/net/igmp6").unwrap().contains(&group)
}

fn connected(stream: &TcpStream) -> Option<io::Result<()>> {
    match stream.poll_connected(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}
