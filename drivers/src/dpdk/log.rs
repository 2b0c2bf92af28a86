//! What the EAL and its drivers have to say: they write lines to a log, and an error code alone says
//! little.

use std::collections::VecDeque;
use std::os::raw::{c_char, c_int};
use std::slice;
use std::sync::{Mutex, PoisonError};

use dpdk_sys::{RTE_LOG_ERR, rte_openlog_stream, up_log_stream};

/// Errors that are kept, the last ones.
const MOST_LINES: usize = 64;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Has DPDK write its log here instead of to standard error and the system's log.
pub(super) fn redirect() {
    // SAFETY: the stream lives as long as the process; `keep` is a function that any thread may call.
    unsafe {
        let stream = up_log_stream(Some(keep));
        if !stream.is_null() {
            rte_openlog_stream(stream);
        }
    }
}

/// Forgets what was said before a call.
pub(super) fn clear() {
    lines(VecDeque::clear);
}

/// The error that was told during a call that failed: the first one is closest to the cause.
pub(super) fn cause() -> Option<String> {
    lines(|lines| lines.drain(..).next())
}

unsafe extern "C" fn keep(bytes: *const c_char, len: usize, level: c_int) {
    // SAFETY: the stream hands over `len` bytes that were written to it.
    let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) };
    for line in String::from_utf8_lossy(bytes).lines() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        tracing::debug!(target: "dpdk", "{line}");
        if level > RTE_LOG_ERR as c_int {
            continue;
        }
        lines(|lines| {
            if lines.len() == MOST_LINES {
                lines.pop_front();
            }
            lines.push_back(line.to_owned());
        });
    }
}

fn lines<T>(work: impl FnOnce(&mut VecDeque<String>) -> T) -> T {
    work(&mut LINES.lock().unwrap_or_else(PoisonError::into_inner))
}
