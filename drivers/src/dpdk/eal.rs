//! The Environment Abstraction Layer: one per process, from the first device on until the process
//! ends.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::raw::c_char;
use std::panic::resume_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, ptr, thread};

use dpdk_sys::{rte_eal_has_hugepages, rte_eal_init, rte_strerror, rte_version, up_errno};
use rustix::thread::{CpuSet, sched_getaffinity};

use super::log;
use super::preserve::Preserved;

/// The EAL, held by one thread: its control calls are not for several at a time.
pub(super) struct Eal {
    _control: MutexGuard<'static, Option<Vec<String>>>,
}

/// What the EAL was started with. Its lock is that of control calls.
static CONTROL: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Megabytes of ordinary memory, where there are no huge pages. They are used as they are needed.
const ORDINARY_MEMORY: &str = "1024";
/// An address that no PCI device has: no device is taken before it is asked for.
const NO_PCI_DEVICE: &str = "ffff:ff:1f.7";

impl Eal {
    /// The EAL, started with `arguments` behind those that always are right, if it does not run.
    ///
    /// # Errors
    /// What is wrong with the arguments, or that it runs with others.
    pub(super) fn get(arguments: &[String]) -> Result<Self, String> {
        let mut control = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
        match &*control {
            None => {
                // On a thread of its own, which it binds to a CPU and believes to be its first.
                let started = thread::scope(|scope| scope.spawn(|| start(arguments)).join());
                started.unwrap_or_else(|panic| resume_unwind(panic))?;
                *control = Some(arguments.to_vec());
            }
            Some(with) if arguments.is_empty() || arguments == with => {}
            Some(with) => {
                return Err(format!(
                    "the EAL of this process runs already, with eal={}; it is started once, by the \
                     first device",
                    if with.is_empty() { "nothing".to_owned() } else { with.join(" ") }
                ));
            }
        }
        log::clear();
        Ok(Self { _control: control })
    }

    /// The EAL, which has been started.
    pub(super) fn running() -> Self {
        Self { _control: CONTROL.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The version of the library, as in `DPDK 22.11.11`.
pub(super) fn version() -> String {
    // SAFETY: it returns a string constant.
    unsafe { CStr::from_ptr(rte_version()) }.to_string_lossy().into_owned()
}

/// Whether the EAL has its memory from huge pages.
pub(super) fn has_huge_pages() -> bool {
    // SAFETY: it reads a setting.
    unsafe { rte_eal_has_hugepages() != 0 }
}

/// What an error number means. `code` is negative, or -1 for what `rte_errno` holds.
pub(super) fn error_text(code: i32) -> String {
    // SAFETY: rte_errno is a variable of this thread; rte_strerror returns a string that lives until
    // this thread calls it again.
    unsafe {
        let number = if code == -1 { up_errno() } else { -code };
        CStr::from_ptr(rte_strerror(number)).to_string_lossy().into_owned()
    }
}

fn start(arguments: &[String]) -> Result<(), String> {
    log::redirect();
    // Those that may be wrong first: the EAL does not take the others twice, should it be tried again.
    let program = ["underpass".to_owned()];
    let all = [&program[..], arguments, &own_arguments(arguments)[..]].concat();
    let strings: Result<Vec<CString>, _> = all.iter().map(|a| CString::new(a.as_str())).collect();
    let strings = strings.map_err(|_| "eal=: an argument has a zero byte".to_owned())?;
    let count = strings.len() as i32;
    // The EAL keeps and moves the pointers: they live as long as the process.
    let mut pointers: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
    pointers.push(ptr::null_mut());
    let mut preserved = Preserved::new();
    // SAFETY: `count` pointers to strings and a null pointer, which are never freed.
    let result = unsafe { rte_eal_init(count, pointers.leak().as_mut_ptr()) };
    if result >= 0 {
        return Ok(());
    }
    // How it is used.
    preserved.discard_output();
    // SAFETY: a variable of this thread.
    let number = unsafe { up_errno() };
    if number == libc::EALREADY {
        return Err("something else in this process has started the EAL".to_owned());
    }
    let cause = log::cause().unwrap_or_else(|| error_text(-number));
    Err(format!("starting the EAL with '{}': {cause}", all[1..].join(" ")))
}

/// The arguments that the user has not given others for.
fn own_arguments(arguments: &[String]) -> Vec<String> {
    let given = |names: &[&str]| arguments.iter().any(|a| names.iter().any(|n| a.starts_with(n)));
    let mut own = vec!["--no-telemetry", "--no-shconf"];
    if !given(&["--log-level"]) {
        own.push("--log-level=*:warning");
    }
    if !given(&["-a", "--allow", "-b", "--block", "--no-pci"]) {
        own.extend(["-a", NO_PCI_DEVICE]);
    }
    if !given(&["--no-huge", "--in-memory", "--huge", "--legacy-mem", "--socket-mem", "-m"]) {
        if free_huge_pages() {
            // virtio_user and memif hand a few files to their peer.
            own.extend(["--in-memory", "--single-file-segments"]);
        } else {
            own.extend(["--no-huge", "-m", ORDINARY_MEMORY]);
        }
    }
    let mut own: Vec<String> = own.into_iter().map(str::to_owned).collect();
    if !given(&["-l", "--lcores", "-c"]) {
        own.extend(["--lcores".to_owned(), format!("0@({})", cpus())]);
    }
    own
}

/// The CPUs that this process may run on: the threads of the EAL may, too.
fn cpus() -> String {
    let set = sched_getaffinity(None).unwrap_or_default();
    let mut text = String::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{cpu}");
    }
    if text.is_empty() { "0".to_owned() } else { text }
}

/// Whether there are huge pages of any size that nobody uses.
fn free_huge_pages() -> bool {
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    sizes.into_iter().any(|size| {
        let free = fs::read_to_string(size.path().join("free_hugepages")).unwrap_or_default();
        free.trim().parse::<u64>().is_ok_and(|free| free > 0)
    })
}
