//! The layer beneath.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use underpass_drivers::rdma::verbs::{
    Access, AddressHandle, Completion, CompletionChannel, CompletionError, CompletionQueue,
    Context, Destination, Gid, Kind, Memory, PortState, ProtectionDomain, QueuePair,
    QueuePairConfig, ReceiveBatch, Route, SendBatch, VerbsError, devices,
};

const Q_KEY: u32 = 7;

/// A queue pair for datagrams, with memory for one each way.
struct End {
    pair: Arc<QueuePair>,
    send: Arc<CompletionQueue>,
    receive: Arc<CompletionQueue>,
    memory: Memory,
}

impl End {
    fn open(name: &str) -> Self {
        let context = Context::open(name).unwrap();
        assert_eq!(context.port(1).unwrap().state, PortState::Active);
        let channel = CompletionChannel::new(&context).unwrap();
        let send = CompletionQueue::new(&context, 4, None).unwrap();
        let receive = CompletionQueue::new(&context, 4, Some(&channel)).unwrap();
        let domain = ProtectionDomain::new(&context).unwrap();
        let config = QueuePairConfig {
            kind: Kind::Datagram,
            send_requests: 4,
            receive_requests: 4,
            inline: 64,
        };
        let pair = QueuePair::new(&domain, &config, &send, &receive).unwrap();
        pair.start_datagrams(1, Q_KEY).unwrap();
        let memory = Memory::new(&domain, 8192, Access::LOCAL_WRITE).unwrap();
        Self { pair, send, receive, memory }
    }

    fn route(&self, to: Gid) -> AddressHandle {
        let route = Route { port: 1, gid_index: 1, destination: to, hop_limit: 1 };
        AddressHandle::new(self.pair.domain(), &route).unwrap()
    }

    fn post_receive(&self) {
        let mut batch = ReceiveBatch::with_capacity(1);
        batch.push(5, &self.memory, &(4096..8192));
        // SAFETY: the memory lives as long as the pair and is read behind the completion.
        unsafe { self.pair.post_receive(&mut batch) }.unwrap();
    }
}

fn wait(queue: &CompletionQueue) -> Completion {
    let mut completions = [Completion::default(); 4];
    loop {
        if let [done] = queue.poll(&mut completions).unwrap() {
            return *done;
        }
    }
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_datagram_crosses_the_link() {
    assert_eq!(devices().unwrap(), ["rxe0", "rxe1"]);
    let (a, b) = (End::open("rxe0"), End::open("rxe1"));
    b.post_receive();
    b.receive.arm().unwrap();
    let handle = a.route(Gid::of_ipv4(Ipv4Addr::new(10, 9, 0, 2)));
    let to = Destination { handle: &handle, queue_pair: b.pair.number(), q_key: Q_KEY };
    // SAFETY: nothing was posted that touches it.
    unsafe { a.memory.bytes(0..5) }.copy_from_slice(b"hello");
    let mut batch = SendBatch::with_capacity(1);
    batch.push_datagram(3, &a.memory, &(0..5), to, false);
    batch.signal_last();
    // SAFETY: memory and handle live as long as the pair.
    unsafe { a.pair.post_send(&mut batch) }.unwrap();
    let sent = wait(&a.send);
    assert_eq!((sent.id(), sent.result()), (3, Ok(())));

    let channel = b.receive.channel().unwrap();
    let fd = channel.as_fd();
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)), Ok(1));
    channel.drain().unwrap();
    let received = wait(&b.receive);
    assert_eq!((received.id(), received.result()), (5, Ok(())));
    assert_eq!((received.len(), received.source_queue_pair()), (45, a.pair.number()));
    assert!(received.has_routing_header());
    // SAFETY: the buffer's completion was polled.
    assert_eq!(unsafe { b.memory.bytes(4096 + 40..4096 + 45) }, b"hello");
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn a_stopped_queue_pair_flushes_its_requests() {
    let end = End::open("rxe0");
    end.post_receive();
    end.pair.stop().unwrap();
    assert_eq!(wait(&end.receive).result(), Err(CompletionError::Flushed));
}

#[test]
#[ignore = "needs the guest: run by cargo xtask guest test rdma"]
fn what_does_not_exist_is_answered_with_what_does() {
    let error = Context::open("rxe7").unwrap_err().to_string();
    assert_eq!(error, "no such RDMA device (have: rxe0, rxe1)");
    let context = Context::open("rxe1").unwrap();
    let error = context.port(2).unwrap_err().to_string();
    assert_eq!(error, "it has no port 2 (ports: 1 to 1)");
    let error = context.gid(1, 77).unwrap_err();
    assert!(matches!(error, VerbsError::NoSuchGid { .. }), "{error}");
    assert!(error.to_string().contains("1 ::ffff:10.9.0.2"), "{error}");
}
