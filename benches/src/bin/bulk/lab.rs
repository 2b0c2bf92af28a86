//! Connections to the kernel's TCP in network namespaces that exist for one measurement.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, anyhow, ensure};
use underpass::{Limits, Stack, TcpStream};
use underpass_drivers::AnyDevice;
use underpass_drivers::lab::{Namespace, veth};
use underpass_drivers::packet::{PacketConfig, PacketDevice};
use underpass_drivers::tap::{TapConfig, TapDevice};

use crate::station::Turned;
use crate::{Direction, Driving, kernel};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PREFIX: u8 = 24;
const PORT: u16 = 5001;
/// Bytes per read and write of the applications.
const CHUNK: usize = 256 * 1024;
/// Features of a veth that let superframes and partial checksums through, as `ethtool -K` calls them.
const OFFLOADS: [&str; 5] = ["tso", "gso", "gro", "tx", "sg"];

/// What is between the stack and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// A TAP interface.
    Tap,
    /// A veth pair, with an AF_PACKET socket on the stack's end.
    Packet,
}

/// Gbit/s between the stack and the kernel's TCP.
pub(crate) fn stack(
    wire: Wire,
    offload: bool,
    driving: Driving,
    direction: Direction,
    buffer: usize,
    time: Duration,
) -> Result<f64> {
    let lab = Lab::new()?;
    let device = lab.device(wire, offload)?;
    let mut limits = Limits::default();
    limits.send_buffer = buffer;
    limits.recv_buffer = buffer;
    let builder = Stack::builder().address(format!("{OWN}/{PREFIX}").parse()?).limits(limits);
    let listener = lab.peer.run(|| kernel::listen(peer_address()))?;
    match driving {
        Driving::Thread(spin) => {
            let stack = builder.busy_poll(spin).build(device)?;
            let own = TcpStream::connect_timeout(&stack, peer_address(), Duration::from_secs(5))
                .context("connecting to the kernel")?;
            let (kernel, _) = listener.accept()?;
            match direction {
                Direction::Send => transfer(own, kernel, time),
                Direction::Receive => transfer(kernel, own, time),
            }
        }
        Driving::Inline => {
            let (stack, shard) = builder.build_shard(device)?;
            let own = Turned::connect(&stack, shard, peer_address())?;
            let (kernel, _) = listener.accept()?;
            match direction {
                Direction::Send => transfer(own, kernel, time),
                Direction::Receive => transfer(kernel, own, time),
            }
        }
    }
}

/// Gbit/s between two namespaces of the kernel over a veth pair.
pub(crate) fn kernel(offload: bool, time: Duration) -> Result<f64> {
    let lab = Lab::new()?;
    lab.veth(offload)?;
    lab.own.netlink(|netlink| netlink.add_address("own", OWN.into(), PREFIX))?;
    let listener = lab.peer.run(|| kernel::listen(peer_address()))?;
    let own = lab.own.run(|| kernel::connect(peer_address()))?;
    let (peer, _) = listener.accept()?;
    transfer(own, peer, time)
}

struct Lab {
    own: Namespace,
    peer: Namespace,
}

impl Lab {
    fn new() -> Result<Self> {
        Ok(Self { own: Namespace::new()?, peer: Namespace::new()? })
    }

    fn device(&self, wire: Wire, offload: bool) -> Result<AnyDevice> {
        match wire {
            Wire::Tap => {
                let host = vec![format!("{PEER}/{PREFIX}").parse()?];
                let config = TapConfig { offload, host, ..TapConfig::default() };
                Ok(self.peer.run(|| TapDevice::open("tap0", &config))?.into())
            }
            Wire::Packet => {
                self.veth(offload)?;
                let config = PacketConfig { offload, ..PacketConfig::default() };
                Ok(self.own.run(|| PacketDevice::open("own", &config))?.into())
            }
        }
    }

    /// A link between both namespaces; the peer has its address.
    fn veth(&self, offload: bool) -> Result<()> {
        veth((&self.own, "own"), (&self.peer, "peer"))?;
        self.peer.netlink(|netlink| netlink.add_address("peer", PEER.into(), PREFIX))?;
        if !offload {
            switch_offloads_off(&self.own, "own")?;
            switch_offloads_off(&self.peer, "peer")?;
        }
        Ok(())
    }
}

fn switch_offloads_off(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-K", interface]);
    for feature in OFFLOADS {
        ethtool.args([feature, "off"]);
    }
    let output = namespace
        .run(|| ethtool.output())
        .context("running ethtool, which switches a veth's offloads off (Debian: ethtool)")?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ethtool -K {interface}: {message}");
    Ok(())
}

fn peer_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(PEER), PORT)
}

/// Writes on one thread for as long as `time`, reads on this one: Gbit/s as the reader sees it.
fn transfer(mut from: impl Write + Close + Send, mut to: impl Read, time: Duration) -> Result<f64> {
    // The reader moves in: should it fail, its end of the connection goes, and the writer stops.
    thread::scope(move |scope| {
        let sender = scope.spawn(move || {
            let chunk = vec![7; CHUNK];
            let start = Clock::now();
            while start.elapsed() < time {
                from.write_all(&chunk)?;
            }
            from.close()?;
            io::Result::Ok(from)
        });
        let mut buffer = vec![0; CHUNK];
        let mut received = to.read(&mut buffer)?;
        let start = Clock::now();
        let mut end = start;
        loop {
            match to.read(&mut buffer)? {
                0 => break,
                count => received += count,
            }
            end = Clock::now();
        }
        let from = sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("sending")?;
        // The peer's FIN first: the stack need not wait for it.
        drop(to);
        drop(from);
        Ok(received as f64 * 8.0 / (end - start).as_secs_f64() / 1e9)
    })
}

/// Ends the sending half.
pub(crate) trait Close {
    fn close(&mut self) -> io::Result<()>;
}

impl Close for std::net::TcpStream {
    fn close(&mut self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

impl Close for TcpStream {
    fn close(&mut self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}
