//! A packet socket of the kernel at the far end of a link, made without the driver under test.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_devices::conformance::Peer;
use underpass_drivers::lab::Namespace;

/// Raw frames in and out of one interface of a namespace.
pub(crate) struct KernelPeer {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl KernelPeer {
    pub(crate) fn open(namespace: &Namespace, interface: &str) -> io::Result<Self> {
        let fd = namespace.run(|| -> nix::Result<OwnedFd> {
            let address = getifaddrs()?
                .filter(|entry| entry.interface_name == interface)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .ok_or(Errno::ENODEV)?;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let protocol = SockProtocol::EthAll;
            let fd = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)?;
            setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20))?;
            bind(fd.as_raw_fd(), &address)?;
            Ok(fd)
        })?;
        Ok(Self { fd, buffer: vec![0; 1 << 17] })
    }
}

impl Peer for KernelPeer {
    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        match send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn recv(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let fd = self.fd.as_fd();
        let timeout = Timespec::try_from(timeout).unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))?;
        match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(len) => Ok(Some(self.buffer[..len].to_vec())),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
