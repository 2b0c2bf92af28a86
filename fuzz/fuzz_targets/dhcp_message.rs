//! Any bytes as the message of a DHCP server: a lease that comes of it can be used.

#![no_main]

use libfuzzer_sys::fuzz_target;
use underpass::devices::Instant;
use underpass::fuzzing::dhcp;

/// Offsets of the cookie and of the options (RFC 2131, section 2).
const COOKIE_AT: usize = 236;
const OPTIONS_AT: usize = 240;

fn check(message: &[u8]) {
    let asked_at = Instant::from_millis(1000);
    let Some(lease) = dhcp(message, asked_at) else { return };
    let address = lease.net.addr();
    assert!(!address.is_unspecified() && !address.is_multicast() && !address.is_loopback());
    assert!(lease.routes.len() <= 32 && lease.dns_servers.len() <= 8);
    assert!(lease.dns_servers.iter().all(|ip| !ip.is_unspecified() && !ip.is_multicast()));
    for (net, _) in &lease.routes {
        assert_eq!(net.trunc(), *net, "a route has no bits behind its prefix");
    }
    if let Some(domain) = &lease.domain {
        assert!(domain.len() <= 255 && domain.is_ascii(), "{domain:?}");
        assert!(domain.bytes().all(|byte| byte.is_ascii_graphic()), "{domain:?}");
    }
    let [renew, rebind, expires] = lease.times;
    assert!(asked_at < renew && renew <= rebind && rebind <= expires);
}

fuzz_target!(|input: &[u8]| {
    check(input);
    // The same as options behind fixed fields that are right.
    let mut message = input.to_vec();
    if message.len() >= OPTIONS_AT {
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[COOKIE_AT..OPTIONS_AT].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        check(&message);
    }
});
