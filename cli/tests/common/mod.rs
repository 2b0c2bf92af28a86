//! A laboratory for the command: private network namespaces, a link between them, the command at
//! one end and the kernel, with the programs everybody uses, at the other.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use underpass_drivers::lab::{Namespace, veth_with_queues};
use underpass_drivers::netlink::Link;

/// The command's addresses.
pub(crate) const OURS: [&str; 2] = ["10.7.0.2", "[fd07::2]"];
/// The kernel's addresses.
pub(crate) const PEER: [&str; 2] = ["10.7.0.1", "[fd07::1]"];

/// The addresses of the kernel at our end of a link that is [`shared`](Lab::shared) with it.
#[cfg(any(feature = "xdp", feature = "kring"))]
pub(crate) const KERNEL: [&str; 2] = ["10.7.0.3", "[fd07::3]"];

/// How long anything may take; a debug build on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two ends of a link.
pub(crate) struct Lab {
    ours: Namespace,
    /// `None`: the kernel's end is in the same namespace.
    peer: Option<Namespace>,
    spec: &'static str,
    pub(crate) dir: tempfile::TempDir,
}

impl Lab {
    /// AF_PACKET at one end of a veth pair, whose other end has all offloads, as by default.
    pub(crate) fn packet() -> Self {
        let (ours, peer) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        // Our kernel would make itself the same addresses of the same advertisements and MAC.
        ours.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        veth_with_queues((&ours, "veth0"), (&peer, "veth1"), 2).unwrap();
        ours.set_queues("veth0", 1).unwrap();
        peer.set_queues("veth1", 1).unwrap();
        peer.netlink(|netlink| {
            netlink.add_address("veth1", "10.7.0.1".parse().unwrap(), 24)?;
            netlink.add_address("veth1", "fd07::1".parse().unwrap(), 64)
        })
        .unwrap();
        Self::new(ours, Some(peer), "packet:veth0")
    }

    /// AF_XDP at one end of a [`shared`](Self::shared) link.
    #[cfg(feature = "xdp")]
    pub(crate) fn xdp() -> Self {
        Self::shared("xdp:veth0")
    }

    /// The ring of our kernel module at one end of a [`shared`](Self::shared) link.
    #[cfg(feature = "kring")]
    pub(crate) fn kring() -> Self {
        Self::shared("kring:veth0")
    }

    /// A device at one end of a veth pair, beside the kernel, which has addresses of its own there:
    /// [`KERNEL`].
    #[cfg(any(feature = "xdp", feature = "kring"))]
    fn shared(spec: &'static str) -> Self {
        let mut lab = Self::packet();
        lab.ours.sysctl("net.ipv6.conf.veth0.disable_ipv6", "0").unwrap();
        lab.ours
            .netlink(|netlink| {
                netlink.add_address("veth0", "10.7.0.3".parse().unwrap(), 24)?;
                netlink.add_address("veth0", "fd07::3".parse().unwrap(), 64)
            })
            .unwrap();
        lab.spec = spec;
        lab
    }

    /// DPDK's driver of packet sockets at one end of a veth pair. It has no room for superframes, which the
    /// other end therefore may not send, but some for fragments that the kernel has put together.
    #[cfg(feature = "dpdk")]
    pub(crate) fn dpdk() -> Self {
        let mut lab = Self::packet();
        lab.peer_ok("ethtool", &["-K", "veth1", "tso", "off", "gso", "off"]);
        lab.spec = "dpdk:net_af_packet0,iface=veth0,framesz=16384,blocksz=65536";
        lab
    }

    /// DPDK's TAP device, on an interface that the kernel has already got addresses on.
    #[cfg(feature = "dpdk")]
    pub(crate) fn dpdk_tap() -> Self {
        let ours = Namespace::new().unwrap();
        let lab = Self::new(ours, None, "dpdk:net_tap0,iface=tap0");
        let add = ["tuntap", "add", "dev", "tap0", "mode", "tap", "multi_queue"];
        lab.peer_ok("ip", &add);
        // It is down between one command and the next.
        lab.ours.sysctl("net.ipv6.conf.tap0.keep_addr_on_down", "1").unwrap();
        for address in ["10.7.0.1/24", "fd07::1/64"] {
            lab.peer_ok("ip", &["addr", "add", address, "dev", "tap0", "nodad"]);
        }
        lab
    }

    /// A TAP device.
    pub(crate) fn tap() -> Self {
        let ours = Namespace::new().unwrap();
        Self::new(ours, None, "tap:tap0,host=10.7.0.1/24,host=fd07::1/64")
    }

    fn new(ours: Namespace, peer: Option<Namespace>, spec: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { ours, peer, spec, dir }
    }

    /// Attaches the command by another spec from now on.
    pub(crate) fn set_spec(&mut self, spec: &'static str) {
        self.spec = spec;
    }

    /// An interface at our end.
    pub(crate) fn our_link(&self, name: &str) -> Link {
        self.ours.netlink(|netlink| netlink.link(name)).unwrap()
    }

    /// Has the link carry flows on two queues each way, where their number does not follow from that
    /// of the shards.
    pub(crate) fn use_two_queues(&self) {
        if let Some(peer) = &self.peer {
            self.ours.set_queues("veth0", 2).unwrap();
            peer.set_queues("veth1", 2).unwrap();
        }
    }

    /// A new file of random bytes.
    pub(crate) fn random_file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut file = File::create(&path).unwrap();
        let mut chunk = vec![0; 1 << 20];
        let mut left = len as usize;
        while left > 0 {
            rand::rng().fill_bytes(&mut chunk);
            let part = left.min(chunk.len());
            file.write_all(&chunk[..part]).unwrap();
            left -= part;
        }
        path
    }

    /// The command, attached to the link with both addresses.
    pub(crate) fn underpass(&self, arguments: &[&str]) -> Command {
        let mut command = self.unaddressed(arguments);
        command.args(["--addr", "10.7.0.2/24", "--addr", "fd07::2/64"]);
        command
    }

    /// The command, attached to nothing.
    pub(crate) fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
        command.args(arguments).current_dir(self.dir.path());
        command
    }

    /// The command, attached to the link without an address.
    pub(crate) fn unaddressed(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare(arguments);
        command.args(["--device", self.spec]);
        command
    }

    /// Runs the command that is attached without an address to its end.
    pub(crate) fn run_unaddressed(&self, arguments: &[&str]) -> Output {
        finish(&self.ours, self.unaddressed(arguments))
    }

    /// The name of the kernel's interface.
    pub(crate) fn peer_interface(&self) -> &'static str {
        if self.peer.is_some() { "veth1" } else { "tap0" }
    }

    /// Runs the attached command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        finish(&self.ours, self.underpass(arguments))
    }

    /// Runs any command at the end of ours.
    pub(crate) fn run_ours(&self, command: Command) -> Output {
        finish(&self.ours, command)
    }

    /// Runs a program at the kernel's end.
    pub(crate) fn peer(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.path());
        finish(self.kernel(), command)
    }

    /// Runs a program at the kernel's end, and returns what it printed.
    pub(crate) fn peer_ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.peer(program, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Starts a server of ours, and waits for its first line.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Process {
        self.wait_listening(arguments, self.underpass(arguments))
    }

    /// The same without an address.
    pub(crate) fn serve_unaddressed(&self, arguments: &[&str]) -> Process {
        self.wait_listening(arguments, self.unaddressed(arguments))
    }

    fn wait_listening(&self, arguments: &[&str], mut command: Command) -> Process {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = self.start_ours(command);
        let mut line = String::new();
        // Byte by byte: nothing after the line is taken.
        let stdout = server.child.stdout.as_mut().unwrap();
        BufReader::with_capacity(1, stdout).read_line(&mut line).unwrap();
        if !line.starts_with("listening on ") {
            let mut stderr = String::new();
            server.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            panic!("{arguments:?}: {line}{stderr}");
        }
        server.first_line = line;
        server
    }

    /// Starts a program at the kernel's end that listens at `addr`, and waits until it does.
    pub(crate) fn peer_server(&self, command: Command, addr: SocketAddr) -> Process {
        server(self.kernel(), command, addr)
    }

    /// The same at the end of ours.
    pub(crate) fn our_server(&self, command: Command, addr: SocketAddr) -> Process {
        server(&self.ours, command, addr)
    }

    /// Starts a command at the end of ours.
    pub(crate) fn start_ours(&self, command: Command) -> Process {
        Process::start(&self.ours, command)
    }

    /// Starts a command at the kernel's end.
    pub(crate) fn start_peer(&self, command: Command) -> Process {
        Process::start(self.kernel(), command)
    }

    /// Connects from the kernel's end.
    pub(crate) fn connect(&self, addr: SocketAddr) -> std::io::Result<TcpStream> {
        self.kernel().run(|| TcpStream::connect(addr))
    }

    /// Gives the kernel's end one more address.
    pub(crate) fn peer_address(&self, interface: &str, address: &str, prefix: u8) {
        let address = address.parse().unwrap();
        self.kernel().netlink(|netlink| netlink.add_address(interface, address, prefix)).unwrap();
    }

    /// Deletes our interface.
    pub(crate) fn delete_our_end(&self, interface: &str) {
        self.ours.netlink(|netlink| netlink.delete_link(interface)).unwrap();
    }

    /// Runs `work` at the kernel's end.
    pub(crate) fn at_peer<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.kernel().run(work)
    }

    /// The namespace of the kernel's end.
    pub(crate) fn kernel(&self) -> &Namespace {
        self.peer.as_ref().unwrap_or(&self.ours)
    }
}

/// A process that is killed when the test is done with it.
pub(crate) struct Process {
    child: Child,
    first_line: String,
}

impl Process {
    /// Starts a program in a namespace.
    pub(crate) fn start(namespace: &Namespace, mut command: Command) -> Self {
        let child = namespace.run(|| command.spawn()).unwrap();
        Self { child, first_line: String::new() }
    }

    /// What a server of ours told when it was up.
    pub(crate) fn first_line(&self) -> &str {
        &self.first_line
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) {
        kill_process(Pid::from_child(&self.child), Signal::KILL).unwrap();
    }

    /// Sends SIGINT.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for its end; returns how it ended and the rest of its output.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the process does not end");
            thread::sleep(Duration::from_millis(10));
        };
        let mut text = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut text).unwrap();
        }
        (status, text)
    }
}

impl Process {
    /// The end of its standard input that is ours, once.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// The next bytes of its standard output.
    pub(crate) fn read_stdout(&mut self, bytes: &mut [u8]) {
        self.child.stdout.as_mut().unwrap().read_exact(bytes).unwrap();
    }

    /// Waits until it has written a line with this text to standard error.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let stderr = self.child.stderr.as_mut().unwrap();
        // Byte by byte: nothing after the line is taken.
        let mut stderr = BufReader::with_capacity(1, stderr);
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ends without '{text}'");
        }
    }

    /// What an ended process wrote to standard error.
    pub(crate) fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that a large transfer has: 64 MiB, or `UNDERPASS_TEST_BYTES`.
pub(crate) fn large() -> u64 {
    std::env::var("UNDERPASS_TEST_BYTES").map_or(64 << 20, |text| text.parse().unwrap())
}

/// SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).unwrap();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut chunk).unwrap();
        if len == 0 {
            return hasher.finalize().into();
        }
        hasher.update(&chunk[..len]);
    }
}

/// nginx at port 8080 of the kernel's end, serving the directory of the lab.
pub(crate) fn nginx(lab: &Lab) -> Process {
    lab.peer_server(nginx_command(lab), NGINX.parse().unwrap())
}

/// Where [`nginx_command`] listens, besides all other addresses.
pub(crate) const NGINX: &str = "127.0.0.1:8080";

/// The web server on port 8080, serving the directory of the lab.
pub(crate) fn nginx_command(lab: &Lab) -> Command {
    let dir = lab.dir.path().display();
    let configuration = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr crit;
        events {{}}
        http {{
            access_log off; sendfile on;
            client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
            uwsgi_temp_path {dir}; scgi_temp_path {dir};
            server {{ listen 8080; listen [::]:8080; root {dir}; }}
        }}"
    );
    std::fs::write(lab.dir.path().join("nginx.conf"), configuration).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(lab.dir.path()).args(["-e", "stderr", "-c", "nginx.conf"]);
    command
}

fn server(namespace: &Namespace, command: Command, addr: SocketAddr) -> Process {
    let process = Process::start(namespace, command);
    let start = Instant::now();
    while namespace.run(|| TcpStream::connect(addr)).is_err() {
        assert!(start.elapsed() < PATIENCE, "nobody listens at {addr}");
        thread::sleep(Duration::from_millis(20));
    }
    process
}

/// Runs a command in a namespace to its end, or for as long as anything may take.
pub(crate) fn finish(namespace: &Namespace, mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    let child = namespace.run(|| command.spawn()).unwrap();
    let pid = Pid::from_child(&child);
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let killer = thread::spawn(move || {
        let waited = is_done.recv_timeout(PATIENCE);
        if waited == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    killer.join().unwrap();
    output
}

/// Defines each named function, which takes a `&Lab`, as a test on every kind of link.
#[macro_export]
macro_rules! on_every_link {
    ($($name:ident),* $(,)?) => {
        mod packet {
            $(
                #[test]
                #[ignore = "needs root: run by cargo xtask test"]
                fn $name() {
                    super::$name(&$crate::common::Lab::packet());
                }
            )*
        }
        mod tap {
            $(
                #[test]
                #[ignore = "needs root: run by cargo xtask test"]
                fn $name() {
                    super::$name(&$crate::common::Lab::tap());
                }
            )*
        }
        #[cfg(feature = "xdp")]
        mod xdp {
            $(
                #[test]
                #[ignore = "needs root: run by cargo xtask test"]
                fn $name() {
                    super::$name(&$crate::common::Lab::xdp());
                }
            )*
        }
        #[cfg(feature = "dpdk")]
        mod dpdk {
            $(
                #[test]
                #[ignore = "needs root: run by cargo xtask test"]
                fn $name() {
                    super::$name(&$crate::common::Lab::dpdk());
                }
            )*
        }
        #[cfg(feature = "dpdk")]
        mod dpdk_tap {
            $(
                #[test]
                #[ignore = "needs root: run by cargo xtask test"]
                fn $name() {
                    super::$name(&$crate::common::Lab::dpdk_tap());
                }
            )*
        }
    };
}
