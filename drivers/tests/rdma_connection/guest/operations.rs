//! What becomes of reads, writes and atomic operations, and of the memory that they take.

use std::env;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_drivers::kernel::EpollTransport;
use underpass_drivers::rdma::verbs::{Atomics, CompletionError, VerbsError};
use underpass_drivers::rdma::{
    Adapter, Buffer, Connection, ConnectionConfig, Finished, HandshakeError, Listener,
    MemoryRegion, OperationError, OperationId, Permissions, RangeError, RemoteRegion, RequestError,
    WaitError, connect,
};
use underpass_protocols::transport::{Limits, Transport};

use super::{PATIENCE, adapter, connected, transport};

const MIB: usize = 1 << 20;

/// Two devices, a region of the second one, and a connection to it.
struct Pair {
    near: Connection,
    far: Connection,
    region: MemoryRegion,
    remote: RemoteRegion,
    ours: Adapter,
    theirs: Adapter,
}

impl Pair {
    fn new(len: usize, permissions: Permissions, config: &ConnectionConfig) -> Self {
        let (ours, theirs) = (adapter("rxe1"), adapter("rxe0"));
        let region = theirs.region(len, permissions).unwrap();
        let (near, far) = connected(&ours, &theirs, config, &[&region]);
        let remote = near.regions()[0];
        assert_eq!(remote, region.descriptor());
        Self { near, far, region, remote, ours, theirs }
    }

    fn with_defaults(len: usize) -> Self {
        Self::new(len, Permissions::ALL, &ConnectionConfig::default())
    }
}

/// The buffer of a transfer, and whether it worked.
fn transferred(finished: Finished) -> (Buffer, Result<(), OperationError>) {
    match finished {
        Finished::Transfer { buffer, result, .. } => (buffer, result),
        Finished::Atomic { .. } => panic!("{finished:?}"),
    }
}

fn wait(connection: &mut Connection, operation: OperationId) -> Finished {
    connection.wait_for(operation, PATIENCE).unwrap()
}

fn value(finished: &Finished) -> Result<u64, OperationError> {
    match finished {
        Finished::Atomic { result, .. } => *result,
        Finished::Transfer { .. } => panic!("{finished:?}"),
    }
}

fn failed(error: CompletionError) -> OperationError {
    OperationError::Completion(error)
}

/// What a peer could say of memory if it wanted: every field at will.
fn forged(region: &RemoteRegion, change: impl FnOnce(&mut [u8; 24])) -> RemoteRegion {
    let mut bytes = region.to_bytes();
    change(&mut bytes);
    RemoteRegion::from_bytes(&bytes).unwrap()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)).wrapping_add(seed) as u8)
        .collect()
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn sixteen_mebibytes_are_written_and_read_as_they_are() {
    let len = 16 * MIB;
    let mut pair = Pair::with_defaults(len);
    // The longest message of Soft-RoCE is shorter.
    assert!(pair.ours.longest_message() < len, "{}", pair.ours.longest_message());
    let mut buffer = pair.ours.buffer(len).unwrap();
    buffer.copy_from_slice(&pattern(len, 1));
    let write = pair.near.write(buffer, 0..len, &pair.remote, 0).unwrap();
    let (buffer, result) = transferred(wait(&mut pair.near, write));
    assert_eq!(result, Ok(()));
    let mut there = vec![0; len];
    pair.region.copy_to(0, &mut there).unwrap();
    assert!(there == pattern(len, 1), "written");

    pair.region.copy_from(0, &pattern(len, 2)).unwrap();
    let read = pair.near.read(buffer, 0..len, &pair.remote, 0).unwrap();
    let (buffer, result) = transferred(wait(&mut pair.near, read));
    assert_eq!(result, Ok(()));
    assert!(buffer[..] == pattern(len, 2), "read");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn transfers_of_any_place_and_length_touch_nothing_beside() {
    let mut pair = Pair::with_defaults(8192);
    let mut buffer = pair.ours.buffer(8192).unwrap();
    buffer.copy_from_slice(&pattern(8192, 3));
    let mut expected = vec![0; 8192];
    // Inline, of one packet, of several.
    for (from, to, len) in [(0, 1, 1), (3, 100, 220), (7, 1001, 1500), (10, 2700, 5000)] {
        let write = pair.near.write(buffer, from..from + len, &pair.remote, to as u64).unwrap();
        let (back, result) = transferred(wait(&mut pair.near, write));
        assert_eq!(result, Ok(()));
        expected[to..to + len].copy_from_slice(&back[from..from + len]);
        buffer = back;
    }
    let mut there = vec![0; 8192];
    pair.region.copy_to(0, &mut there).unwrap();
    assert!(there == expected, "written");

    let mut here = pair.ours.buffer(8192).unwrap();
    let mut expected = vec![0; 8192];
    for (from, to, len) in [(0, 1, 1), (3, 100, 220), (7, 1001, 1500), (10, 2700, 5000)] {
        let read = pair.near.read(here, to..to + len, &pair.remote, from as u64).unwrap();
        let (back, result) = transferred(wait(&mut pair.near, read));
        assert_eq!(result, Ok(()));
        expected[to..to + len].copy_from_slice(&there[from..from + len]);
        here = back;
    }
    assert!(here[..] == expected, "read");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn counters_that_two_clients_change_at_once_are_exact() {
    const ROUNDS: u64 = 400;
    const AT_ONCE: usize = 8;
    let server = adapter("rxe0");
    assert_eq!(server.atomics(), Atomics::Device);
    let region = server.region(16, Permissions::ATOMIC | Permissions::READ).unwrap();
    let client = |step: u64| {
        let ours = adapter("rxe1");
        let (mut near, far) = connected(&ours, &server, &ConnectionConfig::default(), &[&region]);
        let remote = near.regions()[0];
        move || {
            // One word by additions, several under way; the other by compare and swap.
            let mut last = None;
            for begun in 0..ROUNDS {
                near.fetch_add(&remote, 0, step).unwrap();
                if begun >= AT_ONCE as u64 {
                    let before = value(&near.wait(PATIENCE).unwrap().unwrap()).unwrap();
                    assert!(last < Some(before), "{last:?} {before}");
                    last = Some(before);
                }
            }
            while near.pending() > 0 {
                value(&near.wait(PATIENCE).unwrap().unwrap()).unwrap();
            }
            let (mut known, mut missed) = (0, 0);
            for _ in 0..ROUNDS {
                loop {
                    let swap = near.compare_and_swap(&remote, 8, known, known + step).unwrap();
                    let before = value(&wait(&mut near, swap)).unwrap();
                    let swapped = before == known;
                    known = if swapped { known + step } else { before };
                    if swapped {
                        break;
                    }
                    missed += 1;
                }
            }
            drop(far);
            missed
        }
    };
    let (one, other) = (client(1), client(1000));
    let missed = thread::scope(|scope| {
        let threads = [scope.spawn(one), scope.spawn(other)];
        threads.map(|thread| thread.join().unwrap()).iter().sum::<u64>()
    });
    assert!(missed > 0, "they did not meet");
    for word in [0, 8] {
        assert_eq!(region.word(word).unwrap().load(Ordering::Acquire), ROUNDS * 1001);
    }
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_wrong_key_range_or_permission_is_a_typed_error_and_a_new_connection_works() {
    let config = ConnectionConfig::default();
    for offered in [Permissions::NONE, Permissions::READ, Permissions::WRITE, Permissions::ALL] {
        let mut pair = Pair::new(64, offered, &config);
        let all = forged(&pair.remote, |bytes| bytes[23] = 7);
        let wrong_key = forged(&all, |bytes| bytes[17] ^= 0x55);
        let longer = forged(&all, |bytes| bytes[14] = 64);
        // In turn, what the peer has not allowed or does not have.
        let mut cases = vec![(wrong_key, 0), (longer, 8192)];
        if offered != Permissions::ALL {
            cases.push((all, 0));
        }
        for (remote, offset) in cases {
            if !offered.contains(Permissions::READ) {
                let buffer = pair.ours.buffer(64).unwrap();
                let read = pair.near.read(buffer, 0..64, &remote, offset).unwrap();
                let (_, result) = transferred(wait(&mut pair.near, read));
                assert_eq!(result, Err(failed(CompletionError::RemoteAccess)));
            } else if !offered.contains(Permissions::WRITE) || offered == Permissions::ALL {
                let mut buffer = pair.ours.buffer(64).unwrap();
                buffer.fill(1);
                let write = pair.near.write(buffer, 0..64, &remote, offset).unwrap();
                let (buffer, result) = transferred(wait(&mut pair.near, write));
                assert_eq!(result, Err(failed(CompletionError::RemoteAccess)));
                // What was refused is refused from then on, and the buffer is ours again.
                let refused = pair.near.write(buffer, 0..64, &remote, 0).unwrap_err();
                assert_eq!(refused.reason, RequestError::Failed(result.unwrap_err()));
                assert_eq!(refused.buffer[..], [1; 64]);
            }
            assert!(pair.near.failure().is_some());
            let (near, far) = connected(&pair.ours, &pair.theirs, &config, &[&pair.region]);
            (pair.near, pair.far) = (near, far);
            let add = pair.near.fetch_add(&remote, offset, 1);
            let result = value(&wait(&mut pair.near, add.unwrap()));
            assert_eq!(result, Err(failed(CompletionError::RemoteAccess)));
            let (near, far) = connected(&pair.ours, &pair.theirs, &config, &[&pair.region]);
            (pair.near, pair.far) = (near, far);
        }
        // Nothing was changed, and what is allowed works.
        let mut bytes = [1; 64];
        pair.region.copy_to(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 64]);
        let buffer = pair.ours.buffer(64).unwrap();
        match pair.near.read(buffer, 0..64, &pair.remote, 0) {
            Ok(read) => {
                assert_eq!(transferred(wait(&mut pair.near, read)).1, Ok(()));
                assert!(offered.contains(Permissions::READ));
            }
            Err(refused) => {
                assert_eq!(refused.reason, RequestError::NotPermitted);
                assert!(!offered.contains(Permissions::READ));
            }
        }
    }
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn what_cannot_work_is_refused_before_it_is_sent() {
    let config = ConnectionConfig { operations: 2, longest_transfer: 4096, ..Default::default() };
    let mut pair = Pair::new(8192, Permissions::READ, &config);
    let all = forged(&pair.remote, |bytes| bytes[23] = 7);
    let mut refused = |remote: &RemoteRegion, range, offset| {
        let buffer = pair.ours.buffer(8192).unwrap();
        pair.near.read(buffer, range, remote, offset).unwrap_err().reason
    };
    let beyond = |offset, len| RangeError::OutOfBounds { offset, len, region_len: 8192 };
    assert_eq!(refused(&all, 0..4097, 0), RequestError::TooLong { len: 4097, max: 4096 });
    assert_eq!(refused(&all, 5..5, 0), RequestError::Empty);
    assert_eq!(refused(&all, 0..2, 8191), RequestError::Remote(beyond(8191, 2)));
    assert_eq!(refused(&all, 8191..8193, 0), RequestError::Local(beyond(8191, 2)));
    let backwards = std::ops::Range { start: 9, end: 3 };
    assert_eq!(refused(&all, backwards, 0), RequestError::Local(beyond(9, 0)));
    let buffer = pair.ours.buffer(8).unwrap();
    let write = pair.near.write(buffer, 0..8, &pair.remote, 0).unwrap_err();
    assert_eq!(write.reason, RequestError::NotPermitted);
    let foreign = pair.near.write(pair.theirs.buffer(8).unwrap(), 0..8, &all, 0).unwrap_err();
    assert_eq!(foreign.reason, RequestError::OtherAdapter);
    let atomic = pair.near.fetch_add(&pair.remote, 0, 1);
    assert_eq!(atomic, Err(RequestError::NotPermitted));
    let atomic = pair.near.fetch_add(&all, 12, 1);
    assert_eq!(atomic, Err(RequestError::Remote(RangeError::Misaligned { offset: 12 })));
    assert!(pair.region.word(12).is_err());

    // Two at a time: the third comes back, as long as nobody asks for what is finished.
    let mut buffers = pair.ours.buffers(3, 8).unwrap();
    buffers[2].fill(9);
    let third = buffers.pop().unwrap();
    for buffer in buffers {
        pair.near.read(buffer, 0..8, &pair.remote, 0).unwrap();
    }
    let refused = pair.near.read(third, 0..8, &pair.remote, 0).unwrap_err();
    assert_eq!(refused.reason, RequestError::Full { limit: 2 });
    assert_eq!(refused.buffer[..], [9; 8]);
    transferred(pair.near.wait(PATIENCE).unwrap().unwrap()).1.unwrap();
    pair.near.read(refused.buffer, 0..8, &pair.remote, 0).unwrap();

    let config = ConnectionConfig { operations: usize::MAX, ..config };
    let mut here = transport();
    let nobody = here.local_addr();
    let error = connect(&pair.ours, &config, &[], &mut here, nobody, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("use fewer operations"), "{error}");
    let too_much = pair.ours.buffers(usize::MAX / 2, 3).unwrap_err();
    assert!(matches!(too_much, VerbsError::Failed { .. }), "{too_much}");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn what_is_begun_leaves_with_the_flush_and_nobody_has_to_ask_for_its_end() {
    let mut pair = Pair::with_defaults(32);
    for (number, mut buffer) in (1u64..).zip(pair.ours.buffers(4, 8).unwrap()) {
        buffer.copy_from_slice(&number.to_ne_bytes());
        pair.near.write(buffer, 0..8, &pair.remote, (number - 1) * 8).unwrap();
    }
    let words = || [0, 8, 16, 24].map(|at| pair.region.word(at).unwrap().load(Ordering::Acquire));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(words(), [0; 4]);
    pair.near.flush();
    let start = Instant::now();
    while words() != [1, 2, 3, 4] && start.elapsed() < PATIENCE {
        thread::yield_now();
    }
    assert_eq!(words(), [1, 2, 3, 4]);
    assert_eq!(pair.near.pending(), 4);
    // What was begun when the connection is closed comes back, too.
    pair.near.write(pair.ours.buffer(8).unwrap(), 0..8, &pair.remote, 0).unwrap();
    assert_eq!(pair.near.close(PATIENCE).len(), 5);
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn operations_finish_in_order_and_the_descriptor_tells_when() {
    let mut pair = Pair::with_defaults(MIB);
    let buffers = pair.ours.buffers(20, MIB).unwrap();
    let begun: Vec<_> = buffers
        .into_iter()
        .map(|buffer| pair.near.read(buffer, 0..MIB, &pair.remote, 0).unwrap())
        .collect();
    assert_eq!(pair.near.pending(), 20);
    // One that is asked for by name leaves those in front of it for later.
    assert_eq!(wait(&mut pair.near, begun[3]).operation(), begun[3]);
    let again = pair.near.wait_for(begun[3], PATIENCE);
    assert!(matches!(again, Err(WaitError::Unknown)), "{again:?}");
    let mut finished = Vec::new();
    let mut slept = 0;
    while finished.len() < 19 {
        if let Some(done) = pair.near.poll().unwrap() {
            finished.push(done.operation());
        } else if !pair.near.arm().unwrap() {
            slept += 1;
            let fd = pair.near.as_fd();
            let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience));
            assert_eq!(ready, Ok(1));
        }
    }
    assert!(slept > 0, "a megabyte takes long enough to sleep");
    let expected: Vec<_> = begun.iter().filter(|id| **id != begun[3]).copied().collect();
    assert_eq!(finished, expected);
    assert!(pair.near.poll().unwrap().is_none());
    assert!(pair.near.wait(PATIENCE).unwrap().is_none(), "nothing to wait for");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn what_is_under_way_when_a_connection_ends_is_given_back_or_freed_after_it() {
    let begin = |pair: &mut Pair| {
        let buffers = pair.ours.buffers(16, 4 * MIB).unwrap();
        for buffer in buffers {
            pair.near.read(buffer, 0..4 * MIB, &pair.remote, 0).unwrap();
        }
        pair.near.flush();
    };
    // Dropped. A buffer that outlived its domain would be an assertion of the domain's.
    let mut pair = Pair::with_defaults(4 * MIB);
    begin(&mut pair);
    drop(pair);
    // Closed.
    let mut pair = Pair::with_defaults(4 * MIB);
    pair.region.copy_from(0, &vec![5; 4 * MIB]).unwrap();
    begin(&mut pair);
    let finished = pair.near.close(PATIENCE);
    assert_eq!(finished.len(), 16);
    let mut ids = finished.iter().map(Finished::operation);
    assert!(ids.clone().is_sorted() && ids.next().is_some());
    let mut flushed = 0;
    for (mut buffer, result) in finished.into_iter().map(transferred) {
        match result {
            Ok(()) => assert!(buffer.iter().all(|byte| *byte == 5)),
            Err(error) => {
                assert_eq!(error, failed(CompletionError::Flushed));
                flushed += 1;
            }
        }
        // It is ours alone: what is written stays.
        buffer.fill(6);
        assert!(buffer.iter().all(|byte| *byte == 6));
    }
    assert!(flushed > 0, "64 MiB take longer");
    // Forgotten: the memory stays the device's, and all else goes on.
    let mut pair = Pair::with_defaults(4 * MIB);
    begin(&mut pair);
    let Pair { near, far, region, remote, ours, theirs } = pair;
    mem::forget(near);
    drop((far, region));
    let mut pair = Pair::with_defaults(8);
    let add = pair.near.fetch_add(&pair.remote, 0, 3).unwrap();
    assert_eq!(value(&wait(&mut pair.near, add)), Ok(0));
    // The forgotten connection has the adapter still, and memory of it can be had.
    assert_eq!(ours.buffer(1).unwrap().len(), 1);
    assert!(remote.len() > 0 && theirs.buffer(0).unwrap().is_empty());
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_region_that_is_dropped_is_out_of_reach() {
    let mut pair = Pair::with_defaults(MIB);
    let write = |pair: &mut Pair| {
        let buffer = pair.ours.buffer(MIB).unwrap();
        let write = pair.near.write(buffer, 0..MIB, &pair.remote, 0).unwrap();
        transferred(wait(&mut pair.near, write)).1
    };
    assert_eq!(write(&mut pair), Ok(()));
    let other = pair.theirs.region(MIB, Permissions::NONE).unwrap();
    pair.region = other;
    assert_eq!(write(&mut pair), Err(failed(CompletionError::RemoteAccess)));
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_peer_that_is_gone_is_a_typed_error_in_bounded_time() {
    let mut pair = Pair::with_defaults(64);
    let buffer = pair.ours.buffer(64).unwrap();
    drop(pair.far);
    let start = Instant::now();
    let read = pair.near.read(buffer, 0..64, &pair.remote, 0).unwrap();
    let behind = pair.near.fetch_add(&pair.remote, 0, 1).unwrap();
    let (_, result) = transferred(wait(&mut pair.near, read));
    assert_eq!(result, Err(failed(CompletionError::NoAnswer)));
    let result = value(&wait(&mut pair.near, behind));
    assert_eq!(result, Err(failed(CompletionError::Flushed)));
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

/// The peer is this test once more, in another process.
#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_peer_that_is_killed_is_a_typed_error_in_bounded_time() {
    const PEER: &str = "UNDERPASS_TEST_PEER";
    let address = SocketAddr::from(([127, 0, 0, 1], 7070));
    let config = ConnectionConfig::default();
    if env::var_os(PEER).is_some() {
        let ours = adapter("rxe0");
        let region = ours.region(MIB, Permissions::ALL).unwrap();
        let mut transport = EpollTransport::bind(address, Limits::default()).unwrap();
        let mut listener = Listener::new(&ours, &config, 1, PATIENCE);
        let _incoming = listener.accept(&[&region], &mut transport, PATIENCE).unwrap().unwrap();
        // Until it is killed.
        thread::sleep(PATIENCE);
        panic!("nobody has killed the peer");
    }
    let mut peer = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "guest::operations::a_peer_that_is_killed_is_a_typed_error_in_bounded_time",
        ])
        .arg("--ignored")
        .env(PEER, "1")
        .spawn()
        .unwrap();
    let ours = adapter("rxe1");
    let mut here = transport();
    let start = Instant::now();
    let mut near = loop {
        match connect(&ours, &config, &[], &mut here, address, PATIENCE) {
            Ok(connection) => break connection,
            // It does not listen yet.
            Err(HandshakeError::Lost(_)) if start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
    };
    let remote = near.regions()[0];
    let mut free = ours.buffers(8, MIB).unwrap();
    let (mut written, mut killed) = (0, None);
    let (error, killed) = loop {
        while let Some(buffer) = free.pop() {
            if let Err(refused) = near.write(buffer, 0..MIB, &remote, 0) {
                assert!(matches!(refused.reason, RequestError::Failed(_)), "{refused}");
                break;
            }
        }
        let (buffer, result) = transferred(near.wait(PATIENCE).unwrap().unwrap());
        match (result, killed) {
            (Err(error), Some(killed)) => break (error, killed),
            (result, _) => result.unwrap(),
        }
        free.push(buffer);
        written += 1;
        if written == 10 {
            peer.kill().unwrap();
            killed = Some(Instant::now());
        }
    };
    peer.wait().unwrap();
    assert_eq!(error, failed(CompletionError::NoAnswer));
    assert!(killed.elapsed() < PATIENCE / 2, "{:?}", killed.elapsed());
    while near.pending() > 0 {
        let (_, result) = transferred(near.wait(PATIENCE).unwrap().unwrap());
        assert_eq!(result, Err(failed(CompletionError::Flushed)));
    }
}
