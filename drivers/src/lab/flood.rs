//! Frames sent by the kernel itself, several million a second, to load a receiver.
//!
//! A socket takes up to two microseconds per frame, which is more than a good receiver does. Here one
//! system call runs an XDP program of two instructions, `return XDP_TX`, on copies of a frame, and
//! the kernel transmits each where it pretends to come from: neither socket buffers nor copies.
//!
//! Source: Documentation/bpf/bpf_prog_run.rst, "Running XDP programs in live frame mode" (Linux 5.18).

use std::io;
#[cfg(all(test, feature = "xdp"))]
use std::os::fd::BorrowedFd;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::netlink::Netlink;

use super::{LabError, step};

/// A frame and the interface to send it through.
#[derive(Debug)]
pub struct Flood {
    program: OwnedFd,
    interface: u32,
    frame: Vec<u8>,
}

impl Flood {
    /// Prepares to send `frame`, headers first, through the interface called `interface` in the
    /// network namespace of the calling thread.
    ///
    /// The interface's driver must be able to transmit XDP frames. A veth end can if its peer has an
    /// XDP program or GRO (`ethtool -K PEER gro on`); otherwise every frame is lost.
    pub fn new(interface: &str, frame: &[u8]) -> Result<Self, LabError> {
        let link = Netlink::open()?.link(interface)?;
        let program = load().map_err(step("loading an XDP program"))?;
        Ok(Self { program, interface: link.index, frame: frame.to_vec() })
    }

    /// Sends the frame `count` times, however many the receiver takes, and returns after the last.
    /// Every call begins and ends with some milliseconds of silence.
    ///
    /// # Errors
    /// On a thread that is not in the interface's network namespace, and where Linux is older than
    /// 5.18.
    pub fn send(&self, count: u32) -> io::Result<()> {
        let len = u32::try_from(self.frame.len()).map_err(io::Error::other)?;
        let context =
            XdpContext { data_end: len, ingress_ifindex: self.interface, ..XdpContext::default() };
        let mut run = Run {
            program: self.program.as_raw_fd().cast_unsigned(),
            data_size_in: len,
            data_in: self.frame.as_ptr() as u64,
            repeat: count,
            context_size_in: size_of::<XdpContext>() as u32,
            context_in: (&raw const context) as u64,
            flags: LIVE_FRAMES,
            ..Run::default()
        };
        // SAFETY: `run` is of the type that the command takes; its pointers and lengths are those of
        // `self.frame` and `context`, which outlive the call and are only read: the pointers to
        // what is written are null.
        unsafe { bpf(PROG_TEST_RUN, &mut run) }.map(drop)
    }
}

/// What an XDP program makes of one frame, without a network.
#[cfg(all(test, feature = "xdp"))]
pub(crate) fn run_once(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let mut run = Run {
        program: program.as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ..Run::default()
    };
    // SAFETY: as in `Flood::send`; the only pointer is to `frame`.
    unsafe { bpf(PROG_TEST_RUN, &mut run) }?;
    Ok(run.result)
}

/// Loads the program `return XDP_TX`.
fn load() -> io::Result<OwnedFd> {
    let instructions: [u64; 2] = [
        u64::from_ne_bytes([MOVE_TO_R0, 0, 0, 0, XDP_TX, 0, 0, 0]),
        u64::from_ne_bytes([EXIT, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let mut load = Load {
        kind: PROG_TYPE_XDP,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"".as_ptr() as u64,
    };
    // SAFETY: `load` is of the type that the command takes; its pointers are to live values that the
    // kernel only reads, `count` instructions and a string.
    let fd = unsafe { bpf(PROG_LOAD, &mut load) }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `argument` must be what `command` takes, and the pointers in it valid for it.
unsafe fn bpf<T>(command: libc::c_int, argument: &mut T) -> io::Result<i32> {
    // SAFETY: pointer and size are those of one live value, which the kernel may write to; fields
    // behind its end it takes as zero. The rest is promised by the caller.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(argument), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

// From linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const PROG_TYPE_XDP: u32 = 6;
const XDP_TX: u8 = 3;
const LIVE_FRAMES: u32 = 1 << 1;
/// `BPF_ALU64 | BPF_MOV | BPF_K` to register 0, with the constant in the last four bytes. The
/// constant is less than 256 and so is its first byte on a little-endian machine.
const MOVE_TO_R0: u8 = 0xb7;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;

/// `union bpf_attr` of BPF_PROG_LOAD, as far as it is needed.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// `union bpf_attr` of BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}
