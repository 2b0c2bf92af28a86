//! Private network namespaces, with real kernel sockets in them.

#![cfg(feature = "lab")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use underpass_devices::MacAddr;
use underpass_drivers::lab::{Flood, LabError, Namespace, veth};
use underpass_drivers::netlink::NetlinkError;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kernel_sockets_talk_across_a_veth_pair_over_ipv4_and_ipv6() {
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    veth((&a, "left"), (&b, "right")).unwrap();
    for (left, right, prefix) in [("10.9.0.1", "10.9.0.2", 24), ("fd09::1", "fd09::2", 64)] {
        let (left, right): (IpAddr, IpAddr) = (left.parse().unwrap(), right.parse().unwrap());
        a.netlink(|n| n.add_address("left", left, prefix)).unwrap();
        b.netlink(|n| n.add_address("right", right, prefix)).unwrap();
        let listener = a.run(|| TcpListener::bind((left, 7))).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || listener.accept().unwrap().0.write_all(b"hello").unwrap());
            let mut stream = b.run(|| TcpStream::connect((left, 7))).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        });
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn links_are_changed_moved_and_deleted() {
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let mac = MacAddr::local(77);
    a.netlink(|n| {
        n.create_veth("one", "two", None, 1)?;
        n.set_mtu("one", 9000)?;
        n.set_mac("one", mac)?;
        n.set_up("one", true)
    })
    .unwrap();
    let one = a.netlink(|n| n.link("one")).unwrap();
    assert_eq!((one.mtu, one.mac, one.up), (9000, Some(mac), true));

    a.netlink(|n| n.move_to("two", b.as_fd())).unwrap();
    assert!(!a.netlink(|n| n.link_exists("two")).unwrap());
    assert!(b.netlink(|n| n.link_exists("two")).unwrap());

    a.netlink(|n| n.delete_link("one")).unwrap();
    assert!(!b.netlink(|n| n.link_exists("two")).unwrap());
    let error = a.netlink(|n| n.set_up("one", true)).unwrap_err();
    assert!(matches!(error, LabError::Netlink(NetlinkError::NoSuchLink(name)) if name == "one"));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_default_route_leads_through_the_gateway() {
    let ns = Namespace::new().unwrap();
    let connect = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    };
    assert!(ns.run(connect).is_err());
    ns.netlink(|n| {
        n.create_veth("one", "two", None, 1)?;
        n.set_up("one", true)?;
        n.set_up("two", true)?;
        n.add_address("one", [10, 9, 0, 1].into(), 24)?;
        n.add_route([0, 0, 0, 0].into(), 0, [10, 9, 0, 2].into())
    })
    .unwrap();
    assert_eq!(ns.run(connect).unwrap().ip(), IpAddr::from([10, 9, 0, 1]));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_caller_stays_where_it_was() {
    let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = here();
    let inside = Namespace::new().unwrap().run(here);
    assert_eq!(here(), before);
    assert_ne!(inside, before);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
#[should_panic(expected = "inside")]
fn a_panic_inside_goes_on_outside() {
    Namespace::new().unwrap().run(|| panic!("inside"));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flood_is_as_many_frames_as_were_asked_for() {
    const COUNT: u32 = 10_000;
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    veth((&a, "left"), (&b, "right")).unwrap();
    let frame = [0xff; 60];
    let sent = |namespace: &Namespace| {
        namespace.run(|| Flood::new("left", &frame).unwrap().send(COUNT)).unwrap();
    };
    // To a peer without an XDP program or GRO all of them are lost.
    sent(&a);
    assert!(received(&b, "right") < 100);
    let ethtool = || Command::new("ethtool").args(["-K", "right", "gro", "on"]).status();
    assert!(b.run(ethtool).unwrap().success());
    sent(&a);
    let count = received(&b, "right");
    assert!((u64::from(COUNT)..u64::from(COUNT) + 100).contains(&count), "{count}");
}

/// Frames that an interface has received (proc_pid_net(5)).
fn received(namespace: &Namespace, interface: &str) -> u64 {
    let table = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let prefix = format!("{interface}:");
    let counts = table.lines().find_map(|line| line.trim_start().strip_prefix(&prefix)).unwrap();
    counts.split_whitespace().nth(1).unwrap().parse().unwrap()
}
