//! How many queues a network interface uses (`ETHTOOL_GCHANNELS`, linux/ethtool.h).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const ETHTOOL_GCHANNELS: u32 = 0x3c;
#[cfg(feature = "lab")]
const ETHTOOL_SCHANNELS: u32 = 0x3d;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_channels`
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// Receive queues in use of an interface of the calling thread's network namespace. `None`: its
/// driver does not tell; most of those have one.
#[cfg(feature = "xdp")]
pub(crate) fn rx_queues(interface: &str) -> io::Result<Option<u32>> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    match call(interface, &mut channels) {
        Ok(()) => Ok(Some(channels.rx + channels.combined)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Uses so many queues each way of an interface that counts them apart, as veth does.
#[cfg(feature = "lab")]
pub(crate) fn set_queues(interface: &str, queues: u32) -> io::Result<()> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    call(interface, &mut channels)?;
    let mut wanted = Channels { command: ETHTOOL_SCHANNELS, rx: queues, tx: queues, ..channels };
    call(interface, &mut wanted)
}

fn call(interface: &str, channels: &mut Channels) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    // SAFETY: all fields of an ifreq are integers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(channels).cast();
    // SAFETY: the request is live and names a live value of the size that both commands read and
    // write.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
