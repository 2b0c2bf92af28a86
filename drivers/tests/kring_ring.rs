//! The rings between the kernel module and us, in whatever order the two run: entries arrive whole
//! and in order, and neither side sleeps over what the other has done.
//!
//! Run by `RUSTFLAGS="--cfg model" cargo test -p underpass-drivers --test kring_ring`.

#![cfg(model)]

#[path = "../src/kring/ring.rs"]
#[allow(dead_code, reason = "a part is tried")]
mod ring;

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use ring::{Consumer, Place, Producer, must_ring};

/// Words: two indices, a flag, and two entries of two words.
const PLACE: Place = Place { producer: 0, consumer: 1, entries: 3, slots: 2 };
const FLAG: usize = 2;

type Memory = Arc<[AtomicU32]>;

fn memory() -> Memory {
    (0..7).map(|_| AtomicU32::new(0)).collect()
}

/// What wakes: a condition variable.
#[derive(Default)]
struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Alarm {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn take(ring: &mut Consumer<Memory, 2>, expected: &mut u32) {
    while ring.available().unwrap() > 0 {
        let entry = ring.pop().unwrap();
        assert_eq!(entry, [*expected, *expected + 10]);
        *expected += 1;
        ring.give_back();
    }
}

#[test]
fn entries_arrive_whole_and_in_order() {
    loom::model(|| {
        let memory = memory();
        let mut producer = Producer::<_, 2>::new(Arc::clone(&memory), PLACE);
        let mut consumer = Consumer::<_, 2>::new(memory, PLACE);
        let writer = thread::spawn(move || {
            for n in 0..3 {
                while !producer.push([n, n + 10]) {
                    thread::yield_now();
                }
                producer.publish();
            }
        });
        let mut expected = 0;
        while expected < 3 {
            take(&mut consumer, &mut expected);
            thread::yield_now();
        }
        writer.join().unwrap();
    });
}

/// The module's side of receiving: `wake_reader` of `kmod/receive.c`.
#[test]
fn a_reader_that_asked_is_woken() {
    loom::model(|| {
        let (memory, alarm) = (memory(), Arc::new(Alarm::default()));
        let mut producer = Producer::<_, 2>::new(Arc::clone(&memory), PLACE);
        let mut consumer = Consumer::<_, 2>::new(Arc::clone(&memory), PLACE);
        let kernel = thread::spawn({
            let alarm = Arc::clone(&alarm);
            move || {
                for n in 0..2 {
                    assert!(producer.push([n, n + 10]));
                    producer.publish();
                    fence(Ordering::SeqCst);
                    if memory[FLAG].load(Ordering::Relaxed) != 0 {
                        memory[FLAG].store(0, Ordering::Relaxed);
                        alarm.ring();
                    }
                }
            }
        });
        let mut expected = 0;
        while expected < 2 {
            if !consumer.ask_to_be_woken(FLAG).unwrap() {
                // poll() of the module asks once more each time it is about to sleep.
                alarm.wait();
            }
            take(&mut consumer, &mut expected);
        }
        kernel.join().unwrap();
    });
}

/// The module's side of sending: `sleep_until_doorbell` of `kmod/transmit.c`.
#[test]
fn a_thread_that_sleeps_is_called() {
    loom::model(|| {
        let (memory, alarm) = (memory(), Arc::new(Alarm::default()));
        let mut producer = Producer::<_, 2>::new(Arc::clone(&memory), PLACE);
        let mut consumer = Consumer::<_, 2>::new(Arc::clone(&memory), PLACE);
        let kernel = thread::spawn({
            let (memory, alarm) = (Arc::clone(&memory), Arc::clone(&alarm));
            move || {
                let mut expected = 0;
                while expected < 2 {
                    take(&mut consumer, &mut expected);
                    memory[FLAG].store(1, Ordering::Relaxed);
                    fence(Ordering::SeqCst);
                    if consumer.available().unwrap() == 0 && expected < 2 {
                        alarm.wait();
                    }
                    memory[FLAG].store(0, Ordering::Relaxed);
                }
            }
        });
        for n in 0..2 {
            assert!(producer.push([n, n + 10]));
            producer.publish();
            if must_ring(&memory, FLAG) {
                alarm.ring();
            }
        }
        kernel.join().unwrap();
    });
}
