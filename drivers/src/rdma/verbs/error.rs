use std::io;

/// Why a call of the control path failed, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    /// The library could not be loaded.
    #[error(
        "libibverbs.so.1 is not installed: apt-get install libibverbs1 ibverbs-providers brings it"
    )]
    NoLibrary,
    /// No device of this name.
    #[error("no such RDMA device ({have})")]
    NoSuchDevice {
        /// The names of those that exist, or how to make one.
        have: String,
    },
    /// The device has no port of this number.
    #[error("it has no port {port} (ports: 1 to {ports})")]
    NoSuchPort {
        /// What was asked for.
        port: u8,
        /// How many there are.
        ports: u8,
    },
    /// The port has no such GID.
    #[error("port {port} has no GID {index} (GIDs: {have})")]
    NoSuchGid {
        /// Number of the port.
        port: u8,
        /// What was asked for.
        index: u8,
        /// Those that exist, with their numbers.
        have: String,
    },
    /// The process may not lock so much memory.
    #[error(
        "registering {bytes} bytes goes beyond the memory that this process may lock ({limit}); \
         use fewer slots, raise the limit (ulimit -l) or grant CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// What was to be registered.
        bytes: usize,
        /// RLIMIT_MEMLOCK.
        limit: String,
    },
    /// Another call failed.
    #[error("{step}: {source}")]
    Failed {
        /// What was attempted.
        step: &'static str,
        /// What the library answered.
        source: io::Error,
    },
}

impl VerbsError {
    pub(super) fn failed(step: &'static str, source: io::Error) -> Self {
        Self::Failed { step, source }
    }
}

impl From<VerbsError> for io::Error {
    fn from(error: VerbsError) -> Self {
        match error {
            VerbsError::Failed { source, .. } if source.raw_os_error().is_some() => source,
            error => Self::other(error),
        }
    }
}
