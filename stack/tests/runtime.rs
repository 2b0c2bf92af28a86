//! Applications on the shards' own threads: tasks, sleeps, sockets, and calls from shard to shard.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant as Clock};

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use rustix::time::{ClockId, clock_gettime};
use underpass::devices::{MemoryConfig, MemoryDevice};
use underpass::{
    Builder, Interface, Limits, Local, Shard, Stack, SubmitError, TcpListener, TcpStream,
    run_per_core,
};

fn builder(n: u8) -> Builder {
    Stack::builder().address(format!("10.0.0.{n}/24").parse().unwrap())
}

/// Both ends of a link, of one shard each.
fn pair() -> [(Stack, Shard<MemoryDevice>); 2] {
    let (a, b) = MemoryDevice::pair(MemoryConfig::default());
    [builder(1).build_shard(a).unwrap(), builder(2).build_shard(b).unwrap()]
}

/// A stack with two shards, and the other end of its link.
fn two_shards(limits: Limits) -> (Stack, Vec<Shard<MemoryDevice>>, Vec<MemoryDevice>) {
    let (near, far) = MemoryDevice::pair_queues(MemoryConfig::default(), 2);
    let (stack, shards) =
        builder(1).limits(limits).build_shards([Interface::with_queues(near)]).unwrap();
    (stack, shards, far)
}

async fn echo(local: Local, address: SocketAddr, connections: usize) {
    let listener = TcpListener::bind(local.stack(), address).unwrap();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (mut stream, _) = listener.accept_async().await.unwrap();
        tasks.push(local.spawn(async move {
            let (mut reader, mut writer) = (stream.clone(), &mut stream);
            futures_util::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.close().await.unwrap();
        }));
    }
    for task in tasks {
        task.await;
    }
}

#[test]
fn a_server_and_its_clients_run_on_the_threads_of_their_shards() {
    let [(near, mut near_shard), (far, mut far_shard)] = pair();
    let address = "10.0.0.2:7".parse().unwrap();
    let server = thread::spawn(move || {
        far_shard.block_on(&far, |local| echo(local, address, 3)).unwrap();
        far_shard
    });
    let done = Rc::new(Cell::new(0));
    let count = Rc::clone(&done);
    near_shard
        .block_on(&near, |local| async move {
            let mut tasks = Vec::new();
            for n in 0..3_u8 {
                let (stack, count) = (local.stack().clone(), Rc::clone(&count));
                tasks.push(local.spawn(async move {
                    // The server may not listen yet.
                    let mut stream = loop {
                        match TcpStream::connect_async(&stack, address).await {
                            Ok(stream) => break stream,
                            Err(_) => stack.sleep(Duration::from_millis(5)).await.unwrap(),
                        }
                    };
                    stream.write_all(&vec![n; 100_000]).await.unwrap();
                    stream.close().await.unwrap();
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).await.unwrap();
                    assert_eq!(back, vec![n; 100_000]);
                    count.set(count.get() + 1);
                }));
            }
            for task in tasks {
                task.await;
            }
        })
        .unwrap();
    let _its_device_stays = server.join().unwrap();
    assert_eq!(done.get(), 3);
}

#[test]
fn a_shard_has_another_one_do_things() {
    let (stack, shards, _far) = two_shards(Limits::default());
    let results = run_per_core(&stack, shards, |local| async move {
        let other = 1 - local.shard();
        let asked = local.submit_to(other, |there| async move {
            there.stack().sleep(Duration::from_millis(1)).await.unwrap();
            (there.shard(), thread::current().name().map(str::to_owned))
        });
        let (shard, thread) = asked.await.unwrap();
        assert_eq!(thread, Some(format!("underpass-{other}")));
        let own = local.submit_to(local.shard(), |there| async move { there.shard() });
        assert_eq!(own.await, Ok(local.shard()));
        let nobody = local.submit_to(2, |_| async {}).await;
        assert_eq!(nobody, Err(SubmitError::NoShard(2)));
        shard
    });
    assert_eq!(results.unwrap(), [1, 0]);
}

#[test]
fn a_full_mailbox_makes_the_sender_wait_and_loses_nothing() {
    let mut limits = Limits::default();
    limits.mailbox = 2;
    let (stack, shards, _far) = two_shards(limits);
    let counted = run_per_core(&stack, shards, |local| async move {
        if local.shard() == 1 {
            local.stack().sleep(Duration::from_millis(200)).await.unwrap();
            return 0;
        }
        let mut tasks = Vec::new();
        for n in 0..100 {
            let here = local.clone();
            tasks.push(local.spawn(async move {
                // Longer than a turn, so that a burst of them fills the mailbox.
                let slow = move |_| async move {
                    thread::sleep(Duration::from_micros(200));
                    n
                };
                here.submit_to(1, slow).await.unwrap()
            }));
        }
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        sum
    });
    assert_eq!(counted.unwrap(), [99 * 100 / 2, 0]);
    assert!(stack.stats().mailbox_full > 0);
}

#[test]
fn a_job_for_a_shard_that_has_ended_fails() {
    let (stack, mut shards, _far) = two_shards(Limits::default());
    let (mut second, mut first) = (shards.pop().unwrap(), shards.pop().unwrap());
    second.block_on(&stack, |_| async {}).unwrap();
    let submitted = first
        .block_on(&stack, |local| async move { local.submit_to(1, |_| async {}).await })
        .unwrap();
    assert_eq!(submitted, Err(SubmitError::Ended));
}

#[test]
fn tasks_that_are_not_done_are_dropped_with_what_they_hold() {
    let [(stack, mut shard), _peer] = pair();
    let held = Rc::new(());
    let holds = Rc::clone(&held);
    shard
        .block_on(&stack, |local| async move {
            let again = local.clone();
            let task = local.spawn(async move {
                let _both = (holds, again);
                std::future::pending::<()>().await;
            });
            task.detach();
        })
        .unwrap();
    assert_eq!(Rc::strong_count(&held), 1);
}

#[test]
fn a_panic_of_one_shard_ends_the_others() {
    let (stack, shards, _far) = two_shards(Limits::default());
    let run = move || {
        run_per_core(&stack, shards, |local| async move {
            assert!(local.shard() == 0, "shard 1 panics");
        })
    };
    let start = Clock::now();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_idle_shard_takes_less_than_a_hundredth_of_a_core() {
    let [(stack, mut shard), _peer] = pair();
    let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = used();
    shard
        .block_on(&stack, |local| async move {
            local.stack().sleep(Duration::from_secs(1)).await.unwrap();
        })
        .unwrap();
    let used = used().saturating_sub(before);
    assert!(used < Duration::from_millis(10), "{used:?} in one second");
}
