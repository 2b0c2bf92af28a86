//! Private network namespaces with a link between them: ours at one end, the kernel at the other.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};

use underpass::devices::VlanId;
use underpass_drivers::Spec;
use underpass_drivers::lab::{Namespace, veth};

/// Our address; the kernel's is 10.7.0.1.
pub(crate) const OURS: &str = "10.7.0.2/24";

pub(crate) struct Lab {
    ours: Namespace,
    /// `None`: the kernel's end is in the same namespace.
    peer: Option<Namespace>,
    pub(crate) spec: &'static str,
}

impl Lab {
    /// AF_PACKET at one end of a veth pair.
    pub(crate) fn packet() -> Self {
        let (ours, peer) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth((&ours, "veth0"), (&peer, "veth1")).unwrap();
        peer.netlink(|n| n.add_address("veth1", [10, 7, 0, 1].into(), 24)).unwrap();
        Self { ours, peer: Some(peer), spec: "packet:veth0" }
    }

    /// AF_XDP at one end of a veth pair.
    #[cfg(feature = "xdp")]
    pub(crate) fn xdp() -> Self {
        Self { spec: "xdp:veth0", ..Self::packet() }
    }

    /// A TAP device.
    pub(crate) fn tap() -> Self {
        let ours = Namespace::new().unwrap();
        Self { ours, peer: None, spec: "tap:tap0,host=10.7.0.1/24" }
    }

    /// The same link through VLAN 42, tagged by us and by a VLAN interface of the kernel; `None`,
    /// with the reason, where the kernel has no VLANs.
    pub(crate) fn vlan() -> Option<Self> {
        let (ours, peer) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth((&ours, "veth0"), (&peer, "veth1")).unwrap();
        let id = VlanId::new(42).unwrap();
        match peer.netlink(|n| n.create_vlan("veth1.42", "veth1", id)) {
            Ok(()) => {}
            Err(error) if error.to_string().contains("not supported") => {
                eprintln!("not tested: {error} (CONFIG_VLAN_8021Q)");
                return None;
            }
            Err(error) => panic!("{error}"),
        }
        peer.netlink(|n| {
            n.set_up("veth1.42", true)?;
            n.add_address("veth1.42", [10, 7, 0, 1].into(), 24)
        })
        .unwrap();
        Some(Self { ours, peer: Some(peer), spec: "packet:veth0,vlan=42" })
    }

    /// Gives the address of the kernel's VLAN interface to the link below it.
    pub(crate) fn move_peer_off_the_vlan(&self) {
        let peer = self.peer.as_ref().unwrap();
        peer.netlink(|n| {
            n.delete_link("veth1.42")?;
            n.add_address("veth1", [10, 7, 0, 1].into(), 24)
        })
        .unwrap();
    }

    pub(crate) fn spec(&self) -> Spec {
        self.spec.parse().unwrap()
    }

    /// Runs `work` where our device is.
    pub(crate) fn at_ours<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.ours.run(work)
    }

    /// Runs `work` at the kernel's end.
    pub(crate) fn at_peer<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.peer.as_ref().unwrap_or(&self.ours).run(work)
    }

    /// An example, attached to our end.
    pub(crate) fn example(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["--device", self.spec, "--addr", OURS]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts an example that serves, and waits until it does.
    pub(crate) fn serve(&self, program: &str) -> Process {
        self.serve_with(program, &[])
    }

    /// The same with more arguments.
    pub(crate) fn serve_with(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = self.example(program);
        command.args(arguments).stderr(Stdio::inherit());
        let mut server = Process(self.at_ours(|| command.spawn()).unwrap());
        let line = server.line();
        assert!(line.starts_with("listening on "), "{program}: {line}");
        server
    }

    /// Runs a program at the kernel's end and returns what it printed.
    pub(crate) fn peer_ok(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments);
        text(program, &self.at_peer(|| command.output()).unwrap())
    }

    /// Listens at the kernel's end; with the address to connect to, which a TAP brings with it later.
    pub(crate) fn listen(&self) -> (TcpListener, SocketAddr) {
        let listener = self.at_peer(|| TcpListener::bind("0.0.0.0:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, SocketAddr::from(([10, 7, 0, 1], port)))
    }
}

/// What a program printed, if it succeeded.
pub(crate) fn text(program: &str, output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that is killed when the test is done with it.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        // Byte by byte: nothing after the line is taken.
        let stdout = self.0.stdout.as_mut().unwrap();
        BufReader::with_capacity(1, stdout).read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// Types a line.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends it as Ctrl-C does, and returns what it had left to say.
    pub(crate) fn interrupt(mut self) -> String {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let mut rest = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "Ctrl-C ends it cleanly, not with {status}: {rest}");
        rest
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
