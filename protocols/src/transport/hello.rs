//! The first message of the side that dialled.

use std::net::{IpAddr, SocketAddr};

/// Bytes of a hello.
pub(super) const LEN: u32 = 6;

/// `UPT`, version 1.
const MAGIC: [u8; 4] = *b"UPT\x01";

/// The hello of a station that listens on `port`.
pub(super) fn write(port: u16) -> [u8; LEN as usize] {
    let [high, low] = port.to_be_bytes();
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, high, low]
}

/// The port in a hello; `None`: it is not one.
pub(super) fn read(message: &[u8]) -> Option<u16> {
    let port = message.strip_prefix(&MAGIC)?.try_into().ok().map(u16::from_be_bytes)?;
    (port != 0).then_some(port)
}

/// The one way to write an address: IPv4 is never mapped into IPv6, and the fields of IPv6 that are
/// no part of a station's name are zero, but for the scope of a link-local address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match (address, address.ip().to_canonical()) {
        (SocketAddr::V6(mut v6), IpAddr::V6(_)) => {
            v6.set_flowinfo(0);
            if !v6.ip().is_unicast_link_local() {
                v6.set_scope_id(0);
            }
            SocketAddr::V6(v6)
        }
        (_, ip) => SocketAddr::new(ip, address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hello_is_read_as_one() {
        assert_eq!(read(&write(0x1234)), Some(0x1234));
        for other in
            [&b"UPT\x01\0\0"[..], b"UPT\x02\0\x07", b"UPT\x01\x07", b"", b"UPT\x01\0\x07\0"]
        {
            assert_eq!(read(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_station_has_one_name() {
        let canonical = |text: &str| super::canonical(text.parse().unwrap()).to_string();
        assert_eq!(canonical("[::ffff:10.0.0.1]:7"), "10.0.0.1:7");
        assert_eq!(canonical("[fd00::1%3]:7"), "[fd00::1]:7");
        assert_eq!(canonical("[fe80::1%3]:7"), "[fe80::1%3]:7");
    }
}
