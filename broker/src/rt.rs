//! The wrapper around the runtime: an executor on the current thread, tasks, one timer, sockets.
//! Called by `shard` and `preflight`. No other file names glommio, so that another runtime can
//! replace it.
//!
//! Rules for glommio 0.9. No task is cancelled or dropped while it waits, because its memory would
//! leak; each task ends by itself. A task that waits has registered its waker. Other threads have
//! at most one wake of a task outstanding, because its reference count has 16 bits. Every executor
//! has a [`Guard`], because it may sleep although tasks are ready.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::{Latency, LocalExecutor, LocalExecutorBuilder, Placement, Shares};

mod socket;

pub use socket::{Incoming, Stream};
pub(crate) use socket::{RingProbe, probe_ring};

/// How long a step may run before the runtime checks its rings again. The default of 100 ms would
/// delay messages from other shards to a busy one by 50 ms on average.
const PREEMPT_AFTER: Duration = Duration::from_micros(500);

/// The same until the first task has run. There is no [`Guard`] yet, so if the executor slept by
/// mistake, it would not wake. No other task waits yet, so the timer can be longer than the system
/// ever preempts the thread.
const FIRST_PREEMPT_AFTER: Duration = Duration::from_secs(1);

/// Registered memory of an executor, bytes. It is used for files only, and a shard reads none.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Entries of each of an executor's rings.
const RING_DEPTH: usize = 1024;

/// Why an executor could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an io_uring executor: {cause}")]
pub struct ExecutorError {
    cause: String,
}

/// Runs tasks on the thread that made it.
#[derive(Debug)]
pub struct Executor {
    inner: LocalExecutor,
}

impl Executor {
    /// An executor for the current thread. It does not pin the thread to a processor.
    ///
    /// # Errors
    /// [`ExecutorError`] if the kernel refuses a ring. `preflight` reports the usual reasons before
    /// this.
    pub fn new() -> Result<Executor, ExecutorError> {
        let inner = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(FIRST_PREEMPT_AFTER)
            .make()
            .map_err(|error| ExecutorError { cause: error.to_string() })?;
        Ok(Executor { inner })
    }

    /// Runs a task and those that it spawns. Returns when the first task has ended; spawned tasks
    /// that have not ended by then do not run any further.
    pub fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.inner.run(async move {
            // The latency of the queue is the preempt timer while one of its tasks is ready. Tasks
            // that they spawn are in this queue too.
            let latency = Latency::Matters(PREEMPT_AFTER);
            let queue = glommio::executor().create_task_queue(Shares::default(), latency, "shard");
            glommio::spawn_local_into(task, queue).expect("the queue was made one line above").await
        })
    }
}

/// Starts a task on this thread's executor. The task is polled inside this call, so the caller must
/// hold no borrow that the task needs.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(glommio::spawn_local(task).detach());
}

/// Whether the current step has run so long that other tasks should get a turn.
pub fn should_yield() -> bool {
    glommio::executor().need_preempt()
}

/// The one timer of a task.
#[derive(Debug)]
pub struct Timer {
    inner: glommio::timer::Timer,
}

impl Timer {
    /// A timer that is not set yet. Inside a task only.
    pub fn new() -> Timer {
        Timer { inner: glommio::timer::Timer::new(Duration::ZERO) }
    }

    /// Wakes the task after `duration`; replaces the previous time. Ready if the duration is zero.
    pub fn poll_after(&mut self, duration: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.reset(duration);
        Pin::new(&mut self.inner).poll(cx).map(drop)
    }
}

/// When a guard of a busy executor runs, and when it tries again if the executor slept by mistake.
const GUARD_AFTER: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
];

/// How much later it runs on an idle executor.
const GUARD_IDLE: Duration = Duration::from_millis(15);

/// A task that bounds how long the executor can sleep although tasks are ready.
///
/// Before glommio 0.9 runs the first ready task of a round, it checks the preempt timer. If the
/// timer has expired, no task runs; the executor takes this for "no task is ready" and sleeps until
/// the next event (`run_task_queues` returns `false`). This happens if the system preempts the
/// thread at that point for longer than the timer: with more shards than cores, once in some
/// hundred wakes. The guard makes sure that an event follows soon. It sets several timers at
/// growing distances, because the round that one timer starts may be lost in the same way. If all
/// of them are lost, a wake from another thread helps; `beat` is how the watchdog notices that.
pub struct Guard<F> {
    timers: [Timer; GUARD_AFTER.len()],
    beat: F,
}

impl<F: FnMut() -> bool + Unpin> Guard<F> {
    /// `beat` is called each time the guard runs; it returns whether the shard has done anything
    /// since the last call. Inside a task only.
    pub fn new(beat: F) -> Guard<F> {
        Guard { timers: std::array::from_fn(|_| Timer::new()), beat }
    }
}

impl<F: FnMut() -> bool + Unpin> Future for Guard<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let later = if (this.beat)() { Duration::ZERO } else { GUARD_IDLE };
        for (timer, after) in this.timers.iter_mut().zip(GUARD_AFTER) {
            // A timer that is due already wakes no task; the next timer does.
            let _ = timer.poll_after(after + later, cx);
        }
        Poll::Pending
    }
}

impl Default for Timer {
    fn default() -> Self {
        Timer::new()
    }
}
