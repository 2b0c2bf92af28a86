//! Private network namespaces, for tests and demonstrations on real kernel objects.
//!
//! A [`Namespace`] has no name and no file under `/run/netns`: a descriptor of this process holds
//! it. When the process dies, even by SIGKILL, the namespace and every interface in it are gone.
//!
//! ```no_run
//! use underpass_drivers::lab::{Namespace, veth};
//!
//! let (a, b) = (Namespace::new()?, Namespace::new()?);
//! veth((&a, "left"), (&b, "right"))?;
//! a.netlink(|n| n.add_address("left", [10, 0, 0, 1].into(), 24))?;
//! b.netlink(|n| n.add_address("right", [10, 0, 0, 2].into(), 24))?;
//! let listener = a.run(|| std::net::TcpListener::bind("10.0.0.1:80"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod flood;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use crate::ethtool;
use crate::netlink::{Netlink, NetlinkError};

pub use self::flood::Flood;
#[cfg(all(test, feature = "xdp"))]
pub(crate) use self::flood::run_once;

/// Why a lab could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This process may not create a namespace.
    #[error("creating a {kind} namespace: not permitted ({cause})")]
    NotPermitted {
        /// "network" or "user".
        kind: &'static str,
        /// The setting that forbids it, and what helps.
        cause: String,
    },
    /// A user namespace can only be entered while the process has one thread.
    #[error("a user namespace must be entered before the process starts a second thread")]
    SeveralThreads,
    /// A step of the kernel's interface failed.
    #[error("{step}: {source}")]
    Io {
        /// What was attempted.
        step: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An interface, address or route could not be set.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A network namespace of our own, deleted by the kernel when the last descriptor, thread, process
/// and socket in it is gone.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new, empty network namespace: loopback is up, IPv6 addresses are usable at once (no
    /// duplicate address detection) and nothing solicits routers.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN; then [`enter_user_namespace`] first.
    pub fn new() -> Result<Self, LabError> {
        let file = on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| forbidden("network", errno))?;
            File::open("/proc/thread-self/ns/net").map_err(step("opening the new namespace"))
        })?;
        let namespace = Self { file };
        for (name, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
            for scope in ["all", "default"] {
                match namespace.sysctl(&format!("net.ipv6.conf.{scope}.{name}"), value) {
                    // A kernel without IPv6 has nothing to switch off.
                    Err(LabError::Io { source, .. })
                        if source.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        namespace.netlink(|netlink| netlink.set_up("lo", true))?;
        Ok(namespace)
    }

    /// The calling thread's present network namespace.
    pub fn current() -> Result<Self, LabError> {
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(step("opening this thread's network namespace"))?;
        Ok(Self { file })
    }

    /// Runs `work` on a fresh thread inside the namespace and waits for it. Sockets and child
    /// processes that it makes stay in the namespace for as long as they live; a panic goes on in
    /// the caller.
    ///
    /// # Panics
    /// If the thread cannot enter a namespace that this process made, which needs the same
    /// privilege as making it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_fresh_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .expect("a process may enter a namespace that it made");
            work()
        })
    }

    /// Links, addresses and routes of the namespace.
    pub fn netlink<T: Send>(
        &self,
        work: impl FnOnce(&mut Netlink) -> Result<T, NetlinkError> + Send,
    ) -> Result<T, LabError> {
        Ok(self.run(|| work(&mut Netlink::open()?))?)
    }

    /// Has an interface use so many queues each way, of those it was made with.
    pub fn set_queues(&self, interface: &str, queues: u32) -> Result<(), LabError> {
        self.run(|| ethtool::set_queues(interface, queues))
            .map_err(step(format!("setting the queues of {interface} to {queues}")))
    }

    /// Sets a kernel parameter of the namespace, such as `net.ipv4.tcp_congestion_control`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), LabError> {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.run(|| fs::write(&path, value)).map_err(step(format!("setting {name} to {value}")))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Connects two namespaces (or one with itself) by a veth pair, both ends up, without addresses.
/// Interface names have up to 15 bytes.
pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<(), LabError> {
    veth_with_queues(a, b, 1)
}

/// The same with so many queues each way at each end.
pub fn veth_with_queues(
    (a, a_name): (&Namespace, &str),
    (b, b_name): (&Namespace, &str),
    queues: u32,
) -> Result<(), LabError> {
    a.netlink(|netlink| {
        netlink.create_veth(a_name, b_name, Some(b.as_fd()), queues)?;
        netlink.set_up(a_name, true)
    })?;
    b.netlink(|netlink| netlink.set_up(b_name, true))
}

/// Gives this process a user namespace of its own in which it is root, so that a user without
/// privilege can make a [`Namespace`]. It stays an ordinary user to the rest of the system.
///
/// # Errors
/// [`LabError::SeveralThreads`] unless it is called before the first thread is started.
pub fn enter_user_namespace() -> Result<(), LabError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| match errno {
        Errno::EINVAL => LabError::SeveralThreads,
        _ => forbidden("user", errno),
    })?;
    // user_namespaces(7): setgroups has to be given up before a group may be mapped.
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(Path::new("/proc/self").join(file), text).map_err(|source| {
            match source.kind() {
                io::ErrorKind::PermissionDenied => forbidden("user", Errno::EPERM),
                _ => step(format!("writing /proc/self/{file}"))(source),
            }
        })?;
    }
    Ok(())
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
    let step = step.into();
    move |source| LabError::Io { step, source }
}

fn forbidden(kind: &'static str, errno: Errno) -> LabError {
    match errno {
        Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EUSERS => LabError::NotPermitted {
            kind,
            cause: if kind == "user" {
                user_namespace_obstacle(errno)
            } else {
                network_namespace_obstacle(errno)
            },
        },
        _ => step(format!("creating a {kind} namespace"))(errno.into()),
    }
}

fn network_namespace_obstacle(errno: Errno) -> String {
    if errno == Errno::ENOSPC {
        return "the limit user.max_net_namespaces is reached".to_owned();
    }
    "it needs CAP_SYS_ADMIN: run as root, or enter a user namespace first".to_owned()
}

/// The setting that most likely forbids user namespaces here.
pub(crate) fn user_namespace_obstacle(errno: Errno) -> String {
    let value = |name: &str| {
        fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/")))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    for (name, forbids, remedy) in [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
    ] {
        if value(name) == forbids {
            return format!("{name} is {forbids}; as root: sysctl -w {name}={remedy}");
        }
    }
    match errno {
        Errno::ENOSPC | Errno::EUSERS => {
            "the limit user.max_user_namespaces is reached, or they are nested 32 deep".to_owned()
        }
        _ => {
            "a container's seccomp profile or a security module forbids it; run as root, or allow \
              the container to create user namespaces"
                .to_owned()
        }
    }
}
