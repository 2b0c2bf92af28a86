//! Connections to the kernel's TCP in network namespaces that exist for one measurement.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, anyhow};
use underpass::devices::Device;
use underpass::{Limits, Stack, TcpStream};
use underpass_benches::kernel;
use underpass_benches::lab::{Lab, Wire, own_net, peer_address};
use underpass_benches::turned::Turned;

use crate::{Direction, Driving};

/// Bytes per read and write of the applications.
const CHUNK: usize = 256 * 1024;

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
    let builder = Stack::builder().address(own_net()?).limits(limits);
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
    lab.kernels(offload)?;
    let listener = lab.peer.run(|| kernel::listen(peer_address()))?;
    let own = lab.own.run(|| kernel::connect(peer_address()))?;
    let (peer, _) = listener.accept()?;
    transfer(own, peer, time)
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

impl<D: Device> Close for Turned<D> {
    fn close(&mut self) -> io::Result<()> {
        Turned::close(self)
    }
}
