use std::ptr::NonNull;
use std::sync::Arc;

use rdma_mummy_sys::{ibv_alloc_pd, ibv_dealloc_pd, ibv_pd};

use super::context::Context;
use super::error::VerbsError;
use super::library::object;

/// A protection domain: memory, queue pairs and address handles of one work together.
#[derive(Debug)]
pub struct ProtectionDomain {
    domain: NonNull<ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: a domain is not bound to a thread, and libibverbs is thread-safe.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    /// A domain of its own.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let made = unsafe { ibv_alloc_pd(context.as_ptr()) };
        let domain = object("making a protection domain", made)?;
        Ok(Arc::new(Self { domain, context: Arc::clone(context) }))
    }

    /// The device that it is of.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_pd {
        self.domain.as_ptr()
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: everything that was made from it had an `Arc` of it and is gone.
        let result = unsafe { ibv_dealloc_pd(self.as_ptr()) };
        debug_assert!(result != libc::EBUSY, "something of the domain is left");
    }
}
