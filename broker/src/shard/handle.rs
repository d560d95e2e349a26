//! How other threads reach a shard: queues for requests and verdicts, and one wake for any number
//! of them. Used by the control plane, the plugin loader and threads of plugins; only the shard's
//! own loop takes from the queues.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::task::Waker;
use std::time::Duration;

use crossbeam::queue::SegQueue;
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{Command as PluginCommand, Completion, Scope, Shard};

use super::heartbeat::Heartbeat;
use crate::net::Listening;

/// Work for a shard, run between two steps of its loop with its engine.
pub type Job = Box<dyn FnOnce(&mut Shard) + Send>;

/// What the shell itself asks of a shard, beside its engine.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept from these from now on.
    Listen(Vec<Listening>),
    /// Accept nobody any more, disconnect everybody, tell when that is done and go on serving the mesh.
    Drain,
    /// End, without waiting for anything.
    Stop,
}

/// A shard that did not answer in time, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} did not answer within {waited_ms} ms; a hook may be blocking it (see the log)")]
pub struct Unanswered {
    /// Which shard.
    pub shard: ShardId,
    /// How long the caller waited, milliseconds.
    pub waited_ms: u64,
}

/// Wakes the shard's loop from any thread. The runtime counts every wake that is under way from another thread in a 16-bit
/// reference count, so an "already signalled" flag keeps them to one. That holds only if the flag is lowered by nothing but
/// the task that was woken: the shard has a task for this alone, its bell, which no other event polls.
#[derive(Debug, Default)]
pub struct Signal {
    raised: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    /// Wakes the loop unless it has been woken and has not looked yet.
    pub fn raise(&self) {
        if self.raised.swap(true, Ordering::AcqRel) {
            return;
        }
        let waker = self.waker.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the loop whether it has been woken or not: for the watchdog, which does it rarely and only to a shard that sleeps.
    pub(super) fn kick(&self) {
        let waker = self.waker.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// For the shard's bell: the loop is about to look at its queues, and a raise from now on wakes again. True if one had come.
    pub fn lower(&self) -> bool {
        self.raised.swap(false, Ordering::AcqRel)
    }

    /// Whether a raise has come that the loop has not looked at.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Sets whom to wake. After it the loop must look at its queues once more before it sleeps.
    pub fn register(&self, waker: &Waker) {
        let mut place = self.waker.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }
}

/// Refused answers that wait to be counted; a plugin that has more refused faster than its shard turns is not counted for
/// each.
const REFUSED_WAITING_MAX: usize = 1024;

/// Scopes that wait to be authorized again; one of everything takes the place of more. As many as a turn looks at in a millisecond.
const INVALIDATIONS_MAX: usize = 1024;
/// Bytes of the names in them, likewise.
const INVALIDATIONS_BYTES_MAX: usize = 256 << 10;

/// What is to be authorized again; those that say the same are one.
#[derive(Default)]
struct Invalidations {
    scopes: BTreeSet<Scope>,
    /// Bytes of their names.
    bytes: usize,
}

impl Invalidations {
    /// Adds one; false where it says nothing new.
    fn add(&mut self, scope: &Scope) -> bool {
        if self.scopes.contains(&Scope::All) || self.scopes.contains(scope) {
            return false;
        }
        self.bytes += match scope {
            Scope::All => 0,
            Scope::Client(what) | Scope::User(what) | Scope::Topics(what) => what.len(),
        };
        let has_room = self.scopes.len() < INVALIDATIONS_MAX && self.bytes <= INVALIDATIONS_BYTES_MAX;
        let scope = if has_room { scope.clone() } else { Scope::All };
        if scope == Scope::All {
            *self = Invalidations::default();
        }
        self.scopes.insert(scope)
    }
}

#[derive(Default)]
struct Inner {
    jobs: SegQueue<Job>,
    completions: SegQueue<Completion>,
    refused: SegQueue<(u64, String)>,
    commands: SegQueue<Command>,
    plugin_commands: SegQueue<PluginCommand>,
    plugin_commands_waiting: AtomicUsize,
    plugin_commands_bytes: AtomicUsize,
    plugin_commands_refused: AtomicU64,
    questions_refused: AtomicU64,
    invalidations: Mutex<Invalidations>,
    signal: Signal,
    heartbeat: Heartbeat,
}

thread_local! {
    static HERE: RefCell<Option<ShardHandle>> = const { RefCell::new(None) };
}

/// A shard as other threads see it. Cheap to clone.
#[derive(Clone)]
pub struct ShardHandle {
    id: ShardId,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShardHandle({})", self.id)
    }
}

impl ShardHandle {
    /// A handle whose shard is yet to start; jobs wait until it does.
    pub fn new(id: ShardId) -> ShardHandle {
        ShardHandle { id, inner: Arc::default() }
    }

    /// Which shard.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Hands work over and returns at once. Any thread.
    pub fn submit(&self, job: Job) {
        self.inner.jobs.push(job);
        self.inner.signal.raise();
    }

    /// Runs `work` on the shard and waits for its answer. Blocks: never from a shard, nor from the control plane's executor.
    ///
    /// # Errors
    /// [`Unanswered`] after `timeout`; the work may still run later.
    pub fn call<R: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&mut Shard) -> R + Send + 'static,
    ) -> Result<R, Unanswered> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(Box::new(move |shard| {
            // The caller may have gone; then nobody wants the answer.
            let _ = sender.send(work(shard));
        }));
        receiver.recv_timeout(timeout).map_err(|_| self.unanswered(timeout))
    }

    /// As [`ShardHandle::call`], for the control plane's executor.
    ///
    /// # Errors
    /// [`Unanswered`] after `timeout`; the work may still run later.
    pub async fn call_async<R: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&mut Shard) -> R + Send + 'static,
    ) -> Result<R, Unanswered> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.submit(Box::new(move |shard| {
            // The caller may have gone; then nobody wants the answer.
            let _ = sender.send(work(shard));
        }));
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(self.unanswered(timeout)),
        }
    }

    /// Hands a deferred verdict over. Any thread.
    pub fn complete(&self, completion: Completion) {
        self.inner.completions.push(completion);
        self.inner.signal.raise();
    }

    /// An answer to this ticket was not taken, for this reason: the shard counts it and knows whose it was. Any thread.
    pub fn refuse_answer(&self, ticket: u64, reason: String) {
        // Several threads may pass the test at once: the bound is kept up to their number.
        if self.inner.refused.len() < REFUSED_WAITING_MAX {
            self.inner.refused.push((ticket, reason));
            self.inner.signal.raise();
        }
    }

    /// Wakes the shard's loop; what it is to find lies in a lane.
    pub fn wake(&self) {
        self.inner.signal.raise();
    }

    /// For the shard's loop: whom and whether to wake.
    pub fn signal(&self) -> &Signal {
        &self.inner.signal
    }

    /// For the shard's loop: the next piece of work.
    pub fn next_job(&self) -> Option<Job> {
        self.inner.jobs.pop()
    }

    /// For the shard's loop: the next deferred verdict.
    pub fn next_completion(&self) -> Option<Completion> {
        self.inner.completions.pop()
    }

    /// For the shard's loop: the next answer that was not taken, before the completions that came after it.
    pub fn next_refused(&self) -> Option<(u64, String)> {
        self.inner.refused.pop()
    }

    /// Hands over what a plugin asks for; false, and nothing done but counted, where `max` wait already, or where it makes more than
    /// `bytes_max` bytes with those that wait. Any thread.
    pub fn push_plugin_command(&self, command: PluginCommand, max: usize, bytes_max: usize) -> bool {
        let (inner, bytes) = (&*self.inner, command.bytes());
        // Several threads may pass the test at once: the bounds are kept up to their number.
        let (count, waiting) = (
            inner.plugin_commands_waiting.load(Ordering::Relaxed),
            inner.plugin_commands_bytes.load(Ordering::Relaxed),
        );
        // One that is larger than that comes through alone: it would be refused for ever.
        if count >= max || count > 0 && waiting.saturating_add(bytes) > bytes_max {
            inner.plugin_commands_refused.fetch_add(1, Ordering::Relaxed);
            inner.signal.raise();
            return false;
        }
        inner.plugin_commands_waiting.fetch_add(1, Ordering::Relaxed);
        inner.plugin_commands_bytes.fetch_add(bytes, Ordering::Relaxed);
        inner.plugin_commands.push(command);
        inner.signal.raise();
        true
    }

    /// Counts a question on behalf of a client that was refused, since nobody could be told the answer. Any thread.
    pub fn refuse_question(&self) {
        self.inner.questions_refused.fetch_add(1, Ordering::Relaxed);
        self.inner.signal.raise();
    }

    /// For the shard's loop: how many were refused since the last time.
    pub fn take_refused_questions(&self) -> u64 {
        match self.inner.questions_refused.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.inner.questions_refused.swap(0, Ordering::Relaxed),
        }
    }

    /// Has a scope authorized again, which is never refused: those that say the same are one. Any thread.
    pub fn invalidate(&self, scope: &Scope) {
        if self.invalidations().add(scope) {
            self.inner.signal.raise();
        }
    }

    fn invalidations(&self) -> MutexGuard<'_, Invalidations> {
        self.inner.invalidations.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// For the shard's loop: the scopes that wait for it.
    pub fn take_invalidations(&self) -> BTreeSet<Scope> {
        std::mem::take(&mut *self.invalidations()).scopes
    }

    /// For the shard's loop: how many have been refused since the last time.
    pub fn take_refused_plugin_commands(&self) -> u64 {
        match self.inner.plugin_commands_refused.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.inner.plugin_commands_refused.swap(0, Ordering::Relaxed),
        }
    }

    /// For the shard's loop: what a plugin asks for next.
    pub fn next_plugin_command(&self) -> Option<PluginCommand> {
        let command = self.inner.plugin_commands.pop()?;
        self.inner.plugin_commands_waiting.fetch_sub(1, Ordering::Relaxed);
        self.inner.plugin_commands_bytes.fetch_sub(command.bytes(), Ordering::Relaxed);
        Some(command)
    }

    /// Makes this thread the shard's own, for [`ShardHandle::here`].
    pub fn enter(&self) {
        HERE.with(|here| *here.borrow_mut() = Some(self.clone()));
    }

    /// The shard whose thread this is, if it is one.
    pub fn here() -> Option<ShardHandle> {
        HERE.try_with(|here| here.borrow().clone()).ok().flatten()
    }

    /// What the shard is doing at this moment. Any thread.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.inner.heartbeat
    }

    /// Asks something of the shell's part of the shard. Any thread.
    pub(crate) fn command(&self, command: Command) {
        self.inner.commands.push(command);
        self.inner.signal.raise();
    }

    pub(crate) fn next_command(&self) -> Option<Command> {
        self.inner.commands.pop()
    }

    fn unanswered(&self, timeout: Duration) -> Unanswered {
        Unanswered { shard: self.id, waited_ms: timeout.as_millis() as u64 }
    }
}
