//! One-sided operations between two Soft-RoCE devices. They run in the guest, which has them:
//! `cargo xtask guest test rdma`.

#![cfg(all(feature = "rdma", feature = "kernel"))]

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use underpass_drivers::kernel::EpollTransport;
use underpass_drivers::rdma::verbs::CompletionError;
use underpass_drivers::rdma::{
    Adapter, Buffer, Connection, ConnectionConfig, Finished, HandshakeError, Listener,
    MemoryRegion, OperationError, Permissions, RangeError, Refusal, Refused, RemoteRegion,
    RequestError, connect,
};
use underpass_protocols::transport::{Limits, Transport};

const PATIENCE: Duration = Duration::from_secs(60);

fn adapters() -> (Adapter, Adapter) {
    (Adapter::open("rxe0", 1, None).unwrap(), Adapter::open("rxe1", 1, None).unwrap())
}

fn transport() -> EpollTransport {
    EpollTransport::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Limits::default()).unwrap()
}

/// A connection from `rxe1` to `rxe0`, which offers `regions`.
fn connected(
    adapters: &(Adapter, Adapter),
    config: &ConnectionConfig,
    regions: &[&MemoryRegion],
) -> (Connection, Connection) {
    let (mut here, mut there) = (transport(), transport());
    let peer = there.local_addr();
    thread::scope(|scope| {
        let dialling = scope
            .spawn(move || connect(&adapters.1, config, &[], &mut here, peer, PATIENCE).unwrap());
        let mut listener = Listener::new(&adapters.0, config, 4, PATIENCE);
        let incoming = listener.accept(regions, &mut there, PATIENCE).unwrap().unwrap();
        (dialling.join().unwrap(), incoming.connection)
    })
}

/// The buffer of a transfer, and whether it worked.
fn transferred(finished: Finished) -> (Buffer, Result<(), OperationError>) {
    match finished {
        Finished::Transfer { buffer, result, .. } => (buffer, result),
        other @ Finished::Atomic { .. } => panic!("{other:?}"),
    }
}

mod guest {
    use super::*;

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test rdma"]
    fn what_is_written_is_in_the_peers_memory() {
        let adapters = adapters();
        let region = adapters.0.region(128, Permissions::WRITE).unwrap();
        let (mut near, _far) = connected(&adapters, &ConnectionConfig::default(), &[&region]);
        let remote = near.regions()[0];
        assert_eq!((remote.len(), remote.permissions()), (128, Permissions::WRITE));
        let mut buffer = adapters.1.buffer(64).unwrap();
        buffer.fill(7);
        let write = near.write(buffer, 0..64, &remote, 32).unwrap();
        let (_, result) = transferred(near.wait_for(write, PATIENCE).unwrap());
        assert_eq!(result, Ok(()));
        let mut there = [1; 128];
        region.copy_to(0, &mut there).unwrap();
        assert_eq!(
            (&there[..32], &there[32..96], &there[96..]),
            (&[0; 32][..], &[7; 64][..], &[0; 32][..])
        );
    }
}
