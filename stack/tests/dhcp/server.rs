//! A DHCP server by hand, at the bare end of a link.

use std::net::{IpAddr, Ipv4Addr};

use underpass::devices::MacAddr;

use crate::wire::{self, ARP, IPV4, UDP};

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(crate) const OFFERED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);

pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const DECLINE: u8 = 4;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;
pub(crate) const RELEASE: u8 = 7;

/// What a client sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) xid: [u8; 4],
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) client_ip: Ipv4Addr,
    pub(crate) requested: Option<Ipv4Addr>,
    pub(crate) server: Option<Ipv4Addr>,
    mac: [u8; 6],
}

impl Message {
    /// The DHCP message in an Ethernet frame, if it is one.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        if wire::ether_type(frame) != IPV4 || frame[14 + 9] != UDP || frame[36..38] != [0, 67] {
            return None;
        }
        assert_eq!(frame[34..36], [0, 68], "source port");
        let ip = &frame[14..];
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let dhcp = &frame[42..];
        assert!(dhcp.len() >= 300 && dhcp[..3] == [1, 1, 6] && dhcp[236..240] == [99, 130, 83, 99]);
        let mut message = Self {
            kind: 0,
            xid: dhcp[4..8].try_into().unwrap(),
            src: address(12).into(),
            dst: address(16).into(),
            client_ip: Ipv4Addr::new(dhcp[12], dhcp[13], dhcp[14], dhcp[15]),
            requested: None,
            server: None,
            mac: dhcp[28..34].try_into().unwrap(),
        };
        let mut options = &dhcp[240..];
        while options[0] != 255 {
            let (kind, len) = (options[0], usize::from(options[1]));
            let data = &options[2..2 + len];
            let ip = || Some(Ipv4Addr::new(data[0], data[1], data[2], data[3]));
            match kind {
                53 => message.kind = data[0],
                50 => message.requested = ip(),
                54 => message.server = ip(),
                _ => {}
            }
            options = &options[2 + len..];
        }
        Some(message)
    }

    /// The answer with these options, to the offered address or to everybody.
    pub(crate) fn answer(&self, kind: u8, options: &[u8], to: IpAddr) -> Vec<u8> {
        let mut dhcp = vec![0; 240];
        dhcp[..3].copy_from_slice(&[2, 1, 6]);
        dhcp[4..8].copy_from_slice(&self.xid);
        if kind != NAK {
            dhcp[16..20].copy_from_slice(&OFFERED.octets());
        }
        dhcp[28..34].copy_from_slice(&self.mac);
        dhcp[236..240].copy_from_slice(&[99, 130, 83, 99]);
        dhcp.extend_from_slice(&[53, 1, kind, 54, 4]);
        dhcp.extend_from_slice(&SERVER.octets());
        dhcp.extend_from_slice(options);
        dhcp.push(255);
        let len = (8 + dhcp.len() as u16).to_be_bytes();
        let udp = [&[0, 67, 0, 68, len[0], len[1], 0, 0], &dhcp[..]].concat();
        let broadcast = to == IpAddr::V4(Ipv4Addr::BROADCAST);
        let mac = if broadcast { MacAddr::BROADCAST } else { MacAddr(self.mac) };
        wire::ip_frame((mac, SERVER_MAC), (SERVER.into(), to), UDP, &udp)
    }
}

/// A lease of `seconds` with everything a client takes.
pub(crate) fn options(seconds: u32) -> Vec<u8> {
    let [a, b, c, d] = seconds.to_be_bytes();
    let mut options = vec![51, 4, a, b, c, d, 1, 4, 255, 255, 255, 0, 3, 4, 192, 0, 2, 1];
    options.extend_from_slice(&[6, 8, 192, 0, 2, 1, 192, 0, 2, 9, 15, 9]);
    options.extend_from_slice(b"home.test");
    options.extend_from_slice(&[26, 2, 5, 120]);
    options
}

/// Answers an ARP question for the server, as a frame.
pub(crate) fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    if wire::ether_type(frame) != ARP || frame[20..22] != [0, 1] || frame[38..42] != SERVER.octets()
    {
        return None;
    }
    let asker = MacAddr(frame[22..28].try_into().unwrap());
    let asker_ip: [u8; 4] = frame[28..32].try_into().unwrap();
    let arp = wire::arp(2, (SERVER_MAC, SERVER.octets()), (asker, asker_ip));
    Some(wire::ethernet(asker, SERVER_MAC, ARP, &arp))
}
