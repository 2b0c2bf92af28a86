use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use libc::sock_filter;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use underpass_devices::MacAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::slot::{SLOT_LEN, TPACKET_V2};
use crate::membership;

/// An AF_PACKET socket for whole Ethernet frames, each behind a virtio_net_hdr.
#[derive(Debug)]
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// A socket that receives nothing until it is bound.
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        Ok(Self { fd })
    }

    /// What has to be set before the ring exists.
    pub(super) fn configure(&self, qdisc_bypass: bool) -> io::Result<()> {
        self.set(libc::PACKET_VERSION, &TPACKET_V2)?;
        self.set(libc::PACKET_VNET_HDR, &1u32)?;
        match self.set(libc::PACKET_IGNORE_OUTGOING, &1u32) {
            // Linux before 4.20: the ring's reader skips these frames.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {}
            other => other?,
        }
        if qdisc_bypass {
            self.set(libc::PACKET_QDISC_BYPASS, &1u32)?;
        }
        // Room for a burst of superframes in the interface's queue. The limit of an ordinary user
        // is lower, and good enough.
        if sockopt::set_socket_send_buffer_size_force(&self.fd, SEND_BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(&self.fd, SEND_BUFFER)?;
        }
        Ok(())
    }

    /// Makes the kernel allocate the receive ring.
    pub(super) fn create_ring(&self, slots_per_block: usize, blocks: usize) -> io::Result<()> {
        self.set(
            libc::PACKET_RX_RING,
            &TpacketReq {
                block_size: (slots_per_block * SLOT_LEN) as u32,
                block_nr: blocks as u32,
                frame_size: SLOT_LEN as u32,
                frame_nr: (slots_per_block * blocks) as u32,
            },
        )
    }

    /// Lets multicast frames in, which IPv6 neighbour discovery needs, and those to `mac`.
    pub(super) fn receive_filter(&self, interface: u32, mac: Option<MacAddr>) -> io::Result<()> {
        membership::join(self.fd.as_fd(), interface, mac)
    }

    /// Starts to receive the frames of all protocols on one interface.
    pub(super) fn bind(&self, interface: u32) -> io::Result<()> {
        let address = SockaddrLl {
            family: libc::AF_PACKET as u16,
            protocol: (libc::ETH_P_ALL as u16).to_be(),
            interface: interface as i32,
            ..SockaddrLl::default()
        };
        // SAFETY: the pointer and length are those of one live value, which the kernel only reads.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<SockaddrLl>() as u32,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Joins a fanout group, which is made if it does not exist: its number, and its type and flags
    /// from bit 16 on.
    pub(super) fn join_fanout(&self, group: u32) -> io::Result<()> {
        self.set(libc::PACKET_FANOUT, &group)
    }

    /// The group this socket is in, as [`join_fanout`](Self::join_fanout) takes it.
    pub(super) fn fanout(&self) -> io::Result<u32> {
        self.get(libc::PACKET_FANOUT)
    }

    /// Sets the program that chooses a member of the group, by its result modulo their number.
    pub(super) fn set_fanout_program(&self, program: &[sock_filter]) -> io::Result<()> {
        attach(self.fd.as_raw_fd(), (libc::SOL_PACKET, libc::PACKET_FANOUT_DATA), program)
    }

    /// Frames dropped since the last call because the ring was full.
    pub(super) fn take_drops(&self) -> io::Result<u32> {
        let stats: TpacketStats = self.get(libc::PACKET_STATISTICS)?;
        Ok(stats.drops)
    }

    /// Takes the pending error: ENETDOWN if the interface went down, ENXIO if it was removed.
    pub(super) fn take_error(&self) -> io::Result<()> {
        match sockopt::socket_error(&self.fd)? {
            Ok(()) => Ok(()),
            Err(_) if self.interface_is_gone() => Err(io::Error::from_raw_os_error(libc::ENXIO)),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the interface was removed: the kernel then sets the bound index to -1.
    fn interface_is_gone(&self) -> bool {
        let mut address = SockaddrLl::default();
        let mut len = size_of::<SockaddrLl>() as u32;
        // SAFETY: the pointer is to a live value that may hold any bytes, and `len` is its size.
        let result = unsafe {
            libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len)
        };
        result == 0 && address.interface < 0
    }

    fn get<T: FromBytes + Default>(&self, option: i32) -> io::Result<T> {
        let mut value = T::default();
        let mut len = size_of::<T>() as u32;
        // SAFETY: the pointer is to a live value that may hold any bytes, and `len` is its size.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
    }

    fn set<T: IntoBytes + Immutable>(&self, option: i32, value: &T) -> io::Result<()> {
        let bytes = value.as_bytes();
        // SAFETY: the pointer and length are those of one live slice, which the kernel only reads.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                bytes.as_ptr().cast(),
                bytes.len() as u32,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const SEND_BUFFER: usize = 8 << 20;

/// Gives a classic BPF program to an option (level and name) of a socket.
pub(super) fn attach(
    socket: RawFd,
    (level, name): (i32, i32),
    program: &[sock_filter],
) -> io::Result<()> {
    let value = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the pointer and length are those of one live value, whose own pointer and length are
    // those of a live slice. The kernel copies both and writes to neither.
    let result = unsafe {
        libc::setsockopt(
            socket,
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct tpacket_req`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct TpacketReq {
    block_size: u32,
    block_nr: u32,
    frame_size: u32,
    frame_nr: u32,
}

/// `struct tpacket_stats`.
#[derive(Default, FromBytes, KnownLayout)]
#[repr(C)]
struct TpacketStats {
    packets: u32,
    drops: u32,
}

/// `struct sockaddr_ll`.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SockaddrLl {
    family: u16,
    protocol: u16,
    interface: i32,
    hardware_type: u16,
    packet_type: u8,
    address_len: u8,
    address: [u8; 8],
}
