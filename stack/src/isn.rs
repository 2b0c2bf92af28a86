//! Initial sequence numbers (RFC 6528).

use std::net::SocketAddr;

use siphasher::sip::SipHasher24;
use underpass_devices::Instant;

/// Makes initial sequence numbers that an outsider cannot guess, and that grow with time for each
/// 4-tuple, so that segments of an earlier incarnation fall outside of the window.
pub(crate) struct IsnGenerator {
    hasher: SipHasher24,
}

impl IsnGenerator {
    /// A generator under `secret`, which comes from the operating system's random source.
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self { hasher: SipHasher24::new_with_key(&secret) }
    }

    /// `M + F(localip, localport, remoteip, remoteport, secretkey)` of RFC 6528 §3; M is a timer
    /// of 4 µs, F is SipHash-2-4.
    pub(crate) fn isn(&self, now: Instant, local: SocketAddr, remote: SocketAddr) -> u32 {
        let mut tuple = [0; 36];
        let (head, tail) = tuple.split_at_mut(18);
        write_endpoint(head, local);
        write_endpoint(tail, remote);
        let clock = (now.as_nanos() / 4_000) as u32;
        clock.wrapping_add(self.hasher.hash(&tuple) as u32)
    }
}

/// The `random_seed` with which the first 32 bits that a socket draws from a new smoltcp
/// `Interface` are `isn`.
///
/// smoltcp takes its sequence numbers from a 64-bit linear congruential generator with an output
/// permutation, of which `Interface::new` draws one 16-bit number that must not be zero. Both steps
/// are taken backwards here.
pub(crate) fn smoltcp_seed(isn: u32) -> u64 {
    // The output is the state shifted right by 29 − (its top three bits). With those at zero, bits
    // 29 to 60 are the output, and the low 29 bits are free.
    let target = u64::from(isn) << 29;
    let after_new = (0..1 << 29)
        .map(|low| previous_state(target | low))
        .find(|state| draw_u16(*state) != 0)
        .unwrap_or(target);
    previous_state(after_new)
}

/// Constants of smoltcp 0.14 `rand.rs`: `state = state * MULTIPLIER + INCREMENT`.
const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;

fn previous_state(state: u64) -> u64 {
    const INVERSE: u64 = inverse(MULTIPLIER);
    state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE)
}

fn draw_u16(state: u64) -> u16 {
    let word = (state >> (29 - (state >> 61))) as u32;
    (word ^ (word >> 16)) as u16
}

/// The inverse of an odd number modulo 2⁶⁴, by Newton's iteration.
const fn inverse(odd: u64) -> u64 {
    // Right in the lowest 3 bits to begin with; each round doubles that: 6, 12, 24, 48, 96.
    let mut guess = odd;
    let mut round = 0;
    while round < 5 {
        guess = guess.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(guess)));
        round += 1;
    }
    guess
}

/// Writes 18 bytes: address (IPv4 as IPv4-mapped IPv6) and port.
fn write_endpoint(out: &mut [u8], endpoint: SocketAddr) {
    let address = match endpoint.ip() {
        std::net::IpAddr::V4(a) => a.to_ipv6_mapped(),
        std::net::IpAddr::V6(a) => a,
    };
    let (ip, port) = out.split_at_mut(16);
    ip.copy_from_slice(&address.octets());
    port.copy_from_slice(&endpoint.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;
    use smoltcp::iface::{Config, Interface, SocketSet};
    use smoltcp::phy::{
        ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
    };
    use smoltcp::socket::tcp;
    use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Packet, TcpControl, TcpPacket, TcpRepr};

    use super::*;

    /// An IP device without a peer that keeps what is sent.
    #[derive(Default)]
    struct Sent(VecDeque<Vec<u8>>);
    struct NoRx;
    struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

    impl RxToken for NoRx {
        fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
            f(&[])
        }
    }

    impl TxToken for Tx<'_> {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
            let mut buffer = vec![0; len];
            let result = f(&mut buffer);
            self.0.push_back(buffer);
            result
        }
    }

    impl Device for Sent {
        type RxToken<'a> = NoRx;
        type TxToken<'a> = Tx<'a>;

        fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(NoRx, Tx<'_>)> {
            None
        }

        fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
            Some(Tx(&mut self.0))
        }

        fn capabilities(&self) -> DeviceCapabilities {
            let mut caps = DeviceCapabilities::default();
            caps.medium = Medium::Ip;
            caps.max_transmission_unit = 1500;
            caps.checksum = ChecksumCapabilities::default();
            caps
        }
    }

    fn sequence_number_of_syn(seed: u64) -> u32 {
        let now = smoltcp::time::Instant::ZERO;
        let mut device = Sent::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, now);
        interface.update_ip_addrs(|addresses| {
            addresses.push("10.0.0.1/24".parse::<IpCidr>().unwrap()).unwrap();
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; 64]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let remote: SocketAddr = "10.0.0.2:80".parse().unwrap();
        socket.connect(interface.context(), remote, 40_000).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        sockets.add(socket);
        interface.poll(now, &mut device, &mut sockets);

        let packet = device.0.pop_front().expect("a SYN was sent");
        let ip = Ipv4Packet::new_checked(&packet).unwrap();
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        let (src, dst) = (ip.src_addr().into(), ip.dst_addr().into());
        let syn = TcpRepr::parse(&tcp, &src, &dst, &ChecksumCapabilities::default()).unwrap();
        assert_eq!(syn.control, TcpControl::Syn);
        syn.seq_number.0 as u32
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn smoltcp_begins_with_the_number_asked_for(isn: u32) {
            prop_assert_eq!(sequence_number_of_syn(smoltcp_seed(isn)), isn);
        }
    }

    #[test]
    fn smoltcp_begins_with_the_number_asked_for_at_the_edges() {
        for isn in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            assert_eq!(sequence_number_of_syn(smoltcp_seed(isn)), isn);
        }
    }

    #[test]
    fn a_number_grows_with_time_and_differs_by_tuple_and_secret() {
        let (local, remote) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let generator = IsnGenerator::new([1; 16]);
        let now = Instant::from_nanos(123_456_789_000);
        let first = generator.isn(now, local, remote);
        let later = generator.isn(now + Duration::from_secs(1), local, remote);
        assert_eq!(later.wrapping_sub(first), 250_000);
        assert_ne!(first, generator.isn(now, remote, local));
        assert_ne!(first, generator.isn(now, local, "10.0.0.2:3".parse().unwrap()));
        assert_ne!(first, IsnGenerator::new([2; 16]).isn(now, local, remote));
        // The clock wraps after 4.8 hours; nothing overflows at the end of time.
        generator.isn(Instant::MAX, local, "[2001:db8::1]:2".parse().unwrap());
    }
}
