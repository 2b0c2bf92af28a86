//! The receive filter of a network card: what it lets in beside broadcasts and its own address.

use std::io;
#[cfg(any(feature = "xdp", feature = "kring"))]
use std::os::fd::OwnedFd;
use std::os::fd::{AsRawFd, BorrowedFd};

#[cfg(any(feature = "xdp", feature = "kring"))]
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use underpass_devices::MacAddr;
use zerocopy::{Immutable, IntoBytes};

/// A packet socket that receives nothing, to [`join`] with.
#[cfg(any(feature = "xdp", feature = "kring"))]
pub(crate) fn silent_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    // Without a protocol, no frame is for it.
    Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?)
}

/// As long as the packet socket is open, the interface lets in all multicast frames and those to
/// `mac` (`PACKET_ADD_MEMBERSHIP`, packet(7)).
pub(crate) fn join(socket: BorrowedFd<'_>, interface: u32, mac: Option<MacAddr>) -> io::Result<()> {
    let all_multicast = PacketMreq {
        interface,
        kind: libc::PACKET_MR_ALLMULTI as u16,
        address_len: 0,
        address: [0; 8],
    };
    add(socket, &all_multicast)?;
    let Some(MacAddr(mac)) = mac else {
        return Ok(());
    };
    let mut address = [0; 8];
    address[..mac.len()].copy_from_slice(&mac);
    let unicast = PacketMreq {
        kind: libc::PACKET_MR_UNICAST as u16,
        address_len: mac.len() as u16,
        address,
        ..all_multicast
    };
    add(socket, &unicast)
}

fn add(socket: BorrowedFd<'_>, membership: &PacketMreq) -> io::Result<()> {
    let bytes = membership.as_bytes();
    // SAFETY: the pointer and length are those of one live slice, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            bytes.as_ptr().cast(),
            bytes.len() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct packet_mreq`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct PacketMreq {
    interface: u32,
    kind: u16,
    address_len: u16,
    address: [u8; 8],
}
