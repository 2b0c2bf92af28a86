mod handshake;
mod operations;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use underpass_drivers::kernel::EpollTransport;
use underpass_drivers::rdma::{
    Adapter, Connection, ConnectionConfig, Listener, MemoryRegion, connect,
};
use underpass_protocols::transport::{Limits, Transport};

const PATIENCE: Duration = Duration::from_secs(60);

fn adapter(device: &str) -> Adapter {
    Adapter::open(device, 1, None).unwrap()
}

fn transport() -> EpollTransport {
    EpollTransport::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Limits::default()).unwrap()
}

/// A connection from `near` to `far`, which offers `regions`; and the other end.
fn connected(
    near: &Adapter,
    far: &Adapter,
    config: &ConnectionConfig,
    regions: &[&MemoryRegion],
) -> (Connection, Connection) {
    let (mut here, mut there) = (transport(), transport());
    let peer = there.local_addr();
    thread::scope(|scope| {
        let dialling =
            scope.spawn(|| connect(near, config, &[], &mut here, peer, PATIENCE).unwrap());
        let mut listener = Listener::new(far, config, 1, PATIENCE);
        let incoming = listener.accept(regions, &mut there, PATIENCE).unwrap().unwrap();
        (dialling.join().unwrap(), incoming.connection)
    })
}
