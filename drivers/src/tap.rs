//! A TAP interface: the Linux kernel itself is the station at the other end of the link.
//!
//! The kernel treats `tap0` as a network card of its own, and what it sends through that card is
//! what [`TapDevice`] receives. With `offload=on` both sides exchange TCP superframes of up to
//! 64 KiB and leave checksums open (`struct virtio_net_hdr`), since no wire is in between.
//!
//! **How frames move.** Received frames are taken with `read`, until there are none. Sent frames
//! are queued, and a burst is handed over by one `io_uring_enter`, a few frames by `write`. Measured
//! on kernel 6.18 in a 2-core KVM guest (64-byte ping-pong against a spinning kernel UDP socket;
//! 1,442-byte frames in bulk), on a shared machine; all of the receive table and the ring with one
//! frame per flush by a prototype of this module that makes the same system calls:
//!
//! | receive | RTT p50 | kframes/s |
//! |---|---|---|
//! | `read` until EAGAIN (taken) | 5.7-6.8 us | 622-636 |
//! | io_uring multishot read, provided buffers | 7.5 us | 571 |
//! | `read`, then 8 reads through io_uring | 11.0 us | 511 |
//!
//! | transmit, ns per frame | 1 per flush | 8 | 32 |
//! |---|---|---|---|
//! | `write` each | 1,205 | 1,038 | 933 |
//! | io_uring | 1,905 | 1,162 | 1,095 |
//!
//! The ring saves system calls, which are cheap on that machine, and pays for each request: so
//! `io=plain` is worth a try where throughput counts. Registered files and buffers,
//! `DEFER_TASKRUN` and `SINGLE_ISSUER` change it by some 5 %.
//!
//! Every write through the ring is `RWF_NOWAIT`, so it is complete when the system call returns:
//! order is kept, nothing is in flight between two flushes, and the interface is free the moment
//! the device is dropped. Where io_uring or `RWF_NOWAIT` is not to be had, all frames go by `write`
//! ([`IoMode::Plain`]).
//!
//! Source: Documentation/networking/tuntap.rst of the Linux kernel.

mod attach;
mod config;
mod overruns;
mod receive;
mod ring;
mod transmit;

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use underpass_devices::{Buffers, Caps, Counters, Device, Wake};

use crate::{OpenError, vnet_hdr};

pub use self::config::{IoMode, ParseIoModeError, TapConfig};
pub use self::receive::TapRx;
pub use self::transmit::TapTx;

use self::attach::{Attached, Opening};
use self::overruns::Overruns;
use self::ring::WriteRing;

/// One queue of a TAP interface.
#[derive(Debug)]
pub struct TapDevice {
    name: String,
    caps: Caps,
    rx: TapRx,
    tx: TapTx,
}

impl TapDevice {
    /// Creates the interface called `name` in the network namespace of the calling thread, or
    /// attaches to a persistent one; gives the kernel's side its addresses and brings it up. A
    /// created interface disappears with the device. Waits up to two seconds for an interface that
    /// is in use.
    ///
    /// # Errors
    /// Says what is missing and how to get it. Without CAP_NET_ADMIN it takes an interface made for
    /// this user: `ip tuntap add dev tap0 mode tap user $USER && ip link set tap0 up`.
    pub fn open(name: &str, config: &TapConfig) -> Result<Self, OpenError> {
        let opening = Opening { name, config };
        let Attached { file, mac, mtu } = opening.attach()?;
        let file = Arc::new(file);
        let ring = match config.io {
            Some(IoMode::Plain) => None,
            wanted => match WriteRing::for_tap(Arc::clone(&file), config.slots) {
                Ok(ring) => Some(ring),
                Err(error) if wanted.is_some() => {
                    return Err(opening.unsuitable(format!(
                        "io=uring: {error} (see sysctl kernel.io_uring_disabled and, in a \
                         container, its seccomp profile); io=plain needs no io_uring"
                    )));
                }
                Err(_) => None,
            },
        };
        let mut caps = Caps::ethernet(mac, mtu);
        if config.offload {
            caps = caps.with_offloads(vnet_hdr::MAX_SUPERFRAME);
        }
        Ok(Self {
            name: name.to_owned(),
            rx: TapRx::new(Arc::clone(&file), Overruns::open(name), &caps, config.slots),
            tx: TapTx::new(file, ring, caps.clone(), config.slots),
            caps,
        })
    }

    /// Opens `queues` queues of the interface (at least one). The kernel sends each flow to the queue
    /// that last sent a frame of it, and flows it has seen nothing of by a hash of its own
    /// (Documentation/networking/tuntap.rst, multiqueue).
    pub fn open_queues(
        name: &str,
        config: &TapConfig,
        queues: usize,
    ) -> Result<Vec<Self>, OpenError> {
        let queues = queues.max(1);
        let config = TapConfig { queues: config.queues.max(queues), ..config.clone() };
        (0..queues).map(|_| Self::open(name, &config)).collect()
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How frames are handed to the kernel.
    pub fn io_mode(&self) -> IoMode {
        self.tx.io_mode()
    }
}

impl Device for TapDevice {
    type Rx<'a> = &'a mut TapRx;
    type Tx<'a> = &'a mut TapTx;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (&mut TapRx, &mut TapTx) {
        (&mut self.rx, &mut self.tx)
    }

    /// The TAP's own descriptor: a frame waits in the kernel's queue, and keeps it readable, until
    /// `fill` reads it.
    fn wake(&mut self) -> io::Result<Wake<'_>> {
        if self.tx.is_stalled() {
            return Ok(Wake::Ready);
        }
        Ok(self.rx.wake())
    }

    /// Asks the kernel for the overruns (of all queues of the interface): not for every frame.
    fn counters(&self) -> Counters {
        self.rx.counters(self.tx.counters())
    }

    fn buffers(&self) -> Buffers {
        self.rx.buffers(self.tx.buffers())
    }
}

/// A frame buffer: a `virtio_net_hdr`, then the frame. It is always in exactly one place.
type Slot = Box<[u8]>;

fn slots(count: usize, longest_frame: usize) -> Vec<Slot> {
    (0..count).map(|_| vec![0; vnet_hdr::LEN + longest_frame].into_boxed_slice()).collect()
}

/// What the kernel answers on a queue whose interface is gone.
fn is_gone(errno: Errno) -> bool {
    // EFAULT: deleted while the read was under way.
    [Errno::BADFD, Errno::FAULT, Errno::NODEV].contains(&errno)
}

fn gone(errno: Errno) -> io::Error {
    let source = io::Error::from(errno);
    if is_gone(errno) {
        let text = format!("the TAP interface was deleted ({source})");
        return io::Error::new(io::ErrorKind::NotConnected, text);
    }
    source
}
