//! Timers for tasks, in virtual time and on the stack's own thread.

mod common;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use common::World;
use underpass::devices::{LinkConfig, MemoryConfig, MemoryDevice};
use underpass::{Limits, Sleep, Stack, UdpSocket};

const MILLI: Duration = Duration::from_millis(1);

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn world() -> World {
    World::new(LinkConfig::default(), &Limits::default())
}

#[test]
fn an_hour_passes_in_virtual_time() {
    let mut world = world();
    world.run_for(Duration::from_secs(1000));
    let start = world.now;
    let mut sleep = pin!(world.left.sleep(Duration::from_secs(3600)));
    world.run_until("an hour", Duration::from_secs(4000), || poll(sleep.as_mut()).is_ready());
    let passed = world.now - start;
    assert!((Duration::from_secs(3600)..=Duration::from_secs(3600) + MILLI).contains(&passed));
}

#[test]
fn the_first_deadline_fires_first_whatever_the_order_of_starts() {
    let mut world = world();
    let sleep = |millis| Box::pin(world.left.sleep(Duration::from_millis(millis)));
    let mut sleeps: Vec<Pin<Box<Sleep>>> = [500, 20, 3000, 1, 20].map(sleep).into();
    let mut ends = vec![None; sleeps.len()];
    for millis in 1..=3001 {
        world.run_for(MILLI);
        for (end, sleep) in ends.iter_mut().zip(&mut sleeps) {
            if end.is_none() && poll(sleep.as_mut()).is_ready() {
                *end = Some(millis);
            }
        }
    }
    assert_eq!(ends, [501, 21, 3001, 2, 21].map(Some));
}

#[test]
fn a_timeout_ends_what_takes_too_long_and_lets_the_rest_through() {
    let mut world = world();
    let stack = world.left.clone();
    let socket = UdpSocket::bind(&stack, "10.0.0.1:5000".parse().unwrap()).unwrap();
    let peer = UdpSocket::bind(&world.right, "10.0.0.2:5000".parse().unwrap()).unwrap();
    let mut buffer = [0; 100];
    {
        let receive = socket.recv_from_async(&mut buffer);
        let mut limited = pin!(stack.timeout(Duration::from_secs(2), receive));
        assert!(poll(limited.as_mut()).is_pending());
        world.run_for(Duration::from_secs(1));
        assert!(poll(limited.as_mut()).is_pending());
        world.run_for(Duration::from_millis(1001));
        match poll(limited.as_mut()) {
            Poll::Ready(Err(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            other => panic!("{other:?}"),
        }
    }
    let receive = socket.recv_from_async(&mut buffer);
    let mut limited = pin!(stack.timeout(Duration::from_secs(2), receive));
    assert!(poll(limited.as_mut()).is_pending());
    peer.send_to(b"here", "10.0.0.1:5000".parse().unwrap()).unwrap();
    world.run_for(MILLI);
    match poll(limited.as_mut()) {
        Poll::Ready(Ok(received)) => assert_eq!(received.unwrap().0, 4),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sleeps_are_bounded_in_number() {
    let mut limits = Limits::default();
    limits.sleeps = 2;
    let mut world = World::new(LinkConfig::default(), &limits);
    let sleeps = [0, 1].map(|_| world.left.sleep(MILLI));
    match poll(pin!(world.left.sleep(MILLI))) {
        Poll::Ready(Err(error)) => assert_eq!(error.kind(), io::ErrorKind::OutOfMemory),
        other => panic!("{other:?}"),
    }
    drop(sleeps);
    world.run_for(MILLI);
    assert!(poll(pin!(world.left.sleep(MILLI))).is_pending());
}

#[test]
fn the_stacks_own_thread_wakes_from_its_sleep() {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let (device, _other) = MemoryDevice::pair(MemoryConfig::default());
    let stack = Stack::builder().address("10.0.0.1/24".parse().unwrap()).build(device).unwrap();
    // The thread is asleep by then: its clock is not that of the sleep's start.
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    let mut sleep = pin!(stack.sleep(Duration::from_millis(50)));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    while sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        thread::park();
    }
    assert!(start.elapsed() >= Duration::from_millis(50), "early: {:?}", start.elapsed());
}
