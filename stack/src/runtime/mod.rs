//! Running an application on the shards' own threads: each polls its device and its tasks in one
//! loop, so that nothing is handed from thread to thread and no lock is contended.

mod local;
mod mailbox;

use std::cell::RefCell;
use std::future::{Future, pending};
use std::io;
use std::panic::resume_unwind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant as Clock;

use async_executor::LocalExecutor;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use underpass_devices::Device;

pub use self::local::{Local, SubmitError};
pub(crate) use self::mailbox::Mailbox;
use crate::Stack;
use crate::driver::Drive;
use crate::shard::{Shard, Shared};
use crate::tcp::Tcp;

pub use async_executor::Task;

impl<D: Device> Shard<D> {
    /// Runs `main` and the tasks it spawns on this thread, which also turns the shard, until `main`
    /// is done. `stack` is the one this shard belongs to. The thread sleeps when there is nothing to
    /// do; time goes on where the last turn left it.
    ///
    /// Tasks that are not done when `main` ends are dropped. Connections that were closed may finish
    /// closing, for at most a second.
    ///
    /// ```
    /// use underpass::devices::{MemoryConfig, MemoryDevice};
    ///
    /// let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
    /// let builder = underpass::Stack::builder().address("10.0.0.1/24".parse()?);
    /// let (stack, mut shard) = builder.build_shard(device)?;
    /// let sum = shard.block_on(&stack, |local| async move {
    ///     let other = local.spawn(async { 2 });
    ///     1 + other.await
    /// })?;
    /// assert_eq!(sum, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The device is gone; every socket of this shard has failed.
    pub fn block_on<F: Future>(
        &mut self,
        stack: &Stack,
        main: impl FnOnce(Local) -> F,
    ) -> io::Result<F::Output> {
        let mut drive = Drive::new(self, Clock::now(), stack.busy_poll());
        let result = run_main(self, &mut drive, stack, main, || (), || true).and_then(|output| {
            let own = [Arc::clone(self.shared())];
            drive.until_closed(self, &own, || true, Tcp::has_orphans)?;
            Ok(output)
        });
        result.inspect_err(|error| self.fail(error))
    }
}

/// Runs `main` on every shard of `stack`, each on a thread of its own (and a CPU of its own, if this
/// process may use as many), and returns what they returned, by shard. A shard whose `main` is done
/// goes on with its other tasks and with those that the others give it until all are, and then until
/// its connections have closed, for at most a second.
///
/// # Errors
/// A device is gone, or a thread was refused: the first error of any shard.
pub fn run_per_core<D, T, F, M>(stack: &Stack, shards: Vec<Shard<D>>, main: M) -> io::Result<Vec<T>>
where
    D: Device + Send,
    T: Send,
    F: Future<Output = T>,
    M: Fn(Local) -> F + Sync,
{
    let running = AtomicUsize::new(shards.len());
    let cpus = cpus(shards.len());
    let clock = Clock::now();
    thread::scope(|scope| {
        let (main, running) = (&main, &running);
        let mut threads = Vec::new();
        for (index, mut shard) in shards.into_iter().enumerate() {
            let leaving = Leaving { stack, running };
            let cpu = cpus.get(index).copied();
            let thread = thread::Builder::new().name(format!("underpass-{index}"));
            threads.push(thread.spawn_scoped(scope, move || {
                stay_on(cpu);
                let mut drive = Drive::new(&shard, clock, stack.busy_poll());
                let all_done = || running.load(Ordering::SeqCst) == 0;
                let done = || drop(leaving);
                let result = run_main(&mut shard, &mut drive, stack, main, done, all_done)
                    .and_then(|output| {
                        let open = |tcp: &Tcp<_>| !tcp.is_empty();
                        drive.until_closed(&mut shard, stack.all_shards(), all_done, open)?;
                        Ok(output)
                    });
                result.inspect_err(|error| shard.fail(error))
            }));
        }
        let join = |thread: io::Result<ScopedJoinHandle<'_, io::Result<T>>>| {
            thread?.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Runs `main` and the tasks it spawns until it is done, calls `done`, and goes on with other tasks
/// until it `may_end`.
fn run_main<D: Device, F: Future>(
    shard: &mut Shard<D>,
    drive: &mut Drive,
    stack: &Stack,
    main: impl FnOnce(Local) -> F,
    done: impl FnOnce(),
    may_end: impl Fn() -> bool,
) -> io::Result<F::Output> {
    let index = shard.index();
    let stack = stack.on_shard(index).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the shard belongs to another stack")
    })?;
    let shared = Arc::clone(shard.shared());
    let mailbox = OpenMailbox::new(shared.mailbox());
    let executor = Rc::new(LocalExecutor::new());
    let local = Local::new(stack, index, Rc::downgrade(&executor));
    let ready = Arc::new(Ready { is_ready: AtomicBool::new(true), shard: Arc::clone(&shared) });
    let waker = Waker::from(Arc::clone(&ready));
    let mut context = Context::from_waker(&waker);
    let output = RefCell::new(None);
    let mut tasks = pin!(executor.run(async {
        let result = main(local.clone()).await;
        output.replace(Some(result));
        done();
        pending::<()>().await;
    }));
    loop {
        let mut busy = drive.turn(shard)?;
        while let Some(job) = mailbox.0.pop() {
            job(&local);
            busy = true;
        }
        if ready.is_ready.swap(false, Ordering::AcqRel) {
            let _never_ready = tasks.as_mut().poll(&mut context);
            busy = true;
        }
        if output.borrow().is_some()
            && may_end()
            && let Some(output) = output.take()
        {
            return Ok(output);
        }
        if !busy {
            drive.idle(shard, None)?;
        }
    }
}

/// Wakes the loop of a shard for its tasks.
struct Ready {
    is_ready: AtomicBool,
    shard: Arc<Shared>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_ready.store(true, Ordering::Release);
        self.shard.ring();
    }
}

/// A mailbox that is worked off for as long as this lives.
struct OpenMailbox<'a>(&'a Mailbox);

impl<'a> OpenMailbox<'a> {
    fn new(mailbox: &'a Mailbox) -> Self {
        mailbox.open();
        Self(mailbox)
    }
}

impl Drop for OpenMailbox<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// One of the shards that run; when it is dropped, even by a panic, the others are told.
struct Leaving<'a> {
    stack: &'a Stack,
    running: &'a AtomicUsize,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        for shard in self.stack.all_shards() {
            shard.ring();
        }
    }
}

/// A CPU for each of `count` threads, or none if there are not as many.
fn cpus(count: usize) -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else {
        return Vec::new();
    };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if cpus.len() < count { Vec::new() } else { cpus }
}

/// Binds this thread to a CPU. It is slower without, not wrong.
fn stay_on(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!("the thread is not bound to CPU {cpu}: {error}");
        }
    }
}
