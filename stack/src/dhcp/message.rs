//! DHCP messages (RFC 2131 §2, RFC 2132). The codec is our own: smoltcp's comes only with its
//! Ethernet medium, whose branches every TCP segment would pay for.

use std::net::Ipv4Addr;

use underpass_devices::MacAddr;

const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Fixed fields, up to and with the cookie.
const FIXED_LEN: usize = 240;
/// Servers and relays of BOOTP's time drop anything shorter (RFC 1542 §2.1).
const MIN_LEN: usize = 300;

/// Numbers of options (RFC 2132, RFC 3442).
pub(super) mod option {
    pub(in super::super) const SUBNET_MASK: u8 = 1;
    pub(in super::super) const ROUTER: u8 = 3;
    pub(in super::super) const DNS_SERVER: u8 = 6;
    pub(in super::super) const DOMAIN: u8 = 15;
    pub(in super::super) const MTU: u8 = 26;
    pub(in super::super) const REQUESTED_IP: u8 = 50;
    pub(in super::super) const LEASE_TIME: u8 = 51;
    pub(in super::super) const OVERLOAD: u8 = 52;
    pub(in super::super) const KIND: u8 = 53;
    pub(in super::super) const SERVER: u8 = 54;
    pub(in super::super) const PARAMETERS: u8 = 55;
    pub(in super::super) const MAX_SIZE: u8 = 57;
    pub(in super::super) const RENEWAL_TIME: u8 = 58;
    pub(in super::super) const REBINDING_TIME: u8 = 59;
    pub(in super::super) const CLIENT_ID: u8 = 61;
    pub(in super::super) const CLASSLESS_ROUTES: u8 = 121;
    pub(in super::super) const END: u8 = 255;
}

/// What a message is about (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

/// A message of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    /// Seconds since the client began.
    pub(super) secs: u16,
    pub(super) mac: MacAddr,
    /// The address we have and answer for, else unspecified.
    pub(super) client_ip: Ipv4Addr,
    pub(super) requested_ip: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
}

impl Request {
    /// The bytes behind the UDP header.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_LEN];
        bytes[..4].copy_from_slice(&[BOOT_REQUEST, ETHERNET, 6, 0]);
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.secs.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.client_ip.octets());
        bytes[28..34].copy_from_slice(&self.mac.0);
        bytes[236..240].copy_from_slice(&COOKIE);
        let mut add = |kind: u8, data: &[u8]| {
            bytes.extend_from_slice(&[kind, data.len() as u8]);
            bytes.extend_from_slice(data);
        };
        add(option::KIND, &[self.kind as u8]);
        let MacAddr([a, b, c, d, e, f]) = self.mac;
        add(option::CLIENT_ID, &[ETHERNET, a, b, c, d, e, f]);
        if let Some(ip) = self.requested_ip {
            add(option::REQUESTED_IP, &ip.octets());
        }
        if let Some(ip) = self.server {
            add(option::SERVER, &ip.octets());
        }
        if matches!(self.kind, Kind::Discover | Kind::Request) {
            add(option::MAX_SIZE, &1472_u16.to_be_bytes());
            // RFC 3442: classless routes go before routers.
            let wanted = [
                option::SUBNET_MASK,
                option::CLASSLESS_ROUTES,
                option::ROUTER,
                option::DNS_SERVER,
                option::DOMAIN,
                option::MTU,
                option::RENEWAL_TIME,
                option::REBINDING_TIME,
            ];
            add(option::PARAMETERS, &wanted);
        }
        bytes.push(option::END);
        bytes.resize(bytes.len().max(MIN_LEN), 0);
        bytes
    }
}

/// A checked message of a server.
#[derive(Clone, Debug)]
pub(super) struct Reply<'a> {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    pub(super) mac: MacAddr,
    pub(super) your_ip: Ipv4Addr,
    /// Where options are: their own field, then `file` and `sname` if the overload option says so
    /// (RFC 2131 §4.1).
    fields: [&'a [u8]; 3],
}

impl<'a> Reply<'a> {
    /// Judges what follows a UDP header. `None`: it is no message of a DHCP server.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, options) = bytes.split_first_chunk::<FIXED_LEN>()?;
        let [op, hardware, hardware_len, ..] = *fixed;
        let known = op == BOOT_REPLY && hardware == ETHERNET && hardware_len == 6;
        if !known || fixed[236..240] != COOKIE {
            return None;
        }
        let mut reply = Self {
            kind: Kind::Discover,
            xid: u32::from_be_bytes(*fixed[4..].first_chunk()?),
            mac: MacAddr(*fixed[28..].first_chunk()?),
            your_ip: Ipv4Addr::from(*fixed[16..].first_chunk::<4>()?),
            fields: [options, &[], &[]],
        };
        let overload = reply.option(option::OVERLOAD).and_then(|data| data.first().copied());
        if matches!(overload, Some(1 | 3)) {
            reply.fields[1] = &bytes[108..236];
        }
        if matches!(overload, Some(2 | 3)) {
            reply.fields[2] = &bytes[44..108];
        }
        reply.kind = match reply.option(option::KIND)?[..] {
            [2] => Kind::Offer,
            [5] => Kind::Ack,
            [6] => Kind::Nak,
            _ => return None,
        };
        Some(reply)
    }

    /// The data of an option; an option that is there several times is one long one (RFC 3396).
    pub(super) fn option(&self, wanted: u8) -> Option<Vec<u8>> {
        let mut found = None::<Vec<u8>>;
        for mut field in self.fields {
            loop {
                field = match *field {
                    [0, ref rest @ ..] => rest,
                    [] | [_] | [option::END, ..] => break,
                    [kind, len, ref rest @ ..] => {
                        let Some((data, rest)) = rest.split_at_checked(len.into()) else {
                            break;
                        };
                        if kind == wanted {
                            found.get_or_insert_default().extend_from_slice(data);
                        }
                        rest
                    }
                };
            }
        }
        found
    }

    /// The first address of an option.
    pub(super) fn address(&self, wanted: u8) -> Option<Ipv4Addr> {
        self.option(wanted)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
    }

    /// An option of seconds; all ones are `u32::MAX`, infinity.
    pub(super) fn seconds(&self, wanted: u8) -> Option<u32> {
        self.option(wanted)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_LEN];
        bytes[..3].copy_from_slice(&[BOOT_REPLY, ETHERNET, 6]);
        bytes[236..240].copy_from_slice(&COOKIE);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn options_in_pieces_and_in_other_fields_are_one() {
        let mut bytes = reply(&[53, 1, 2, 52, 1, 3, 6, 2, 1, 2, 0, 255, 6, 1, 9]);
        bytes[108..113].copy_from_slice(&[6, 2, 3, 4, 255]);
        bytes[44..47].copy_from_slice(&[6, 1, 5]);
        let reply = Reply::parse(&bytes).unwrap();
        assert_eq!(reply.kind, Kind::Offer);
        assert_eq!(reply.option(option::DNS_SERVER), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(reply.address(option::DNS_SERVER), Some(Ipv4Addr::new(1, 2, 3, 4)));
        assert_eq!(reply.option(option::ROUTER), None);
    }

    #[test]
    fn hostile_lengths_end_the_search() {
        for options in [&[53, 1, 5, 6, 200, 1][..], &[53, 1, 5, 6], &[53, 1, 5, 6, 0]] {
            let bytes = reply(options);
            let reply = Reply::parse(&bytes).unwrap();
            assert_eq!(reply.address(option::DNS_SERVER), None);
        }
        assert!(Reply::parse(&reply(&[53, 2, 5, 5])).is_none());
        assert!(Reply::parse(&reply(&[53, 1, 1])).is_none(), "a client's message");
        assert!(Reply::parse(&reply(&[])).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(
            options in proptest::collection::vec(any::<u8>(), 0..100),
            cut in 0..400_usize,
        ) {
            let mut bytes = reply(&options);
            bytes.truncate(cut);
            if let Some(reply) = Reply::parse(&bytes) {
                for kind in 0..=255 {
                    let _ = reply.option(kind);
                }
            }
        }
    }
}
