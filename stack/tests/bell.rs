//! No call to a shard that goes to sleep is lost, in whatever order its owner and its callers run.
//!
//! Run by `RUSTFLAGS="--cfg model" cargo test -p underpass --test bell`. The usual `--cfg loom` would
//! reach into dependencies that have models of their own.

#![cfg(model)]

#[path = "../src/bell/calls.rs"]
mod calls;

use calls::Calls;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// A bell whose descriptor is a flag under a lock.
struct Bell {
    calls: Calls,
    signalled: Mutex<bool>,
    changed: Condvar,
    /// What is to be done, published before a call.
    work: AtomicUsize,
}

impl Bell {
    fn call(&self) {
        self.work.fetch_add(1, Ordering::Relaxed);
        if self.calls.ring() {
            *self.signalled.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    /// What the owner's loop does: answers, works, sleeps if nobody has called meanwhile.
    fn serve(&self, jobs: usize) {
        let mut done = 0;
        while done < jobs {
            if self.calls.is_rung() {
                self.calls.answer();
                done += self.work.swap(0, Ordering::Relaxed);
                continue;
            }
            if self.calls.fall_asleep() {
                let mut signalled = self.signalled.lock().unwrap();
                // loom reports a deadlock if no signal comes.
                while !*signalled {
                    signalled = self.changed.wait(signalled).unwrap();
                }
            }
            self.calls.wake_up();
            *self.signalled.lock().unwrap() = false;
        }
    }
}

#[test]
fn no_call_is_lost() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let bell = Arc::new(Bell {
            calls: Calls::new(),
            signalled: Mutex::new(false),
            changed: Condvar::new(),
            work: AtomicUsize::new(0),
        });
        let callers = [(); 2].map(|()| {
            let bell = Arc::clone(&bell);
            thread::spawn(move || bell.call())
        });
        bell.serve(2);
        for caller in callers {
            caller.join().unwrap();
        }
    });
}
