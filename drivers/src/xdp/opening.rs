//! The steps of opening a device, and what is said when one fails.

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, getrlimit};
use underpass_devices::{Caps, MacAddr};
use xsk_rs::config::{
    BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig, XDP_UMEM_MIN_CHUNK_SIZE,
};
use xsk_rs::{FrameDesc, Socket, Umem};

use super::socket::{Chunks, Handle, Queue};
use super::{XdpConfig, XdpMode, rx, tx};
use crate::ethtool;
use crate::netlink::Link;
use crate::open::{OpenError, retry_while_busy};

/// The interface being opened, for error messages.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) name: &'a str,
}

/// The division of the UMEM and the sizes of the rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) queues: u32,
    chunk_len: u32,
    /// Bytes of a chunk that a frame may take: not the headroom of XDP programs.
    chunk_room: usize,
    /// The longest frame takes several chunks.
    pub(super) several_chunks: bool,
    rx_slots: u32,
    tx_slots: u32,
}

/// libxdp's `XDP_PACKET_HEADROOM`, in front of every frame.
const HEADROOM: u32 = 256;
const LARGE_CHUNK: u32 = 4096;
const VLAN_TAG: usize = 4;
/// What the map of sockets holds.
const MAX_QUEUES: usize = 64;

impl Opening<'_> {
    /// The number of queues, if the configuration makes sense.
    pub(super) fn check(&self, config: &XdpConfig, queues: usize) -> Result<u32, OpenError> {
        for slots in [config.rx_slots, config.tx_slots] {
            if !slots.is_power_of_two() || slots > XdpConfig::MAX_SLOTS {
                let limit = XdpConfig::MAX_SLOTS;
                return Err(self.unsuitable(&format!("slots are a power of two up to {limit}")));
            }
        }
        if let Some(mac) = config.mac.filter(|mac| !mac.is_unicast()) {
            return Err(self.unsuitable(&format!("{mac} is not the address of one station")));
        }
        let queues = queues.max(1);
        if config.queue.unwrap_or_default() as usize + queues > MAX_QUEUES {
            return Err(
                self.unsuitable(&format!("queues are counted from 0 to {}", MAX_QUEUES - 1))
            );
        }
        let queues = queues as u32;
        let used = ethtool::rx_queues(self.name).ok().flatten().unwrap_or(1);
        if config.queue.is_none() && used > queues {
            return Err(self.unsuitable(&format!(
                "it has {used} receive queues, and a flow may arrive on any; open {used} (--shards \
                 {used}), make it {queues} (ethtool -L {} combined {queues}, or rx {queues} tx \
                 {queues}), or name the queue to open with queue=",
                self.name
            )));
        }
        Ok(queues)
    }

    pub(super) fn mac(&self, link: &Link, config: &XdpConfig) -> Result<MacAddr, OpenError> {
        config
            .mac
            .or_else(|| link.mac.filter(|mac| mac.is_unicast()))
            .ok_or_else(|| self.unsuitable("the interface has no MAC address; give one with mac="))
    }

    pub(super) fn layout(
        &self,
        caps: &Caps,
        config: &XdpConfig,
        queues: u32,
    ) -> Result<Layout, OpenError> {
        let longest = caps.max_frame() + VLAN_TAG;
        let chunk_len = match longest + HEADROOM as usize {
            len if len <= XDP_UMEM_MIN_CHUNK_SIZE as usize => XDP_UMEM_MIN_CHUNK_SIZE,
            _ => LARGE_CHUNK,
        };
        let chunk_room = (chunk_len - HEADROOM) as usize;
        let (rx_slots, tx_slots) = (config.rx_slots as u32, config.tx_slots as u32);
        if longest.div_ceil(chunk_room) > config.tx_slots {
            return Err(self.unsuitable("there are too few tx-slots for one frame of the MTU"));
        }
        let several_chunks = longest > chunk_room;
        Ok(Layout { queues, chunk_len, chunk_room, several_chunks, rx_slots, tx_slots })
    }

    /// Makes the UMEM and a bound socket for each queue.
    pub(super) fn open_sockets(
        &self,
        layout: &Layout,
        config: &XdpConfig,
    ) -> Result<Vec<Queue>, OpenError> {
        let (umem, descriptors) = self.umem(layout, config)?;
        let mut descriptors = descriptors.into_iter();
        let mut queues = Vec::with_capacity(layout.queues as usize);
        let first = config.queue.unwrap_or_default();
        for queue in first..first + layout.queues {
            let mut chunks = |count: u32| {
                let part = descriptors.by_ref().take(count as usize).collect();
                Chunks::new(umem.clone(), layout.chunk_len as usize, part)
            };
            let (rx_chunks, tx_chunks) = (chunks(layout.rx_slots), chunks(layout.tx_slots));
            let (tx_ring, rx_ring, fill, completions) = self.bind(layout, config, &umem, queue)?;
            let socket = Handle::duplicate(rx_ring.fd().as_raw_fd())
                .map_err(|source| self.failed("duplicating the socket", source))?;
            socket
                .enlarge_send_buffer()
                .map_err(|source| self.failed("setting the send buffer", source))?;
            if config.busy_poll {
                socket.prefer_busy_poll().map_err(|source| match source.raw_os_error() {
                    Some(libc::ENOPROTOOPT) => OpenError::KernelLacks {
                        device: self.device(),
                        feature: "preferred busy polling (Linux 5.11)",
                    },
                    _ => self.failed("asking for busy polling", source),
                })?;
            }
            let zero_copy = socket
                .is_zero_copy()
                .map_err(|source| self.failed("asking for the mode", source))?;
            let (chunk_room, again) = (layout.chunk_room, socket.clone());
            queues.push(Queue {
                rx: rx::Parts { ring: rx_ring, fill, chunks: rx_chunks, socket },
                tx: tx::Parts {
                    ring: tx_ring,
                    completions,
                    chunks: tx_chunks,
                    socket: again,
                    chunk_room,
                },
                zero_copy,
            });
        }
        Ok(queues)
    }

    fn umem(
        &self,
        layout: &Layout,
        config: &XdpConfig,
    ) -> Result<(Umem, Vec<FrameDesc>), OpenError> {
        let invalid = |error: &dyn Error| self.unsuitable(&format!("the UMEM: {error}"));
        let size = |slots| QueueSize::new(slots).map_err(|error| invalid(&error));
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(layout.chunk_len).map_err(|error| invalid(&error))?)
            .fill_queue_size(size(layout.rx_slots)?)
            .comp_queue_size(size(layout.tx_slots)?)
            .build()
            .map_err(|error| invalid(&error))?;
        let chunks = layout.queues * (layout.rx_slots + layout.tx_slots);
        let count = NonZeroU32::new(chunks).ok_or_else(|| self.unsuitable("there are no slots"))?;
        Umem::new(umem_config, count, config.huge_pages).map_err(|error| {
            let bytes = u64::from(chunks) * u64::from(layout.chunk_len);
            self.no_umem(os_error(&error), bytes, config.huge_pages)
        })
    }

    fn bind(
        &self,
        layout: &Layout,
        config: &XdpConfig,
        umem: &Umem,
        queue: u32,
    ) -> Result<(xsk_rs::TxQueue, xsk_rs::RxQueue, xsk_rs::FillQueue, xsk_rs::CompQueue), OpenError>
    {
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags |= match config.mode {
            XdpMode::Auto => BindFlags::empty(),
            XdpMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            XdpMode::Copy | XdpMode::Skb => BindFlags::XDP_COPY,
        };
        if layout.several_chunks {
            flags |= BindFlags::XDP_USE_SG;
        }
        let size = |slots| {
            QueueSize::new(slots).map_err(|error| self.unsuitable(&format!("a ring: {error}")))
        };
        let socket_config = SocketConfig::builder()
            .rx_queue_size(size(layout.rx_slots)?)
            .tx_queue_size(size(layout.tx_slots)?)
            .bind_flags(flags)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build();
        let interface =
            self.name.parse().map_err(|_| OpenError::NoSuchInterface { device: self.device() })?;
        let opened = retry_while_busy(|| {
            // SAFETY: libxdp loads no program (`INHIBIT_PROG_LOAD`), and every queue is bound once.
            unsafe { Socket::new(socket_config, umem, &interface, queue) }
                .map_err(|error| os_error(&error).unwrap_or_else(|| io::Error::other(error)))
        });
        let (tx, rx, rings) =
            opened.map_err(|error| self.no_socket(error, queue, config.mode, layout))?;
        match rings {
            Some((fill, completions)) => Ok((tx, rx, fill, completions)),
            None => Err(self.unsuitable(&format!("queue {queue} is opened twice"))),
        }
    }

    /// Why there is no UMEM of so many bytes.
    fn no_umem(&self, error: Option<io::Error>, bytes: u64, huge_pages: bool) -> OpenError {
        let source = error.unwrap_or_else(|| io::Error::other("libxdp failed"));
        let size = format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        match source.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => OpenError::KernelLacks {
                device: self.device(),
                feature: "AF_XDP sockets (CONFIG_XDP_SOCKETS)",
            },
            Some(libc::EPERM | libc::EACCES) => self.not_permitted(),
            Some(libc::ENOMEM) if huge_pages => self.unsuitable(&format!(
                "{size} of huge pages are needed; reserve them with: sysctl vm.nr_hugepages={}",
                bytes.div_ceil(2 << 20)
            )),
            Some(libc::ENOBUFS) => {
                let limit = getrlimit(Resource::Memlock).current;
                let limit = limit.map_or("unlimited".to_owned(), |limit| format!("{limit} bytes"));
                self.unsuitable(&format!(
                    "{size} of locked memory are needed and RLIMIT_MEMLOCK allows {limit}; raise it \
                     (ulimit -l), grant CAP_IPC_LOCK, or lower rx-slots and tx-slots"
                ))
            }
            _ => self.failed("registering the UMEM", source),
        }
    }

    /// Why there is no socket on this queue.
    fn no_socket(
        &self,
        source: io::Error,
        queue: u32,
        mode: XdpMode,
        layout: &Layout,
    ) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EBUSY) => OpenError::Busy {
                device: format!("{}: queue {queue}", self.device()),
                hint: "; take another one with queue=",
            },
            Some(libc::EPERM | libc::EACCES) => self.not_permitted(),
            Some(libc::EOPNOTSUPP) if mode == XdpMode::ZeroCopy => self.unsuitable(
                "the interface's driver has no zero-copy mode; mode=auto takes the best it has",
            ),
            Some(libc::EINVAL) if layout.several_chunks => OpenError::KernelLacks {
                device: self.device(),
                feature: "AF_XDP frames of several buffers, which this MTU needs (Linux 6.6)",
            },
            Some(libc::EINVAL) => {
                self.unsuitable(&format!("the interface has no queue {queue} (ethtool -l)"))
            }
            _ => self.failed("binding to the queue", source),
        }
    }

    pub(super) fn not_permitted(&self) -> OpenError {
        OpenError::NotPermitted {
            device: self.device(),
            needs: "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF: run as root, or grant them to the \
                    program with setcap cap_net_admin,cap_net_raw,cap_bpf+ep PROGRAM"
                .to_owned(),
        }
    }

    pub(super) fn unsuitable(&self, reason: &str) -> OpenError {
        OpenError::Unsuitable { device: self.device(), reason: reason.to_owned() }
    }

    pub(super) fn failed(&self, step: &'static str, source: io::Error) -> OpenError {
        OpenError::Io { device: self.device(), step, source }
    }

    pub(super) fn device(&self) -> String {
        format!("xdp:{}", self.name)
    }
}

/// What the kernel answered, somewhere among the causes of a library's error.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(errno));
        }
        cause = error.source();
    }
    None
}
