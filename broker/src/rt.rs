//! The wrapper around the runtime: an executor on the current thread, tasks, one timer, sockets.
//! Called by `shard` and `preflight`. No other file names glommio, so that another runtime can
//! replace it.
//!
//! Rules for glommio 0.9: no task is cancelled or dropped while it waits, since its memory would
//! leak; each task ends by itself. A task that waits has given its waker to somebody. Other threads
//! wake a task once at a time, since its reference count has 16 bits. Every executor has a
//! [`Guard`], because it may sleep although tasks are ready.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::{Latency, LocalExecutor, LocalExecutorBuilder, Placement, Shares};

mod socket;

pub use socket::{Incoming, Stream};
pub(crate) use socket::{RingProbe, probe_ring};

/// How long a step may run before the runtime looks at its rings again. The default of 100 ms delays what comes from other
/// shards to a busy one by half of that.
const PREEMPT_AFTER: Duration = Duration::from_micros(500);

/// The same until the first task has run. No [`Guard`] stands yet, so a round that is taken for one without work would be the
/// last; nobody waits for others yet either, so the timer may be longer than the system ever takes the processor away.
const FIRST_PREEMPT_AFTER: Duration = Duration::from_secs(1);

/// Registered memory of an executor, bytes; it is for files, of which a shard reads none.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Entries of each of an executor's rings.
const RING_DEPTH: usize = 1024;

/// An executor could not be made.
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
    /// An executor for the current thread, which stays on the processors it is on.
    ///
    /// # Errors
    /// [`ExecutorError`] where the kernel refuses a ring; `preflight` says why beforehand.
    pub fn new() -> Result<Executor, ExecutorError> {
        let inner = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(FIRST_PREEMPT_AFTER)
            .make()
            .map_err(|error| ExecutorError { cause: error.to_string() })?;
        Ok(Executor { inner })
    }

    /// Runs a task, and those it spawns, until it has ended. What it spawned and has not ended then is lost.
    pub fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.inner.run(async move {
            // The queue's latency is the preempt timer as long as one of its tasks is ready; what they spawn is in it too.
            let latency = Latency::Matters(PREEMPT_AFTER);
            let queue = glommio::executor().create_task_queue(Shares::default(), latency, "shard");
            glommio::spawn_local_into(task, queue).expect("the queue was made one line above").await
        })
    }
}

/// Starts a task on this thread's executor and polls it at once, inside this call: hold no borrow that it needs.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(glommio::spawn_local(task).detach());
}

/// Whether the step has run for so long that others should have a turn.
pub fn should_yield() -> bool {
    glommio::executor().need_preempt()
}

/// The one timer of a task.
#[derive(Debug)]
pub struct Timer {
    inner: glommio::timer::Timer,
}

impl Timer {
    /// A timer that has yet to be set. Inside a task only.
    pub fn new() -> Timer {
        Timer { inner: glommio::timer::Timer::new(Duration::ZERO) }
    }

    /// Wakes the task after `duration`, and not at the time it was set to before. Ready if that is now.
    pub fn poll_after(&mut self, duration: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.reset(duration);
        Pin::new(&mut self.inner).poll(cx).map(drop)
    }
}

/// When a guard of a busy executor comes round, and when it tries again if that was in vain.
const GUARD_AFTER: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
];

/// How much later it comes while nothing happens.
const GUARD_IDLE: Duration = Duration::from_millis(15);

/// A task that keeps the executor from sleeping on others.
///
/// glommio 0.9 looks whether the preempt timer has gone off before it runs the first ready task of a round; if it has, nothing
/// was run, and it takes that for nothing being ready and sleeps until something else happens (`run_task_queues` returns
/// `false`). The system has only to take the processor away at the wrong moment for longer than the timer: with more shards
/// than cores that is every few hundred wakes. So something else happens soon, always: timers at growing distances, each of
/// which makes the executor look again, since its own round may be lost in the same way. Should all of them be lost, a wake from
/// another thread helps, for which the beat tells the watchdog.
pub struct Guard<F> {
    timers: [Timer; GUARD_AFTER.len()],
    beat: F,
}

impl<F: FnMut() -> bool + Unpin> Guard<F> {
    /// `beat` is called each time; it says whether anything has happened since. Inside a task only.
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
            // One that is due already wakes nobody, and the next one does.
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
