use std::io;

#[cfg(any(feature = "packet", feature = "xdp", feature = "dpdk", feature = "kring"))]
use crate::netlink::{Link, Netlink, NetlinkError};

/// Why a device could not be opened: what, where, the cause, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No interface of this name in this network namespace.
    #[error("{device}: no such interface (have: {})", interfaces())]
    NoSuchInterface {
        /// The spec of the device, such as `packet:eth7`.
        device: String,
    },
    /// The interface exists but is administratively down.
    #[error("{device}: the interface is down; bring it up with: ip link set {interface} up")]
    Down {
        /// The spec of the device.
        device: String,
        /// The interface's name.
        interface: String,
    },
    /// This process lacks a capability, or access to a file.
    #[error("{device}: not permitted; it needs {needs}")]
    NotPermitted {
        /// The spec of the device.
        device: String,
        /// What is needed and how to grant it.
        needs: String,
    },
    /// Somebody else holds it, and did not let go within two seconds.
    #[error("{device}: in use by another process or thread{hint}")]
    Busy {
        /// The spec of the device.
        device: String,
        /// What helps, beginning with "; ", or nothing.
        hint: &'static str,
    },
    /// The running kernel was built without something, or is too old.
    #[error("{device}: the kernel lacks {feature}")]
    KernelLacks {
        /// The spec of the device.
        device: String,
        /// What is missing, with the name of its configuration option.
        feature: &'static str,
    },
    /// An option has a value that this device cannot take.
    #[error("{device}: {reason}")]
    Unsuitable {
        /// The spec of the device.
        device: String,
        /// What does not fit, and what would.
        reason: String,
    },
    /// Another step failed.
    #[error("{device}: {step}: {source}")]
    Io {
        /// The spec of the device.
        device: String,
        /// What was attempted.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// The interface called `name`, which must be up, for the device of that spec.
#[cfg(any(feature = "packet", feature = "xdp", feature = "dpdk", feature = "kring"))]
pub(crate) fn find_link(device: String, name: &str) -> Result<Link, OpenError> {
    match Netlink::open().and_then(|mut netlink| netlink.link(name)) {
        Ok(link) if link.up => Ok(link),
        Ok(_) => Err(OpenError::Down { device, interface: name.to_owned() }),
        Err(NetlinkError::NoSuchLink(_)) => Err(OpenError::NoSuchInterface { device }),
        Err(error) => Err(OpenError::Io {
            device,
            step: "looking up the interface",
            source: io::Error::other(error),
        }),
    }
}

/// Repeats `attempt` for up to two seconds while it fails with EBUSY or EADDRINUSE: after a process
/// exits, the kernel lets go of its queues a little later.
#[cfg(any(feature = "tap", feature = "packet", feature = "xdp", feature = "kring"))]
pub(crate) fn retry_while_busy<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    use std::thread;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(10);
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && start.elapsed() < PATIENCE => thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// Whether an error says that somebody else holds the object.
#[cfg(any(feature = "tap", feature = "packet", feature = "xdp", feature = "kring"))]
pub(crate) fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EADDRINUSE))
}

/// The names of the interfaces of this network namespace.
fn interfaces() -> String {
    let names: Vec<_> = pnet_datalink::interfaces().into_iter().map(|i| i.name).collect();
    names.join(", ")
}

#[cfg(all(test, any(feature = "tap", feature = "packet", feature = "xdp", feature = "kring")))]
mod tests {
    use super::*;

    #[test]
    fn the_interfaces_that_exist_are_named() {
        let error = OpenError::NoSuchInterface { device: "packet:eth77".to_owned() };
        let text = error.to_string();
        assert!(text.starts_with("packet:eth77: no such interface (have: lo"), "{text}");
    }

    #[test]
    fn a_busy_object_is_tried_again_until_it_is_free() {
        let mut attempts = 0;
        let result = retry_while_busy(|| {
            attempts += 1;
            if attempts < 3 { Err(io::Error::from_raw_os_error(libc::EBUSY)) } else { Ok(attempts) }
        });
        assert_eq!(result.unwrap(), 3);
    }

    #[test]
    fn other_errors_are_not_tried_again() {
        let mut attempts = 0;
        let result: io::Result<()> = retry_while_busy(|| {
            attempts += 1;
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert!(result.is_err());
        assert_eq!(attempts, 1);
    }
}
