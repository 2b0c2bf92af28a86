//! The XDP program on the interface, for as long as this value lives.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, XskMap};
use aya::programs::Xdp;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode as AttachMode;
use aya::{Ebpf, EbpfLoader};
use underpass_devices::{MacAddr, Selection};

use super::control::{ControlError, XdpControl};
use super::maps::{self, Settings, Target};
use super::opening::{Layout, Opening, os_error};
use super::socket::Queue;
use super::{XdpConfig, XdpMode};
use crate::membership;
use crate::netlink::Link;
use crate::open::{OpenError, retry_while_busy};
use crate::targets;

/// Its ELF object, compiled from `bpf/underpass.bpf.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/underpass.bpf.o"));

/// The program for frames of one buffer, and for longer ones.
pub(super) const NAMES: [&str; 2] = ["underpass", "underpass_frags"];

/// The program, attached.
pub(super) struct Program {
    /// Dropping it detaches the program, and so does the end of the process.
    _link: FdLink,
    /// Has the NIC let in all multicast frames, which IPv6 needs, and those to an address of our own.
    _receive_filter: OwnedFd,
    id: u32,
    interface: String,
    config: XdpConfig,
    settings: Array<MapData, Settings>,
    current: Settings,
    targets: BpfHashMap<MapData, Target, u32>,
    /// What [`targets`](Self::targets) holds.
    steered: HashMap<Target, u32>,
    /// Keeps the program and its other maps loaded.
    #[cfg_attr(not(test), allow(dead_code, reason = "held, not used"))]
    object: Ebpf,
}

impl Program {
    /// Loads the program, attaches it and gives it the sockets. Also returns whether the interface's
    /// driver runs it (native XDP).
    pub(super) fn attach(
        opening: &Opening<'_>,
        link: &Link,
        config: &XdpConfig,
        layout: &Layout,
        mac: MacAddr,
        queues: &[Queue],
    ) -> Result<(Self, bool), OpenError> {
        let mut object = EbpfLoader::new()
            .load(OBJECT)
            .map_err(|error| opening.no_program("loading the XDP program", &error))?;
        let name = NAMES[usize::from(layout.several_chunks)];
        let program: &mut Xdp = object
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| opening.unsuitable("the XDP program is not in its object"))?;
        program.load().map_err(|error| opening.no_program("loading the XDP program", &error))?;
        let id = program
            .info()
            .map_err(|error| opening.no_program("reading about the XDP program", &error))?
            .id();
        let mut sockets = XskMap::try_from(take(opening, &mut object, maps::SOCKETS)?)
            .map_err(|error| opening.no_program("opening the map of sockets", &error))?;
        let settings = Array::try_from(take(opening, &mut object, maps::SETTINGS)?)
            .map_err(|error| opening.no_program("opening the map of settings", &error))?;
        let targets = BpfHashMap::try_from(take(opening, &mut object, maps::TARGETS)?)
            .map_err(|error| opening.no_program("opening the map of targets", &error))?;
        for (index, queue) in (config.queue.unwrap_or_default()..).zip(queues) {
            sockets
                .set(index, queue.rx.socket.as_fd().as_raw_fd(), 0)
                .map_err(|error| opening.no_program("giving the program its sockets", &error))?;
        }
        let mut flags = 0;
        if !config.share {
            flags |= maps::TAKE_ALL;
        }
        if link.mac != Some(mac) {
            flags |= maps::OWN_MAC;
        }
        let current = Settings { flags, mac: mac.0, ..Settings::default() };
        let own_mac = (link.mac != Some(mac)).then_some(mac);
        let receive_filter = membership::silent_socket()
            .and_then(|socket| {
                membership::join(socket.as_fd(), link.index, own_mac).map(|()| socket)
            })
            .map_err(|source| opening.failed("setting the receive filter", source))?;

        let program: &mut Xdp = object
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| opening.unsuitable("the XDP program is not in its object"))?;
        let (link, native) = attach_to(opening, program, link, config.mode)?;
        let mut program = Self {
            _link: link,
            _receive_filter: receive_filter,
            id,
            interface: opening.name.to_owned(),
            config: config.clone(),
            settings,
            current,
            targets,
            steered: HashMap::new(),
            object,
        };
        program
            .select(&Selection::default())
            .map_err(|source| opening.failed("setting up the XDP program", source))?;
        Ok((program, native))
    }

    /// Steers what is wanted to the stack, and nothing else. What is wanted before and after goes on
    /// arriving meanwhile.
    pub(super) fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        let targets = targets::of(&wanted.selectors, &self.config.only, &self.config.ether_types);
        if targets.len() > maps::MAX_TARGETS {
            return Err(io::Error::other(format!(
                "{} entries are needed to steer what the stack wants, and there is room for {}",
                targets.len(),
                maps::MAX_TARGETS
            )));
        }
        let kinds =
            targets.keys().fold(0, |kinds, target: &Target| kinds | maps::has_bit(target.kind));
        self.current.vlan = wanted.vlan.map_or(0, underpass_devices::VlanId::number);
        // Looking for a kind that is not there does no harm; not looking for one that is does.
        self.current.targets |= kinds;
        self.apply_settings()?;
        let gone: Vec<_> =
            self.steered.keys().filter(|target| !targets.contains_key(target)).copied().collect();
        for target in gone {
            self.targets.remove(&target).map_err(|error| map_error(&error))?;
            self.steered.remove(&target);
        }
        for (target, flags) in targets {
            if self.steered.get(&target) != Some(&flags) {
                self.targets.insert(target, flags, 0).map_err(|error| map_error(&error))?;
                self.steered.insert(target, flags);
            }
        }
        self.current.targets = kinds;
        self.apply_settings()
    }

    /// The filter and the counters.
    pub(super) fn control(&self) -> Result<XdpControl, ControlError> {
        XdpControl::of_program(self.id, &self.interface)
    }

    /// The program itself, for frames of one buffer.
    #[cfg(all(test, feature = "lab"))]
    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        let program: &Xdp =
            self.object.program(NAMES[0]).and_then(|program| program.try_into().ok()).unwrap();
        program.fd().unwrap().as_fd()
    }

    fn apply_settings(&mut self) -> io::Result<()> {
        self.settings.set(0, self.current, 0).map_err(|error| map_error(&error))
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, interface, current, .. } = self;
        f.debug_struct("Program")
            .field("id", id)
            .field("interface", interface)
            .field("settings", current)
            .finish_non_exhaustive()
    }
}

/// Attaches by a BPF link, in the best way that `mode` allows.
fn attach_to(
    opening: &Opening<'_>,
    program: &mut Xdp,
    link: &Link,
    mode: XdpMode,
) -> Result<(FdLink, bool), OpenError> {
    let native = match mode {
        XdpMode::Skb => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        _ => attach_once(program, link.index, AttachMode::Driver),
    };
    match native {
        Ok(fd) => return Ok((fd, true)),
        Err(error)
            if error.raw_os_error() == Some(libc::EOPNOTSUPP)
                && matches!(mode, XdpMode::Auto | XdpMode::Skb) =>
        {
            if mode == XdpMode::Auto {
                tracing::info!("{}: the driver has no XDP; generic XDP it is", opening.device());
            }
        }
        Err(error) => return Err(opening.not_attached(error)),
    }
    attach_once(program, link.index, AttachMode::Skb)
        .map(|fd| (fd, false))
        .map_err(|error| opening.not_attached(error))
}

fn attach_once(program: &mut Xdp, index: u32, mode: AttachMode) -> io::Result<FdLink> {
    retry_while_busy(|| {
        let id = program.attach_to_if_index(index, mode).map_err(|error| map_error(&error))?;
        let link = program.take_link(id).map_err(|error| map_error(&error))?;
        // A kernel without links for XDP would leave the program behind when the process is killed.
        FdLink::try_from(link).map_err(|_| io::Error::from_raw_os_error(libc::ENOSYS))
    })
}

fn take(opening: &Opening<'_>, object: &mut Ebpf, name: &str) -> Result<Map, OpenError> {
    object
        .take_map(name)
        .ok_or_else(|| opening.unsuitable(&format!("the XDP program has no map {name}")))
}

/// What the kernel answered, or else what the library says.
fn map_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    os_error(error).unwrap_or_else(|| io::Error::other(error.to_string()))
}

impl Opening<'_> {
    fn no_program(
        &self,
        step: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) -> OpenError {
        let source = map_error(error);
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => self.not_permitted(),
            Some(libc::ENOSYS) => OpenError::KernelLacks {
                device: self.device(),
                feature: "the bpf system call (CONFIG_BPF_SYSCALL)",
            },
            _ => self.failed(step, source),
        }
    }

    fn not_attached(&self, source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => OpenError::Busy {
                device: self.device(),
                hint: "; an XDP program is attached to the interface: ip link show tells which, \
                       ip link set dev INTERFACE xdp off removes it",
            },
            Some(libc::EPERM | libc::EACCES) => self.not_permitted(),
            Some(libc::EOPNOTSUPP) => self.unsuitable(
                "the interface's driver has no XDP; mode=skb does without, a little slower",
            ),
            Some(libc::ENOSYS) => OpenError::KernelLacks {
                device: self.device(),
                feature: "BPF links for XDP (Linux 5.9)",
            },
            Some(libc::ERANGE | libc::EINVAL) => self.unsuitable(
                "the MTU of the interface, or of its peer, is too large for its driver's XDP; lower \
                 it (ip link set mtu) or take mode=skb",
            ),
            Some(libc::ENOSPC) => self.unsuitable(
                "the peer has more transmit queues than this interface has receive queues; make \
                 both alike (ethtool -L)",
            ),
            _ => self.failed("attaching the XDP program", source),
        }
    }
}
