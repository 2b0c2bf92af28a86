//! How several packet sockets share the frames of an interface (`PACKET_FANOUT`, packet(7)).
//!
//! A classic BPF program computes [`FlowHash::Software`], so that the stack knows which queue a flow
//! is on. Two options of the kernel are left off on purpose. `DEFRAG` would have the kernel
//! reassemble IPv4 fragments outside of our limits; the program puts them on the first queue
//! instead. `ROLLOVER` would give a frame to another queue when its own is full, which takes flows
//! apart; a full ring drops and counts instead.

use std::io;

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_H, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K,
    BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MSH, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX, BPF_W,
    BPF_X, BPF_XOR, sock_filter,
};
use underpass_devices::{FlowHash, SOFTWARE_HASH_FACTORS};

use super::socket::PacketSocket;
#[cfg(test)]
use super::socket::attach;

/// Sockets that share the frames of one interface, each frame for one of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The number, type and flags, as `PACKET_FANOUT` takes them to join.
    argument: u32,
    /// What the group spreads flows by, if it is known.
    pub(super) steering: Option<FlowHash>,
}

impl Group {
    /// Makes a group that no other process uses, with `first` as its first member. A kernel that
    /// has no program for it (before 4.3) spreads by a hash of its own.
    pub(super) fn new(first: &PacketSocket) -> io::Result<Self> {
        let flags = libc::PACKET_FANOUT_FLAG_UNIQUEID | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        let by_program = first
            .join_fanout((libc::PACKET_FANOUT_CBPF | flags) << 16)
            .and_then(|()| first.set_fanout_program(&flow_hash_program()));
        let steering = match by_program {
            Ok(()) => Some(FlowHash::Software),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let flags = libc::PACKET_FANOUT_FLAG_UNIQUEID;
                first.join_fanout((libc::PACKET_FANOUT_HASH | flags) << 16)?;
                None
            }
            Err(error) => return Err(error),
        };
        // The number that the kernel chose is in there.
        Ok(Self { argument: first.fanout()?, steering })
    }

    pub(super) fn join(self, socket: &PacketSocket) -> io::Result<()> {
        socket.join_fanout(self.argument)
    }
}

/// [`FlowHash::of_frame`] in classic BPF; of a frame without a flow it makes 0, the first queue.
/// Offsets count from the network header, for there the kernel begins, and a VLAN tag is out of the
/// way.
fn flow_hash_program() -> Vec<sock_filter> {
    let [v4, v6] = [v4_addresses_and_ports(), v6_addresses_and_ports()];
    let ether_type = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;
    let mut program = vec![
        load(BPF_W | BPF_ABS, ether_type),
        jump(BPF_JEQ, libc::ETH_P_IP as u32, 0, v4.len() as u8 + 1),
    ];
    program.extend(v4);
    program.push(instruction(BPF_JMP | BPF_JA, v6.len() as u32));
    program.extend(v6);
    program.extend(mix());
    program
}

/// Where the halves of the program leave what the finish takes.
const ADDRESSES: u32 = 0;
const SOURCE_PORT: u32 = 1;

/// RFC 791 section 3.1. The destination port stays in A.
fn v4_addresses_and_ports() -> Vec<sock_filter> {
    let fragment = 0x3fff;
    let mut part = vec![load(BPF_H | BPF_ABS, 6), jump(BPF_JSET, fragment, 0, 1), refuse()];
    part.extend(only_tcp_and_udp(9));
    part.extend(exclusive_or(12, 2));
    part.extend([
        instruction(BPF_ST, ADDRESSES),
        // X = the length of the header.
        instruction(BPF_LDX | BPF_B | BPF_MSH, 0),
        load(BPF_H | BPF_IND, 0),
        instruction(BPF_ST, SOURCE_PORT),
        load(BPF_H | BPF_IND, 2),
    ]);
    part
}

/// RFC 8200 section 3, without extension headers. The EtherType is in A; the destination port stays
/// there.
fn v6_addresses_and_ports() -> Vec<sock_filter> {
    let mut part = vec![jump(BPF_JEQ, libc::ETH_P_IPV6 as u32, 1, 0), refuse()];
    part.extend(only_tcp_and_udp(6));
    part.extend(exclusive_or(8, 8));
    part.extend([
        instruction(BPF_ST, ADDRESSES),
        load(BPF_H | BPF_ABS, 40),
        instruction(BPF_ST, SOURCE_PORT),
        load(BPF_H | BPF_ABS, 42),
    ]);
    part
}

/// `software_hash` of [`ADDRESSES`] and both ports.
fn mix() -> Vec<sock_filter> {
    let [ports, first, second] = SOFTWARE_HASH_FACTORS;
    let xor_shifted = |by| [copy_to_x(), alu(BPF_RSH, by), xor_x()];
    let mut part = vec![recall_x(SOURCE_PORT), xor_x(), alu(BPF_MUL, ports)];
    part.extend([recall_x(ADDRESSES), xor_x()]);
    part.extend(xor_shifted(16));
    part.push(alu(BPF_MUL, first));
    part.extend(xor_shifted(13));
    part.push(alu(BPF_MUL, second));
    part.extend(xor_shifted(16));
    part.push(instruction(BPF_RET | BPF_A, 0));
    part
}

fn only_tcp_and_udp(protocol_at: u32) -> [sock_filter; 4] {
    let [tcp, udp] = [libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32];
    let load = load(BPF_B | BPF_ABS, protocol_at);
    [load, jump(BPF_JEQ, tcp, 2, 0), jump(BPF_JEQ, udp, 1, 0), refuse()]
}

/// A = the exclusive or of `words` 32-bit words.
fn exclusive_or(start: u32, words: u32) -> Vec<sock_filter> {
    let word = |n| load(BPF_W | BPF_ABS, start + 4 * n);
    let rest = (1..words).flat_map(|n| [copy_to_x(), word(n), xor_x()]);
    std::iter::once(word(0)).chain(rest).collect()
}

/// A = what is there; beyond the end of the frame the program ends with 0.
fn load(size_and_mode: u32, at: u32) -> sock_filter {
    instruction(BPF_LD | size_and_mode, at)
}

/// Skips `then` instructions if A fulfils the condition, `otherwise` if it does not.
fn jump(condition: u32, value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { jt: then, jf: otherwise, ..instruction(BPF_JMP | condition | BPF_K, value) }
}

fn alu(operation: u32, value: u32) -> sock_filter {
    instruction(BPF_ALU | operation | BPF_K, value)
}

fn xor_x() -> sock_filter {
    instruction(BPF_ALU | BPF_XOR | BPF_X, 0)
}

fn copy_to_x() -> sock_filter {
    instruction(BPF_MISC | BPF_TAX, 0)
}

/// X = word `at` of the scratch memory.
fn recall_x(at: u32) -> sock_filter {
    instruction(BPF_LDX | BPF_W | BPF_MEM, at)
}

/// The frame goes to the first queue.
fn refuse() -> sock_filter {
    instruction(BPF_RET | BPF_K, 0)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;
    use rustix::net::sockopt;
    use rustix::net::{AddressFamily, SocketType};
    use underpass_devices::{Medium, Steering};

    use super::*;

    /// Sockets enough that a wrong bit of the hash shows.
    const SOCKETS: u32 = 61;

    /// The kernel as interpreter of the program: it chooses between UDP sockets at one port by what
    /// the program makes of the payload of a datagram (`SO_ATTACH_REUSEPORT_CBPF`), which any user
    /// may ask for.
    struct Kernel {
        receivers: Vec<UdpSocket>,
        sender: UdpSocket,
    }

    impl Kernel {
        fn new(family: AddressFamily) -> Self {
            let local: std::net::IpAddr = match family {
                AddressFamily::INET => Ipv4Addr::LOCALHOST.into(),
                _ => Ipv6Addr::LOCALHOST.into(),
            };
            let mut receivers = Vec::new();
            let mut port = 0;
            for _ in 0..SOCKETS {
                let fd = rustix::net::socket(family, SocketType::DGRAM, None).unwrap();
                sockopt::set_socket_reuseport(&fd, true).unwrap();
                rustix::net::bind(&fd, &std::net::SocketAddr::from((local, port))).unwrap();
                let socket = UdpSocket::from(fd);
                socket.set_nonblocking(true).unwrap();
                port = socket.local_addr().unwrap().port();
                receivers.push(socket);
            }
            let mut program = flow_hash_program();
            let end = program.pop().unwrap();
            program.extend([alu(libc::BPF_MOD, SOCKETS), end]);
            let option = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
            attach(receivers[0].as_raw_fd(), option, &program).unwrap();
            let sender = UdpSocket::bind((local, 0)).unwrap();
            sender.connect((local, port)).unwrap();
            Self { receivers, sender }
        }

        fn queue_of(&self, packet: &[u8]) -> usize {
            self.sender.send(packet).unwrap();
            let mut buffer = [0; 128];
            let receives = |socket: &UdpSocket| socket.recv(&mut buffer).is_ok();
            self.receivers.iter().position(receives).expect("loopback delivers at once")
        }
    }

    /// Bytes that are often, but not always, a TCP or UDP packet of the version.
    fn packets(version: u8) -> impl Strategy<Value = Vec<u8>> {
        let protocol = prop_oneof![4 => Just(6_u8), 4 => Just(17), 1 => any::<u8>()];
        let first = prop_oneof![4 => Just(5_u8), 1 => 0..16_u8];
        let fragment =
            prop_oneof![6 => Just([0_u8, 0]), 2 => Just([0x40, 0]), 1 => any::<[u8; 2]>()];
        (prop::collection::vec(any::<u8>(), 20..120), protocol, first, fragment).prop_map(
            move |(mut bytes, protocol, first, fragment)| {
                bytes[0] = version << 4 | first;
                if version == 4 {
                    bytes[9] = protocol;
                    bytes[6..8].copy_from_slice(&fragment);
                } else {
                    bytes[6] = protocol;
                }
                bytes
            },
        )
    }

    fn agree(kernel: &Kernel, packet: &[u8]) -> Result<(), TestCaseError> {
        let steering = Steering::new(FlowHash::Software, SOCKETS as usize);
        let expected = steering.queue_of_frame(Medium::Ip, packet);
        prop_assert_eq!(kernel.queue_of(packet), expected, "{:02x?}", packet);
        Ok(())
    }

    #[test]
    fn the_program_computes_our_hash() {
        let [v4, v6] = [AddressFamily::INET, AddressFamily::INET6].map(Kernel::new);
        proptest!(ProptestConfig::with_cases(2000), |(a in packets(4), b in packets(6))| {
            agree(&v4, &a)?;
            agree(&v6, &b)?;
        });
    }
}
