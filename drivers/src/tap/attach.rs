//! Getting hold of the interface.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{c_int, c_short, c_uint, c_ulong};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use underpass_devices::MacAddr;

use super::TapConfig;
use crate::netlink::{Link, Netlink, NetlinkError};
use crate::open::{is_busy, retry_while_busy};
use crate::{OpenError, vnet_hdr};

/// A queue of an interface that is up.
pub(super) struct Attached {
    pub(super) file: OwnedFd,
    pub(super) mac: MacAddr,
    pub(super) mtu: usize,
}

/// The opening of a queue of the interface called `name`.
pub(super) struct Opening<'a> {
    pub(super) name: &'a str,
    pub(super) config: &'a TapConfig,
}

impl Opening<'_> {
    /// Opens a queue, and sets the interface up as the configuration says.
    pub(super) fn attach(&self) -> Result<Attached, OpenError> {
        self.check_name()?;
        self.config.check().map_err(|reason| self.unsuitable(reason))?;
        let file = self.open_control()?;
        self.join_interface(&file)?;
        set_header_len(&file)
            .map_err(|error| self.failed("setting the length of virtio_net_hdr", error))?;
        set_offloads(&file, self.config.offload)
            .map_err(|error| self.failed("setting the offloads", error))?;
        let link = self.set_up()?;

        let kernels = link.mac.unwrap_or_default();
        let mac = self.config.mac.unwrap_or_else(|| sibling(kernels));
        if mac == kernels {
            return Err(self.unsuitable(format!(
                "mac={mac} is the kernel's address on the interface; take another"
            )));
        }
        let mtu = link.mtu;
        Ok(Attached { file, mac, mtu })
    }

    pub(super) fn unsuitable(&self, reason: impl Into<String>) -> OpenError {
        OpenError::Unsuitable { device: self.device(), reason: reason.into() }
    }

    fn check_name(&self) -> Result<(), OpenError> {
        let name = self.name;
        let most = libc::IFNAMSIZ - 1;
        if name.len() > most {
            let len = name.len();
            return Err(self.unsuitable(format!(
                "the name has {len} bytes; an interface's name has at most {most}"
            )));
        }
        let forbidden = |c: char| c.is_whitespace() || "/:%\0".contains(c);
        if name.is_empty() || name == "." || name == ".." || name.contains(forbidden) {
            return Err(self.unsuitable(format!("'{name}' is not a name the kernel takes")));
        }
        Ok(())
    }

    fn open_control(&self) -> Result<OwnedFd, OpenError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => OpenError::KernelLacks {
                device: self.device(),
                feature: "/dev/net/tun (CONFIG_TUN); load it with: modprobe tun; for a container: \
                          --device /dev/net/tun",
            },
            Errno::ACCESS | Errno::PERM => self.not_permitted(
                "read and write access to /dev/net/tun (chmod 666 /dev/net/tun; for a container: \
                 --device /dev/net/tun)",
            ),
            _ => self.failed("opening /dev/net/tun", errno.into()),
        })
    }

    fn join_interface(&self, file: &OwnedFd) -> Result<(), OpenError> {
        let name = self.name;
        let several = self.config.queues > 1;
        let join = |several| retry_while_busy(|| set_interface(file, name, several));
        let result = match join(several) {
            // A persistent interface may have been made for several queues; one will do.
            Err(error) if !several && error.raw_os_error() == Some(libc::EINVAL) => join(true),
            result => result,
        };
        let queues = if several { " multi_queue" } else { "" };
        result.map_err(|error| match Errno::from_io_error(&error) {
            _ if is_busy(&error) => {
                OpenError::Busy { device: self.device(), hint: "; take another name" }
            }
            Some(Errno::TOOBIG) => {
                OpenError::Busy { device: self.device(), hint: "; all its queues are taken" }
            }
            Some(Errno::PERM | Errno::ACCESS) => self.not_permitted(format!(
                "CAP_NET_ADMIN, or an interface made for this user; as root: ip tuntap add dev \
                 {name} mode tap user {user}{queues} && ip link set {name} up",
                user = user_name(),
            )),
            Some(Errno::INVAL) if several => self.unsuitable(
                "an interface of this name exists and is not a TAP interface with several queues \
                 (ip tuntap add ... mode tap multi_queue)",
            ),
            Some(Errno::INVAL) => {
                self.unsuitable("an interface of this name exists and is not a TAP interface")
            }
            _ => self.failed("creating or attaching to the interface", error),
        })
    }

    /// MTU, addresses and "up", as far as they are not so already.
    fn set_up(&self) -> Result<Link, OpenError> {
        let name = self.name;
        let refused = |error| self.refused(error);
        let mut netlink = Netlink::open().map_err(refused)?;
        let link = netlink.link(name).map_err(refused)?;
        if let Some(mtu) = self.config.mtu
            && mtu != link.mtu
        {
            netlink.set_mtu(name, mtu).map_err(refused)?;
        }
        for host in &self.config.host {
            netlink.add_address(name, host.addr(), host.prefix_len()).map_err(refused)?;
        }
        if !link.up {
            netlink.set_up(name, true).map_err(|error| match error {
                NetlinkError::NotPermitted { .. } => {
                    OpenError::Down { device: self.device(), interface: name.to_owned() }
                }
                error => refused(error),
            })?;
        }
        netlink.link(name).map_err(refused)
    }

    fn refused(&self, error: NetlinkError) -> OpenError {
        match error {
            NetlinkError::NotPermitted { request } => {
                self.not_permitted(format!("CAP_NET_ADMIN for {request}"))
            }
            NetlinkError::NoSuchLink(_) => OpenError::NoSuchInterface { device: self.device() },
            error => self.unsuitable(error.to_string()),
        }
    }

    fn not_permitted(&self, needs: impl Into<String>) -> OpenError {
        OpenError::NotPermitted { device: self.device(), needs: needs.into() }
    }

    fn failed(&self, step: &'static str, source: io::Error) -> OpenError {
        OpenError::Io { device: self.device(), step, source }
    }

    fn device(&self) -> String {
        format!("tap:{}", self.name)
    }
}

/// A locally administered address that belongs to the interface as its own does, and differs from
/// it: as lasting as the interface, and the same for all its queues.
fn sibling(mac: MacAddr) -> MacAddr {
    let mut seed = [0; 8];
    seed[2..].copy_from_slice(&mac.0);
    MacAddr::local(u64::from_be_bytes(seed) ^ 0x0055_0000_0000)
}

fn user_name() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten()
        .map_or_else(|| "$USER".to_owned(), |user| user.name)
}

fn set_interface(file: &OwnedFd, name: &str, several_queues: bool) -> io::Result<()> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if several_queues {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    // SAFETY: `ifreq` is plain C data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero, whatever the length of the name.
    let room = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (to, from) in room.zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

fn set_header_len(file: &OwnedFd) -> io::Result<()> {
    let len = vnet_hdr::LEN as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one `int`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// What the kernel may leave to us in the frames it sends.
fn set_offloads(file: &OwnedFd, on: bool) -> io::Result<()> {
    let all = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let offloads: c_uint = if on { all } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes the flags themselves, and no pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(offloads)) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_address_is_local_and_never_the_kernels() {
        for mac in ["02:00:00:00:00:01", "52:54:00:12:34:56", "00:00:00:00:00:00"] {
            let mac: MacAddr = mac.parse().unwrap();
            let ours = sibling(mac);
            assert_ne!(ours, mac);
            assert!(ours.is_unicast());
            assert_eq!(ours.0[0] & 0x02, 0x02);
        }
    }

    #[test]
    fn names_the_kernel_would_refuse_or_change_are_refused() {
        let config = TapConfig::default();
        let check = |name| Opening { name, config: &config }.check_name();
        assert!(check("tap0").is_ok());
        assert!(check("fifteen-letters").is_ok());
        assert_eq!(
            check("sixteen-letters-").unwrap_err().to_string(),
            "tap:sixteen-letters-: the name has 16 bytes; an interface's name has at most 15"
        );
        for name in ["", ".", "..", "a b", "a/b", "a:b", "tap%d", "a\0b"] {
            let text = check(name).unwrap_err().to_string();
            assert!(text.contains("is not a name the kernel takes"), "{text}");
        }
    }
}
