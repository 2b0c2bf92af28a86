//! The suite of transports over the kernel's TCP, with epoll and with io_uring, on loopback.

#![cfg(feature = "kernel")]

use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use underpass_drivers::kernel::{EpollTransport, UringTransport};
use underpass_protocols::transport::suite::{self, Acceptor, Dialer, Rig, Stream, TcpRig};
use underpass_protocols::transport::{Limits, Transport};

const PATIENCE: Duration = Duration::from_secs(30);

/// Subjects of one kind, peers of another, on the loopback interface.
struct Loopback<S, P>(PhantomData<(S, P)>);

trait Kernel: Transport + Send + Sized {
    fn bind(at: SocketAddr, limits: Limits) -> io::Result<Self>;
}

impl Kernel for EpollTransport {
    fn bind(at: SocketAddr, limits: Limits) -> io::Result<Self> {
        Self::bind(at, limits)
    }
}

impl Kernel for UringTransport {
    fn bind(at: SocketAddr, limits: Limits) -> io::Result<Self> {
        Self::bind(at, limits)
    }
}

impl<S: Kernel, P: Kernel> Rig for Loopback<S, P> {
    type Subject = S;
    type Peer = P;

    fn subject(&mut self, limits: Limits) -> io::Result<S> {
        S::bind(any(), limits)
    }

    fn peer(&mut self, at: Option<SocketAddr>, limits: Limits) -> io::Result<P> {
        P::bind(at.unwrap_or(any()), limits)
    }
}

impl<S: Kernel, P: Kernel> TcpRig for Loopback<S, P> {
    fn dialer(&self) -> Dialer {
        Box::new(|to| patient(TcpStream::connect(to)?))
    }

    fn listen(&mut self) -> io::Result<(SocketAddr, Acceptor)> {
        let listener = TcpListener::bind(any())?;
        Ok((listener.local_addr()?, Box::new(move || patient(listener.accept()?.0))))
    }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn patient(stream: TcpStream) -> io::Result<Box<dyn Stream>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Box::new(stream))
}

/// False, with the reason, where io_uring is switched off.
fn has_uring() -> bool {
    let bound = UringTransport::bind(any(), Limits::default());
    bound.inspect_err(|error| eprintln!("not tested: io_uring: {error}")).is_ok()
}

#[test]
fn the_suite_passes_over_epoll() {
    suite::run_over_tcp(1, || Loopback::<EpollTransport, EpollTransport>(PhantomData));
}

#[test]
fn the_suite_passes_over_io_uring() {
    if has_uring() {
        suite::run_over_tcp(2, || Loopback::<UringTransport, EpollTransport>(PhantomData));
        suite::run_over_tcp(3, || Loopback::<EpollTransport, UringTransport>(PhantomData));
    }
}

#[test]
fn stations_are_known_by_the_address_they_listen_at() {
    let at = |last| SocketAddr::from(([127, 0, 0, last], 0));
    let limits = Limits::default();
    let mut near = EpollTransport::bind(at(2), limits).unwrap();
    let mut far = EpollTransport::bind("[::]:0".parse().unwrap(), limits).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 3], far.local_addr().port()));
    near.send(to, b"over IPv4").unwrap();
    let received = loop {
        near.progress(Duration::from_millis(1)).unwrap();
        far.progress(Duration::from_millis(1)).unwrap();
        if let Some(received) = far.recv() {
            break received;
        }
    };
    assert_eq!(received, (b"over IPv4".as_slice().into(), near.local_addr()));
}
