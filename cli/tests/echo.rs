//! `underpass echo`, asked by the kernel's sockets.

#![forbid(unsafe_code)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::time::Duration;

use common::Lab;

on_every_link! { connections, datagrams }

fn connections(lab: &Lab) {
    let _server = lab.serve(&["echo"]);
    for addr in ["10.7.0.2:7", "[fd07::2]:7"] {
        let mut stream = lab.connect(addr.parse().unwrap()).unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            let mut writer = stream.try_clone().unwrap();
            let sent = &sent;
            scope.spawn(move || {
                writer.write_all(sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            stream.read_to_end(&mut received).unwrap();
        });
        assert_eq!(received.len(), sent.len(), "{addr}");
        assert!(received == sent, "{addr}");
    }
}

fn datagrams(lab: &Lab) {
    let _server = lab.serve(&["echo", "--udp"]);
    for (local, addr) in [("10.7.0.1:0", "10.7.0.2:7"), ("[fd07::1]:0", "[fd07::2]:7")] {
        let socket = lab.at_peer(|| UdpSocket::bind(local)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The last one in fragments.
        for len in [0, 1, 512, 1400, 4000] {
            let sent = vec![len as u8; len];
            socket.send_to(&sent, addr).unwrap();
            let mut received = [0; 8192];
            let (len, _) = socket.recv_from(&mut received).unwrap();
            assert_eq!(&received[..len], sent, "{addr}");
        }
    }
}
