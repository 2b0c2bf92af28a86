//! The library itself, and how its calls fail.

use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;

use rdma_mummy_sys::{ibv_wc_status, ibv_wc_status_str};

use super::error::VerbsError;

/// An error if libibverbs is not there. Without it every wrapper answers with nothing.
pub(super) fn check() -> Result<(), VerbsError> {
    match status_text(ibv_wc_status::IBV_WC_SUCCESS) {
        Some(_) => Ok(()),
        None => Err(VerbsError::NoLibrary),
    }
}

/// What the library calls the status of a completion.
pub(super) fn status_text(status: ibv_wc_status::Type) -> Option<&'static str> {
    // SAFETY: takes any number and returns a constant string, or nothing without the library.
    let text = unsafe { ibv_wc_status_str(status) };
    if text.is_null() {
        return None;
    }
    // SAFETY: it ends with a zero and is never freed.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// Of calls that return an object, or nothing and set errno.
pub(super) fn object<T>(step: &'static str, made: *mut T) -> Result<NonNull<T>, VerbsError> {
    NonNull::new(made).ok_or_else(|| VerbsError::failed(step, io::Error::last_os_error()))
}

/// Of calls that return 0 or an error number.
pub(super) fn done(step: &'static str, result: i32) -> Result<(), VerbsError> {
    match result {
        0 => Ok(()),
        // A few set errno instead.
        -1 => Err(VerbsError::failed(step, io::Error::last_os_error())),
        errno => Err(VerbsError::failed(step, io::Error::from_raw_os_error(errno.abs()))),
    }
}
