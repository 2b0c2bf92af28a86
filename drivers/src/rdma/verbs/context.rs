use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use rdma_mummy_sys::{
    ibv_ack_async_event, ibv_async_event, ibv_close_device, ibv_context, ibv_device,
    ibv_device_attr, ibv_free_device_list, ibv_get_async_event, ibv_get_device_list,
    ibv_get_device_name, ibv_open_device, ibv_query_device,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::error::VerbsError;
use super::library::{self, done, object};

/// The names of the RDMA devices of this machine, sorted.
pub fn devices() -> Result<Vec<String>, VerbsError> {
    Ok(List::get()?.names())
}

/// An open device.
pub struct Context {
    context: NonNull<ibv_context>,
    name: String,
}

/// What a device has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ports; their numbers begin with 1.
    pub ports: u8,
    /// Requests in a send or receive queue.
    pub requests: usize,
    /// Completions in a completion queue.
    pub completions: usize,
    /// Address handles.
    pub address_handles: usize,
    /// Multicast groups that a queue pair can be in, of all those that are.
    pub multicast_groups: usize,
    /// Reads and atomic operations that a queue pair answers at a time.
    pub responder_resources: u8,
    /// Reads and atomic operations that a queue pair has under way at a time.
    pub initiator_depth: u8,
}

/// Something that happened to a device, beside the completions: ibv_get_async_event(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A port has its link again.
    PortActive(u8),
    /// A port has lost its link.
    PortDown(u8),
    /// A GID of a port has changed.
    GidChange(u8),
    /// A queue pair is in the error state, or a completion queue has run over.
    QueueFailed,
    /// The device is gone.
    DeviceGone,
    /// Anything else.
    Other,
}

// SAFETY: a context is not bound to a thread, and libibverbs is thread-safe.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the device of this name, such as `rxe0`.
    pub fn open(name: &str) -> Result<Arc<Self>, VerbsError> {
        let list = List::get()?;
        let device = list.devices().iter().find(|device| self::name(**device) == name);
        let Some(device) = device else {
            return Err(VerbsError::NoSuchDevice { have: have(&list.names()) });
        };
        // SAFETY: the device is in the list, which lives.
        let context = object("opening the device", unsafe { ibv_open_device(*device) })?;
        let context = Self { context, name: name.to_owned() };
        let nonblocking =
            fcntl_getfl(&context).and_then(|flags| fcntl_setfl(&context, flags | OFlags::NONBLOCK));
        nonblocking.map_err(|e| VerbsError::failed("opening the device's events", e.into()))?;
        Ok(Arc::new(context))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has at most.
    pub fn limits(&self) -> Result<Limits, VerbsError> {
        let mut found = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: the context is open, and there is room for the answer.
        let result = unsafe { ibv_query_device(self.as_ptr(), found.as_mut_ptr()) };
        done("asking for the device's limits", result)?;
        // SAFETY: any bytes are numbers, and all of them were set.
        let found = unsafe { found.assume_init() };
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let depth = |number: i32| u8::try_from(number.max(0)).unwrap_or(u8::MAX);
        Ok(Limits {
            ports: found.phys_port_cnt,
            requests: count(found.max_qp_wr),
            completions: count(found.max_cqe),
            address_handles: count(found.max_ah),
            multicast_groups: count(found.max_mcast_grp),
            responder_resources: depth(found.max_qp_rd_atom),
            initiator_depth: depth(found.max_qp_init_rd_atom),
        })
    }

    /// The next event, if there is one; the descriptor of the context is readable when there is.
    ///
    /// # Errors
    /// The device is gone.
    pub fn next_event(&self) -> io::Result<Option<Event>> {
        let mut event = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the context is open, its descriptor does not block, and there is room for the event.
        if unsafe { ibv_get_async_event(self.as_ptr(), event.as_mut_ptr()) } != 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        // The type is an enumeration in Rust, and a later library may know more of them.
        // SAFETY: the event was written, and its type is an integer of this size.
        let kind = unsafe { (&raw const (*event.as_ptr()).event_type).cast::<u32>().read() };
        // SAFETY: the event was written; of all its elements the number is the shortest.
        let port = unsafe { (*event.as_ptr()).element.port_num } as u8;
        // SAFETY: it was got just now and is acknowledged once.
        unsafe { ibv_ack_async_event(event.as_mut_ptr()) };
        Ok(Some(event_of(kind, port)))
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_context {
        self.context.as_ptr()
    }
}

/// `enum ibv_event_type`
fn event_of(kind: u32, port: u8) -> Event {
    match kind {
        0..=3 => Event::QueueFailed,
        8 => Event::DeviceGone,
        9 => Event::PortActive(port),
        10 => Event::PortDown(port),
        18 => Event::GidChange(port),
        _ => Event::Other,
    }
}

/// Of events that are no completions.
impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context is open, and so is its descriptor for as long as it lives.
        unsafe { BorrowedFd::borrow_raw((*self.as_ptr()).async_fd) }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.name).finish()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything that was made from it had an `Arc` of it and is gone. Nothing can be done
        // about an error.
        unsafe { ibv_close_device(self.as_ptr()) };
    }
}

/// The library's list of devices.
struct List {
    devices: NonNull<*mut ibv_device>,
    count: usize,
}

impl List {
    fn get() -> Result<Self, VerbsError> {
        library::check()?;
        let mut count = 0;
        // SAFETY: there is room for the number.
        let list = unsafe { ibv_get_device_list(&raw mut count) };
        match NonNull::new(list) {
            Some(devices) => Ok(Self { devices, count: usize::try_from(count).unwrap_or(0) }),
            None => match io::Error::last_os_error() {
                // The kernel has no RDMA loaded.
                error if error.raw_os_error() == Some(libc::ENOSYS) => {
                    Err(VerbsError::NoSuchDevice { have: have(&[]) })
                }
                error => Err(VerbsError::failed("listing the devices", error)),
            },
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.devices().iter().map(|device| name(*device)).collect();
        names.sort();
        names
    }

    fn devices(&self) -> &[*mut ibv_device] {
        // SAFETY: the library's list has so many entries and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.devices.as_ptr(), self.count) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: it is the library's, and devices that were opened stay.
        unsafe { ibv_free_device_list(self.devices.as_ptr()) };
    }
}

fn name(device: *mut ibv_device) -> String {
    // SAFETY: callers have it from a list that lives; the name ends with a zero.
    unsafe { CStr::from_ptr(ibv_get_device_name(device)) }.to_string_lossy().into_owned()
}

fn have(names: &[String]) -> String {
    if names.is_empty() {
        return "there is none; of an Ethernet interface, Soft-RoCE makes one: modprobe rdma_rxe; \
                rdma link add rxe0 type rxe netdev eth0"
            .to_owned();
    }
    format!("have: {}", names.join(", "))
}
