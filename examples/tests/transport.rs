//! Messages between this stack and the kernel's TCP, on every device: the suite, and many messages
//! verified. `UNDERPASS_TEST_MESSAGES` is their number, both directions together.

#![forbid(unsafe_code)]

mod lab;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lab::{Lab, OURS};
use underpass::Stack;
use underpass::transport::suite::{self, Acceptor, Dialer, Rig, Stream};
use underpass::transport::{Limits, StackTransport, Transport};
use underpass_drivers::AnyDevice;
use underpass_drivers::kernel::{EpollTransport, UringTransport};

const PATIENCE: Duration = Duration::from_secs(30);

/// Our stack is the subject, the kernel has the peers. The caller is at the kernel's end.
struct Kernel(Stack);

impl Rig for Kernel {
    type Subject = StackTransport;
    type Peer = EpollTransport;

    fn subject(&mut self, limits: Limits) -> io::Result<StackTransport> {
        StackTransport::bind(&self.0, ours(), limits)
    }

    fn peer(&mut self, at: Option<SocketAddr>, limits: Limits) -> io::Result<EpollTransport> {
        EpollTransport::bind(at.unwrap_or(any()), limits)
    }

    fn dialer(&self) -> Dialer {
        Box::new(|to| patient(TcpStream::connect(to)?))
    }

    fn listen(&mut self) -> io::Result<(SocketAddr, Acceptor)> {
        let listener = TcpListener::bind(any())?;
        Ok((listener.local_addr()?, Box::new(move || patient(listener.accept()?.0))))
    }
}

fn any() -> SocketAddr {
    SocketAddr::from(([10, 7, 0, 1], 0))
}

fn ours() -> SocketAddr {
    SocketAddr::from(([10, 7, 0, 2], 7))
}

fn patient(stream: TcpStream) -> io::Result<Box<dyn Stream>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Box::new(stream))
}

fn stack(lab: &Lab) -> Stack {
    let device = lab.at_ours(|| AnyDevice::open(&lab.spec())).unwrap();
    Stack::builder().address(OURS.parse().unwrap()).build(device).unwrap()
}

/// Threads started at the kernel's end, as those of the exchange, are there, too.
fn exchange<P: Transport + Send>(
    lab: &Lab,
    bind: impl FnOnce(SocketAddr, Limits) -> io::Result<P> + Send,
) {
    let count = std::env::var("UNDERPASS_TEST_MESSAGES").map_or(100_000, |n| n.parse().unwrap());
    let stack = stack(lab);
    let limits = Limits::default();
    let mut near = StackTransport::bind(&stack, ours(), limits).unwrap();
    lab.at_peer(|| {
        let mut far = bind(any(), limits).unwrap();
        let exchanged = suite::exchange(&mut near, &mut far, count / 2, 64 * 1024, 7);
        println!("{}: {exchanged:?}", lab.spec);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_suite_passes_against_the_kernel() {
    let lab = Lab::packet();
    lab.at_peer(|| suite::run(5, || Kernel(stack(&lab))));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_over_packet_are_verified() {
    exchange(&Lab::packet(), EpollTransport::bind);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_over_tap_are_verified() {
    exchange(&Lab::tap(), EpollTransport::bind);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_over_a_vlan_are_verified() {
    exchange(&Lab::vlan(), EpollTransport::bind);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_are_verified_against_io_uring() {
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    match UringTransport::bind(here, Limits::default()) {
        Ok(_) => exchange(&Lab::packet(), UringTransport::bind),
        Err(error) => eprintln!("not tested: io_uring: {error}"),
    }
}
