//! AF_XDP: frames of a network interface that an XDP program of ours picks out before the kernel's
//! network stack sees them; everything else stays the kernel's.
//!
//! The interface keeps working for the kernel, with its addresses, while the stack has others on it:
//! the [`Selection`] that the stack gives its device ([`Device::select`]) becomes entries of a BPF
//! map. The program goes when the device is closed, and with the process, even by SIGKILL: it hangs
//! on a BPF link, which is a file descriptor. It also carries a filter with counters, which
//! [`XdpControl`] changes and reads, from any process.
//!
//! Frames are lent where the kernel or the NIC wrote them, in memory that we registered with it
//! (UMEM), and are written where it takes them. In zero-copy mode that is where the NIC's DMA engine
//! reads and writes; elsewhere the kernel copies each frame once.
//!
//! **What is shared.** Frames are picked by destination address. Broadcasts stay with the kernel,
//! and so does what comes for the kernel's addresses. The stack must have IP addresses of its own;
//! its MAC address may be the interface's. With `share=off` every frame goes to the stack.
//!
//! **Queues.** A socket sees the frames of one queue of the NIC, and the NIC chooses the queue of a
//! flow. So there is one socket for each (`ethtool -L eth0 combined 1` makes it one), unless the
//! first one is named: what arrives on the other queues goes to the kernel.
//!
//! **MTU.** One chunk of the UMEM holds a frame of up to 3840 bytes. Longer ones take several chunks
//! (`XDP_USE_SG`, Linux 6.6) and are copied once more, into one piece.
//!
//! **veth.** Attaching a program switches the peer's TSO off. Its checksums may still be partial
//! (only the pseudo-header summed, as between two interfaces of one kernel); the driver tells them by
//! their value. The NIC's offloads cannot be asked for through AF_XDP.
//!
//! Sources: Documentation/networking/af_xdp.rst, bpf-helpers(7), libxdp's `xsk.h`.

mod control;
mod maps;
mod opening;
mod program;
#[cfg(all(test, feature = "lab"))]
mod program_tests;
mod rules;
mod rx;
mod socket;
mod tx;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use underpass_devices::{Buffers, Caps, Counters, Device, MacAddr, Selection, Service, Wake};

use self::opening::Opening;
use self::program::Program;
use self::socket::Queue;
use crate::open::{OpenError, find_link};

pub use self::control::{ControlError, ProgramInfo, XdpControl};
pub use self::rx::XdpRx;
pub use self::tx::XdpTx;

/// How to open an [`XdpDevice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    /// The queue of the interface, or the first of several; the stack then sees what arrives on these.
    /// `None`: all, and there must be no more than are opened.
    pub queue: Option<u32>,
    /// How frames get into and out of the UMEM.
    pub mode: XdpMode,
    /// Leave to the kernel what the stack does not want. Otherwise every frame goes to the stack.
    pub share: bool,
    /// Station address; `None`: the interface's own.
    pub mac: Option<MacAddr>,
    /// Of the packets to the stack's addresses, only these go to it, and the rest to the kernel;
    /// empty: all.
    pub only: Vec<Service>,
    /// Frames of these EtherTypes go to the stack, too.
    pub ether_types: Vec<u16>,
    /// Drive the NIC's interrupt work from our own receive calls (`SO_PREFER_BUSY_POLL`): for a shard
    /// that polls all the time.
    pub busy_poll: bool,
    /// Take the UMEM from huge pages, which must be there (`vm.nr_hugepages`).
    pub huge_pages: bool,
    /// Receive chunks, a power of two.
    pub rx_slots: usize,
    /// Transmit chunks, a power of two.
    pub tx_slots: usize,
}

impl XdpConfig {
    /// Most chunks of one direction.
    pub const MAX_SLOTS: usize = 32_768;
}

impl Default for XdpConfig {
    /// Shared, best mode, 2048 chunks each way.
    fn default() -> Self {
        Self {
            queue: None,
            mode: XdpMode::Auto,
            share: true,
            mac: None,
            only: Vec::new(),
            ether_types: Vec::new(),
            busy_poll: false,
            huge_pages: false,
            rx_slots: 2048,
            tx_slots: 2048,
        }
    }
}

/// How frames get into and out of the UMEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// The best that the interface's driver has.
    #[default]
    Auto,
    /// By DMA. Few drivers do this.
    ZeroCopy,
    /// Copied by the kernel, before it has made a packet buffer (native XDP).
    Copy,
    /// Copied by the kernel out of its packet buffers (generic XDP): every interface does this.
    Skb,
}

impl FromStr for XdpMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "zerocopy" => Ok(Self::ZeroCopy),
            "copy" => Ok(Self::Copy),
            "skb" => Ok(Self::Skb),
            _ => Err(()),
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::ZeroCopy => "zerocopy",
            Self::Copy => "copy",
            Self::Skb => "skb",
        })
    }
}

/// A queue pair on a network interface, through an AF_XDP socket.
#[derive(Debug)]
pub struct XdpDevice {
    caps: Caps,
    rx: XdpRx,
    tx: XdpTx,
    mode: XdpMode,
    /// One for all queues that were opened together. Behind the queues, so that they close first.
    program: Arc<Mutex<Program>>,
}

impl XdpDevice {
    /// Opens a queue of the interface called `name` in the calling thread's network namespace.
    pub fn open(name: &str, config: &XdpConfig) -> Result<Self, OpenError> {
        let mut devices = Self::open_queues(name, config, 1)?;
        devices.pop().ok_or_else(|| Opening { name }.unsuitable("no queue was opened"))
    }

    /// Opens `queues` queues of the interface (at least one), from the first or from
    /// [`XdpConfig::queue`] on, as devices that share one UMEM and one program.
    pub fn open_queues(
        name: &str,
        config: &XdpConfig,
        queues: usize,
    ) -> Result<Vec<Self>, OpenError> {
        let opening = Opening { name };
        let link = find_link(opening.device(), name)?;
        let queues = opening.check(config, queues)?;
        let mac = opening.mac(&link, config)?;
        let shares_mac = config.share && link.mac == Some(mac);
        let caps = Caps { shares_mac, ..Caps::ethernet(mac, link.mtu) };

        let layout = opening.layout(&caps, config, queues)?;
        let opened = opening.open_sockets(&layout, config)?;
        let (program, native) = Program::attach(&opening, &link, config, &layout, mac, &opened)?;
        let partial_checksums = link.kind.is_some() || !native;
        let program = Arc::new(Mutex::new(program));
        let mut devices = Vec::with_capacity(queues as usize);
        for Queue { rx, tx, zero_copy } in opened {
            devices.push(Self {
                caps: caps.clone(),
                rx: XdpRx::new(rx, partial_checksums, config.busy_poll),
                tx: XdpTx::new(tx, caps.clone(), zero_copy),
                mode: match (zero_copy, native) {
                    (true, _) => XdpMode::ZeroCopy,
                    (false, true) => XdpMode::Copy,
                    (false, false) => XdpMode::Skb,
                },
                program: Arc::clone(&program),
            });
        }
        Ok(devices)
    }

    /// The mode in use: never [`XdpMode::Auto`].
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// The filter and the counters of the program on this device's interface.
    pub fn control(&self) -> Result<XdpControl, ControlError> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner).control()
    }
}

impl Device for XdpDevice {
    type Rx<'a> = &'a mut XdpRx;
    type Tx<'a> = &'a mut XdpTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut XdpRx, &mut XdpTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        // Neither frames that the kernel did not take nor chunks that it still has make a descriptor
        // readable.
        if self.tx.is_stalled() {
            return Ok(Wake::Ready);
        }
        self.rx.wake()
    }

    /// Asks the kernel for what it dropped: not for every frame.
    fn counters(&self) -> Counters {
        self.rx.counters(self.tx.counters())
    }

    fn buffers(&self) -> Buffers {
        self.rx.buffers(self.tx.buffers())
    }

    /// For all queues that were opened together.
    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner).select(wanted)
    }
}
