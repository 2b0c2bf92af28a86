//! The ring of our own kernel module (`kmod/`): frames of a network interface that the module takes
//! out of the kernel's receive path; everything else stays the kernel's.
//!
//! What [`Device::select`] asks for becomes the module's rule, so that the interface goes on working
//! for the kernel, with its addresses, while the stack has others on it. The module lets the
//! interface go when the device is closed, and with the process, even by SIGKILL. One device has an
//! interface at a time.
//!
//! Received frames are copied once, in the kernel's receive interrupt, and lent where they were
//! copied to. Frames are sent from where they were written: their headers are copied, the rest is
//! not, unless the interface is one end of a veth pair, whose other end gets a copy. One system call
//! sends a burst; with [`KringConfig::tx_poll_us`] a thread of the kernel looks for frames instead,
//! and no call is made while it is awake. Receiving takes no system call but to sleep.
//!
//! **Offloads.** Checksums and TCP segmentation are left to the interface, or carried out by the
//! kernel for one that has neither; received superframes are delivered whole. Without
//! [`KringConfig::offload`] the module cuts these, and frames take 2 KiB each instead of 64.
//!
//! **What is trusted.** The module believes nothing that is written here, and we believe an index,
//! length or frame number of its only after a look: a frame is in one hand at a time (`ledger.rs`).
//!
//! Source: `kmod/include/uapi/underpass_ring.h`, which a test compares with `uapi.rs`.

mod area;
mod control;
#[cfg(feature = "fuzzing")]
pub(crate) mod doorway;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
mod model;
mod opening;
mod ring;
mod rx;
mod tx;
mod uapi;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use underpass_devices::{Buffers, Caps, Counters, Device, MacAddr, Selection, Service, Wake};

use self::control::{Control, Statistic};
use self::opening::Opening;
use crate::membership;
use crate::open::{OpenError, find_link, retry_while_busy};
use crate::targets;
use crate::vnet_hdr;

pub use self::rx::KringRx;
pub use self::tx::KringTx;

/// How to open a [`KringDevice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KringConfig {
    /// Whether checksums and TCP segmentation may be left to the kernel, both ways.
    pub offload: bool,
    /// Leave to the kernel what the stack does not want. Otherwise every frame goes to the stack.
    pub share: bool,
    /// Station address; `None`: the interface's own.
    pub mac: Option<MacAddr>,
    /// Of the packets to the stack's addresses, only these go to it, and the rest to the kernel;
    /// empty: all.
    pub only: Vec<Service>,
    /// Frames of these EtherTypes go to the stack, too.
    pub ether_types: Vec<u16>,
    /// Frames of this EtherType to the interface's address are sent back by the module itself, and
    /// the stack does not see them: to measure what the way to a process costs.
    pub echo: Option<u16>,
    /// Microseconds for which a thread of the kernel looks for frames to send before it sleeps. 0:
    /// there is none, and a call per burst sends it.
    pub tx_poll_us: u32,
    /// Receive frames, a power of two.
    pub rx_slots: usize,
    /// Transmit frames, a power of two.
    pub tx_slots: usize,
}

impl KringConfig {
    /// Most frames of one direction.
    pub const MAX_SLOTS: usize = uapi::MAX_SLOTS as usize;
}

impl Default for KringConfig {
    /// Shared, offload on, 512 receive and 256 transmit frames.
    fn default() -> Self {
        Self {
            offload: true,
            share: true,
            mac: None,
            only: Vec::new(),
            ether_types: Vec::new(),
            echo: None,
            tx_poll_us: 0,
            rx_slots: 512,
            tx_slots: 256,
        }
    }
}

/// A queue pair on a network interface, through the rings of our kernel module.
#[derive(Debug)]
pub struct KringDevice {
    caps: Caps,
    rx: KringRx,
    tx: KringTx,
    control: Arc<Control>,
    config: KringConfig,
    /// The interface's own address is not the station's.
    own_mac: bool,
    /// Has the NIC let in all multicast frames, which IPv6 needs, and those to an address of our own.
    _receive_filter: OwnedFd,
}

impl KringDevice {
    /// Opens the interface called `name` in the calling thread's network namespace.
    pub fn open(name: &str, config: &KringConfig) -> Result<Self, OpenError> {
        let opening = Opening { name };
        opening.check(config)?;
        let link = find_link(opening.device(), name)?;
        let mac = opening.mac(&link, config)?;
        let own_mac = link.mac != Some(mac);
        let mut caps =
            Caps { shares_mac: config.share && !own_mac, ..Caps::ethernet(mac, link.mtu) };
        if config.offload {
            caps = caps.with_offloads(vnet_hdr::MAX_SUPERFRAME);
        }
        let control = Control::open().map_err(|source| opening.no_module(source))?;
        let control = Arc::new(control);
        let area = opening.area(&control, &caps, config)?;
        let receive_filter = membership::silent_socket()
            .and_then(|socket| {
                membership::join(socket.as_fd(), link.index, own_mac.then_some(mac))
                    .map(|()| socket)
            })
            .map_err(|source| opening.no_filter(source))?;
        let rx = KringRx::new(&area);
        let tx = KringTx::new(&area, caps.clone(), Arc::clone(&control));
        let mut device = Self {
            caps,
            rx,
            tx,
            control,
            config: config.clone(),
            own_mac,
            _receive_filter: receive_filter,
        };
        device
            .select(&Selection::default())
            .map_err(|source| opening.failed("giving the module its rule", source))?;
        retry_while_busy(|| device.control.attach(link.index, config))
            .map_err(|source| opening.not_attached(source))?;
        Ok(device)
    }

    /// Opens the interface as `queues` devices (at least one), of which there can be one.
    pub fn open_queues(
        name: &str,
        config: &KringConfig,
        queues: usize,
    ) -> Result<Vec<Self>, OpenError> {
        if queues > 1 {
            return Err(Opening { name }.unsuitable("the module has one queue pair per interface"));
        }
        Ok(vec![Self::open(name, config)?])
    }
}

impl Device for KringDevice {
    type Rx<'a> = &'a mut KringRx;
    type Tx<'a> = &'a mut KringTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut KringRx, &mut KringTx) {
        (&mut self.rx, &mut self.tx)
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        // Neither frames that the kernel did not take nor those that it still has make the
        // descriptor readable.
        if self.tx.is_stalled() || self.rx.is_ready()? {
            return Ok(Wake::Ready);
        }
        Ok(Wake::Fd(self.control.as_fd()))
    }

    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        let targets = targets::of(&wanted.selectors, &self.config.only, &self.config.ether_types);
        let mut flags = 0;
        if !self.config.share {
            flags |= uapi::TAKE_ALL;
        }
        if self.own_mac {
            flags |= uapi::OWN_MAC;
        }
        self.control.set_rule(flags, wanted.vlan, self.caps.mac, &targets)
    }

    /// Asks the module: not for every frame.
    fn counters(&self) -> Counters {
        let stats = self.control.statistics().unwrap_or_default();
        let sum = |of: &[Statistic]| of.iter().map(|what| stats[*what as usize]).sum::<u64>();
        let (rx, tx) = (self.rx.counters(), self.tx.counters());
        Counters {
            rx_overruns: sum(&[Statistic::RxNoFrame, Statistic::RxRingFull, Statistic::RxNoMemory]),
            rx_errors: rx.rx_errors + sum(&[Statistic::RxTooLong]),
            tx_errors: sum(&[Statistic::TxDropped, Statistic::TxBadFrame]),
            rx_frames: rx.rx_frames,
            rx_bytes: rx.rx_bytes,
            ..tx
        }
    }

    fn buffers(&self) -> Buffers {
        self.rx.buffers(self.tx.buffers())
    }
}
