//! A stack of ours at one end of a link, in this process, and the kernel's sockets at the other.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use underpass::{Limits, Stack, Stats};
use underpass_drivers::AnyDevice;
use underpass_drivers::lab::{Namespace, veth};

/// Addresses of one IP version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version {
    ours: &'static str,
    kernel: &'static str,
    absent: &'static str,
}

pub(crate) const V4: Version =
    Version { ours: "10.7.0.2", kernel: "10.7.0.1", absent: "10.7.0.99" };
pub(crate) const V6: Version = Version { ours: "fd07::2", kernel: "fd07::1", absent: "fd07::99" };

impl Version {
    /// A port of our stack.
    pub(crate) fn ours(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ours.parse().unwrap(), port)
    }

    /// A port of the kernel; 0 to let it choose.
    pub(crate) fn kernel(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.kernel.parse().unwrap(), port)
    }

    /// A port of a station that is not there.
    pub(crate) fn absent(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.absent.parse().unwrap(), port)
    }
}

/// The link, our stack and the kernel's namespace.
pub(crate) struct Lab {
    pub(crate) stack: Stack,
    /// The kernel's interface.
    pub(crate) interface: &'static str,
    kernel: Namespace,
}

impl Lab {
    /// AF_PACKET on one end of a veth pair, whose other end keeps the kernel's offloads.
    pub(crate) fn packet() -> Self {
        let (ours, kernel) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth((&ours, "veth0"), (&kernel, "veth1")).unwrap();
        for (version, prefix) in [(V4, 24), (V6, 64)] {
            let address = version.kernel(0).ip();
            kernel.netlink(|netlink| netlink.add_address("veth1", address, prefix)).unwrap();
        }
        Self { stack: attach(&ours, "packet:veth0"), interface: "veth1", kernel }
    }

    /// A TAP device; the kernel is the station behind it.
    pub(crate) fn tap() -> Self {
        let kernel = Namespace::new().unwrap();
        Self {
            stack: attach(&kernel, "tap:tap0,host=10.7.0.1/24,host=fd07::1/64"),
            interface: "tap0",
            kernel,
        }
    }

    /// Runs `work`, and every thread it starts, where the kernel's sockets are.
    pub(crate) fn at_kernel<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.kernel.run(work)
    }

    /// A connection from the kernel.
    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        self.at_kernel(|| TcpStream::connect(to)).unwrap()
    }

    /// One more address of the kernel's.
    pub(crate) fn add_address(&self, address: IpAddr) {
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        self.kernel
            .netlink(|netlink| netlink.add_address(self.interface, address, prefix))
            .unwrap();
    }

    /// A connection over the link: our end and the kernel's.
    pub(crate) fn pair(&self, version: Version, port: u16) -> (underpass::TcpStream, TcpStream) {
        let listener = underpass::TcpListener::bind(&self.stack, version.ours(port)).unwrap();
        let theirs = self.connect(version.ours(port));
        let (ours, _) = listener.accept().unwrap();
        (ours, theirs)
    }

    /// Waits until our stack holds no connection any more.
    pub(crate) fn wait_until_idle(&self) -> Stats {
        let start = Instant::now();
        loop {
            let stats = self.stack.stats();
            if stats.tcp_flows == 0 {
                return stats;
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "connections are left: {} flows, {stats}",
                stats.tcp_flows
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn attach(namespace: &Namespace, spec: &str) -> Stack {
    let device = namespace.run(|| AnyDevice::open(&spec.parse().unwrap())).unwrap();
    Stack::builder()
        .address("10.7.0.2/24".parse().unwrap())
        .address("fd07::2/64".parse().unwrap())
        .limits(Limits::default())
        .build(device)
        .unwrap()
}

/// A repeating pattern whose period divides nothing that a stack may cut at.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    const PERIOD: usize = 65_521;
    /// Written and read at once.
    const CHUNK: usize = 64 * 1024;

    pub(crate) fn new(seed: u64) -> Self {
        let mut bytes = vec![0; Self::PERIOD];
        StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes.extend_from_within(..);
        bytes.extend_from_within(..Self::CHUNK);
        Self(bytes)
    }

    fn at(&self, position: usize, len: usize) -> &[u8] {
        let start = position % Self::PERIOD;
        &self.0[start..start + len]
    }

    /// Writes the first `len` bytes; `progress` sees how many are written.
    pub(crate) fn write(&self, to: &mut impl Write, len: usize, mut progress: impl FnMut(usize)) {
        let mut sent = 0;
        while sent < len {
            let chunk = self.at(sent, Self::CHUNK.min(len - sent));
            sent += to.write(chunk).unwrap();
            progress(sent);
        }
    }

    /// Reads to the end, and checks that exactly the first `len` bytes come.
    pub(crate) fn check(&self, from: &mut impl Read, len: usize) {
        let mut buffer = vec![0; Self::CHUNK];
        let mut received = 0;
        loop {
            let read = from.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            assert!(
                buffer[..read] == *self.at(received, read),
                "wrong bytes between {received} and {}",
                received + read
            );
            received += read;
        }
        assert_eq!(received, len, "the end came at the wrong place");
    }
}

/// Runs a test, or panics if it takes longer than any of them may.
pub(crate) fn bounded(test: impl FnOnce() + Send + 'static) {
    const LIMIT: Duration = Duration::from_secs(60);
    let (done, is_done) = channel();
    let test = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    let waited = is_done.recv_timeout(LIMIT);
    assert_ne!(waited, Err(RecvTimeoutError::Timeout), "not done after {LIMIT:?}");
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Defines each named function, which takes a `&Lab`, as a test on each device.
#[macro_export]
macro_rules! on_each_device {
    ($($name:ident),* $(,)?) => {
        mod packet {
            $(
                #[test]
                #[ignore = "needs root: run by cargo xtask test"]
                fn $name() {
                    $crate::kernel::bounded(|| super::$name(&$crate::kernel::Lab::packet()));
                }
            )*
        }
        mod tap {
            $(
                #[test]
                #[ignore = "needs root: run by cargo xtask test"]
                fn $name() {
                    $crate::kernel::bounded(|| super::$name(&$crate::kernel::Lab::tap()));
                }
            )*
        }
    };
}
