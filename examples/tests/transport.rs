//! Messages between this stack and the kernel's TCP, on every device: the suite, and many messages
//! verified. `UNDERPASS_TEST_MESSAGES` is their number, both directions together.

#![forbid(unsafe_code)]

mod lab;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ipnet::IpNet;
use lab::{Lab, OURS};
use underpass::Stack;
use underpass::transport::suite::{self, Acceptor, Dialer, Rig, Stream, TcpRig};
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
}

impl TcpRig for Kernel {
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
    lab.at_peer(|| suite::run_over_tcp(5, || Kernel(stack(&lab))));
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
    if let Some(lab) = Lab::vlan() {
        exchange(&lab, EpollTransport::bind);
    }
}

/// The kernel takes the tags off on the way: the driver puts them back.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_stacks_on_a_vlan_exchange_messages() {
    let lab = Lab::packet();
    let open = |spec: &str| AnyDevice::open(&spec.parse().unwrap()).unwrap();
    let near = lab.at_ours(|| open("packet:veth0,vlan=42"));
    let far = lab.at_peer(|| open("packet:veth1,vlan=42"));
    let mut transports =
        [(near, ours()), (far, SocketAddr::from(([10, 7, 0, 3], 7)))].map(|(device, address)| {
            let net = IpNet::new_assert(address.ip(), 24);
            let stack = Stack::builder().address(net).build(device).unwrap();
            StackTransport::bind(&stack, address, Limits::default()).unwrap()
        });
    let [near, far] = &mut transports;
    println!("{:?}", suite::exchange(near, far, 20_000, 64 * 1024, 9));
}

/// Who is on another VLAN, or on none, is not there.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn stations_of_other_vlans_do_not_meet() {
    for other in ["packet:veth1", "packet:veth1,vlan=43"] {
        let lab = Lab::packet();
        let open = |spec: &str| AnyDevice::open(&spec.parse().unwrap()).unwrap();
        let near = lab.at_ours(|| open("packet:veth0,vlan=42"));
        let far = lab.at_peer(|| open(other));
        let start = |device, address: &str| {
            Stack::builder().address(address.parse().unwrap()).build(device).unwrap()
        };
        let (near, far) = (start(near, OURS), start(far, "10.7.0.3/24"));
        let at = SocketAddr::from(([10, 7, 0, 3], 7));
        let _listener = underpass::TcpListener::bind(&far, at).unwrap();
        let timeout = Duration::from_secs(1);
        assert!(underpass::TcpStream::connect_timeout(&near, at, timeout).is_err(), "{other}");
    }
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
