//! How other threads reach a shard: queues for requests and verdicts, and one wake for any number
//! of them. Used by the control plane, the plugin loader and threads of plugins. Only the shard's
//! own loop takes from the queues.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::task::Waker;
use std::time::Duration;

use crossbeam::queue::SegQueue;
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{Command as PluginCommand, Completion, Scope, Shard};

use super::heartbeat::Heartbeat;
use super::limits::ShellLimits;
use crate::net::{ListenerRules, Listening};

/// A job for a shard, run with its engine between two steps of its loop.
pub type Job = Box<dyn FnOnce(&mut Shard) + Send>;

/// Requests to the shell's part of the shard.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept connections from these listeners from now on.
    Listen(Vec<Listening>),
    /// Close the sockets of the listener with this name. Connections that it has accepted stay.
    Unlisten(Arc<str>),
    /// Connections that the listener with this name accepts from now on get these properties, which
    /// may have another name.
    Relisten(Arc<str>, Arc<ListenerRules>),
    /// Use these limits from now on. What was made with others keeps them: buffers, lanes, and the
    /// descriptors that an acceptor leaves free.
    Limits(Arc<ShellLimits>),
    /// Accept no more connections, disconnect all clients, report when that is done, and continue
    /// to serve the mesh.
    Drain,
    /// End without waiting.
    Stop,
}

/// A shard that did not answer in time or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} did not answer within {waited_ms} ms; a hook may be blocking it (see the log)")]
pub struct Unanswered {
    /// Which shard.
    pub shard: ShardId,
    /// How long the caller waited, milliseconds.
    pub waited_ms: u64,
}

/// Wakes the shard's loop from any thread.
#[derive(Debug, Default)]
pub struct Signal {
    raised: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Signal {
    /// Wakes the loop, unless a wake is pending.
    pub fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst)
            && let Some(waker) = self.waker.get()
        {
            waker.wake_by_ref();
        }
    }

    /// For the shard's loop, before it reads its queues: a later raise wakes again. Returns whether
    /// a wake was pending.
    pub fn lower(&self) -> bool {
        self.is_raised() && self.raised.swap(false, Ordering::SeqCst)
    }

    /// Whether a wake is pending.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Sets the waker, once. After this the loop must check its queues before it waits.
    pub fn register(&self, waker: Waker) {
        // A signal belongs to one shard, which registers one waker.
        let _ = self.waker.set(waker);
    }
}

/// Maximum number of refused answers that wait to be counted. Further ones are not counted.
const REFUSED_WAITING_MAX: usize = 1024;

/// Maximum number of scopes that wait to be authorized again. Beyond it, the one scope for
/// everything replaces them. A turn handles as many in a millisecond.
const INVALIDATIONS_MAX: usize = 1024;
/// Maximum size in bytes of the names in these scopes; handled in the same way.
const INVALIDATIONS_BYTES_MAX: usize = 256 << 10;

/// The scopes that are to be authorized again; equal ones are merged.
#[derive(Default)]
struct Invalidations {
    scopes: BTreeSet<Scope>,
    /// Bytes of the names in the scopes.
    bytes: usize,
}

impl Invalidations {
    /// Adds a scope; false if it is covered already.
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
    requests_refused: AtomicU64,
    invalidations: Mutex<Invalidations>,
    signal: Signal,
    heartbeat: Heartbeat,
}

thread_local! {
    static HERE: RefCell<Option<ShardHandle>> = const { RefCell::new(None) };
}

/// A shard for other threads. Cheap to clone.
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
    /// A handle whose shard has not started yet; jobs wait until it does.
    pub fn new(id: ShardId) -> ShardHandle {
        ShardHandle { id, inner: Arc::default() }
    }

    /// The shard's id.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Submits a job and returns at once. Any thread.
    pub fn submit(&self, job: Job) {
        self.inner.jobs.push(job);
        self.inner.signal.raise();
    }

    /// Runs `work` on the shard and waits for its answer. Blocks: must not be called on a shard or
    /// on the control plane's executor.
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
            // The caller may have given up; the answer is then dropped.
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
            // The caller may have given up; the answer is then dropped.
            let _ = sender.send(work(shard));
        }));
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(self.unanswered(timeout)),
        }
    }

    /// Passes a deferred verdict to the shard. Any thread.
    pub fn complete(&self, completion: Completion) {
        self.inner.completions.push(completion);
        self.inner.signal.raise();
    }

    /// Reports that the answer to this ticket was refused, with the reason. The shard counts it and
    /// finds the hook of the ticket. Any thread.
    pub fn refuse_answer(&self, ticket: u64, reason: String) {
        // Several threads may pass the check at once, so that the limit can be exceeded by their
        // number.
        if self.inner.refused.len() < REFUSED_WAITING_MAX {
            self.inner.refused.push((ticket, reason));
            self.inner.signal.raise();
        }
    }

    /// Wakes the shard's loop, after something was put into a lane.
    pub fn wake(&self) {
        self.inner.signal.raise();
    }

    /// For the shard's loop: the wake signal.
    pub fn signal(&self) -> &Signal {
        &self.inner.signal
    }

    /// For the shard's loop: the next job.
    pub fn next_job(&self) -> Option<Job> {
        self.inner.jobs.pop()
    }

    /// For the shard's loop: the next deferred verdict.
    pub fn next_completion(&self) -> Option<Completion> {
        self.inner.completions.pop()
    }

    /// For the shard's loop: the next refused answer. Must be taken before the completions that
    /// came after it.
    pub fn next_refused(&self) -> Option<(u64, String)> {
        self.inner.refused.pop()
    }

    /// Queues a command of a plugin. If `max` commands wait already, or if all would have more than
    /// `bytes_max` bytes, the command is only counted as refused, and the result is false. Any
    /// thread.
    pub fn push_plugin_command(&self, command: PluginCommand, max: usize, bytes_max: usize) -> bool {
        let (inner, bytes) = (&*self.inner, command.bytes());
        // Several threads may pass the check at once, so that the limits can be exceeded by their
        // number.
        let (count, waiting) = (
            inner.plugin_commands_waiting.load(Ordering::Relaxed),
            inner.plugin_commands_bytes.load(Ordering::Relaxed),
        );
        // A command larger than `bytes_max` is accepted if no other waits: it would otherwise never
        // be.
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

    /// Counts a request on behalf of a client that was refused because too many answers wait for
    /// the plugin. Any thread.
    pub fn refuse_request(&self) {
        self.inner.requests_refused.fetch_add(1, Ordering::Relaxed);
        self.inner.signal.raise();
    }

    /// For the shard's loop: the number of such refusals since the last call.
    pub fn take_refused_requests(&self) -> u64 {
        match self.inner.requests_refused.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.inner.requests_refused.swap(0, Ordering::Relaxed),
        }
    }

    /// Requests that a scope is authorized again. Never refused; equal scopes are merged. Any
    /// thread.
    pub fn invalidate(&self, scope: &Scope) {
        if self.invalidations().add(scope) {
            self.inner.signal.raise();
        }
    }

    fn invalidations(&self) -> MutexGuard<'_, Invalidations> {
        self.inner.invalidations.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// For the shard's loop: takes the scopes that are to be authorized again.
    pub fn take_invalidations(&self) -> BTreeSet<Scope> {
        std::mem::take(&mut *self.invalidations()).scopes
    }

    /// For the shard's loop: the number of refused commands since the last call.
    pub fn take_refused_plugin_commands(&self) -> u64 {
        match self.inner.plugin_commands_refused.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.inner.plugin_commands_refused.swap(0, Ordering::Relaxed),
        }
    }

    /// For the shard's loop: the next command of a plugin.
    pub fn next_plugin_command(&self) -> Option<PluginCommand> {
        let command = self.inner.plugin_commands.pop()?;
        self.inner.plugin_commands_waiting.fetch_sub(1, Ordering::Relaxed);
        self.inner.plugin_commands_bytes.fetch_sub(command.bytes(), Ordering::Relaxed);
        Some(command)
    }

    /// Registers this thread as the shard's own, for [`ShardHandle::here`].
    pub fn enter(&self) {
        HERE.with(|here| *here.borrow_mut() = Some(self.clone()));
    }

    /// The shard of this thread, if it is a shard's thread.
    pub fn here() -> Option<ShardHandle> {
        HERE.try_with(|here| here.borrow().clone()).ok().flatten()
    }

    /// The current activity of the shard. Any thread.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.inner.heartbeat
    }

    /// Sends a request to the shell's part of the shard. Any thread.
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
