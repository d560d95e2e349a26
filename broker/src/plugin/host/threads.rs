//! Threads that the broker starts for a plugin and joins at its end. Plugins start them through the
//! services. At the end of a generation they are requested to stop. The loader waits for a bounded
//! time, or in the background if a thread has declared work to finish. A thread that has not ended
//! by then goes on, because a thread cannot be ended from outside; it is logged and counted in the
//! list of plugins.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::raw::Status;

/// Bytes of a name that are used.
const NAME_BYTES_MAX: usize = 64;

/// The first bytes of a name, in whole characters.
fn shortened(name: &str) -> &str {
    let end = (0..=name.len().min(NAME_BYTES_MAX)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

/// The threads of one generation.
#[derive(Default)]
pub(in crate::plugin) struct Threads {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a thread has ended, or when all are requested to end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When the threads were requested to end.
    stopping: Option<Instant>,
    started: u64,
    running: Vec<Running>,
}

/// The purpose of a thread; each purpose has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum Purpose {
    /// Started by the plugin for its own work.
    Itself,
    /// A call of a verb.
    Verb,
}

struct Running {
    number: u64,
    of: Purpose,
    name: String,
    /// The body has returned; the thread itself may still be ending.
    ended: bool,
    /// How long it may take to end.
    patience: Duration,
    handle: JoinHandle<()>,
}

impl State {
    fn patience(&self) -> Duration {
        let running = self.running.iter().filter(|running| !running.ended);
        running.map(|running| running.patience).max().unwrap_or_default()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a thread's body as ended, also after a panic.
struct EndGuard {
    number: u64,
    shared: Arc<Shared>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(running) = state.running.iter_mut().find(|running| running.number == self.number) {
            running.ended = true;
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Threads {
    /// Starts a thread, unless `max` threads of its purpose are running. It may take `patience` to
    /// end. The result of `before` lives as long as the body runs. `after` gets the result of the
    /// body once the thread no longer counts, so that `after` may lead to the start of the next
    /// thread. `after` must not use anything of the plugin.
    ///
    /// # Errors
    /// INVALID for a name with a zero byte, STALE at the plugin's end, FULL beyond `max`, FAILED if
    /// the system cannot start a thread. The body is then not run.
    pub(in crate::plugin) fn spawn<G: 'static, T: 'static>(
        &self,
        name: &str,
        (of, max): (Purpose, u64),
        patience: Duration,
        before: impl FnOnce() -> G + Send + 'static,
        body: impl FnOnce() -> T + Send + 'static,
        after: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), Status> {
        if name.contains('\0') {
            return Err(Status::INVALID);
        }
        let name = shortened(name).to_owned();
        // Locked until the thread is in the list, so that an end of the plugin sees all threads.
        let mut state = self.shared.state();
        if state.stopping.is_some() {
            return Err(Status::STALE);
        }
        state.running.retain(|running| !(running.ended && running.handle.is_finished()));
        let counts = |running: &&Running| running.of == of && !running.ended;
        if state.running.iter().filter(counts).count() as u64 >= max {
            return Err(Status::FULL);
        }
        state.started += 1;
        let number = state.started;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let leaving = EndGuard { number, shared };
            let guard = before();
            let given = body();
            drop((guard, leaving));
            after(given);
        });
        let handle = thread.map_err(|error| {
            tracing::warn!("the system starts no thread {name} for a plugin: {error}");
            Status::FAILED
        })?;
        state.running.push(Running { number, of, name, ended: false, patience, handle });
        Ok(())
    }

    /// Waits until the plugin is to end. Returns whether it is.
    pub(in crate::plugin) fn wait_stop(&self, timeout: Duration) -> bool {
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, timeout, |state| state.stopping.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping.is_some()
    }

    /// Requests all threads to end. Returns when they were first requested to end, and how long the
    /// slowest may take from then on.
    pub(in crate::plugin) fn request_end(&self) -> (Instant, Duration) {
        let mut state = self.shared.state();
        let now = Instant::now();
        let first = *state.stopping.get_or_insert(now);
        self.shared.changed.notify_all();
        (first, state.patience())
    }

    /// The longest time that any of the threads may take to end.
    pub(in crate::plugin) fn patience(&self) -> Duration {
        self.shared.state().patience()
    }

    /// When the threads were requested to end, if they were.
    pub(in crate::plugin) fn ending_since(&self) -> Option<Instant> {
        self.shared.state().stopping
    }

    /// Waits for all threads to end, at most until `deadline`. Returns whether they have ended.
    pub(in crate::plugin) fn wait_ended(&self, deadline: Instant) -> bool {
        let mut state = self.shared.state();
        while state.running.iter().any(|running| !running.ended) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Requests all threads to end and joins those that end within the time, counted from the first
    /// such request. Returns the names of the others.
    pub(in crate::plugin) fn stop(&self, timeout: Duration) -> Vec<String> {
        let (requested_at, _) = self.request_end();
        self.wait_ended(requested_at + timeout);
        let mut state = self.shared.state();
        let (ended, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.running).into_iter().partition(|running| running.ended);
        state.running = left;
        let names = state.running.iter().map(|running| running.name.clone()).collect();
        drop(state);
        for running in ended {
            // Its body has returned, and the SDK has logged a panic of it.
            let _ = running.handle.join();
        }
        names
    }

    /// How many threads have not ended.
    pub(in crate::plugin) fn running(&self) -> usize {
        self.shared.state().running.iter().filter(|running| !running.ended).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_name_is_cut_between_two_characters() {
        let a = |count: usize| "a".repeat(count);
        for (name, bytes) in [
            (String::new(), 0),
            (a(NAME_BYTES_MAX), NAME_BYTES_MAX),
            (a(NAME_BYTES_MAX + 1), NAME_BYTES_MAX),
            // Characters of two bytes: they end at the limit, or one byte beyond it.
            ("ü".repeat(NAME_BYTES_MAX / 2), NAME_BYTES_MAX),
            ("ü".repeat(NAME_BYTES_MAX / 2) + "a", NAME_BYTES_MAX),
            (a(1) + &"ü".repeat(NAME_BYTES_MAX / 2), NAME_BYTES_MAX - 1),
            // A character of four bytes of which three would fit.
            (a(NAME_BYTES_MAX - 4) + "🦀", NAME_BYTES_MAX),
            (a(NAME_BYTES_MAX - 3) + "🦀", NAME_BYTES_MAX - 3),
        ] {
            assert_eq!(shortened(&name), &name[..bytes], "{name}");
        }
    }

    #[test]
    fn a_thread_has_the_shortened_name() {
        let threads = Threads::default();
        let (end, wait) = mpsc::channel::<()>();
        let body = move || wait.recv().is_err();
        let name = "ü".repeat(NAME_BYTES_MAX);
        threads.spawn(&name, (Purpose::Itself, 1), Duration::ZERO, || (), body, drop).unwrap();
        assert_eq!(threads.stop(Duration::ZERO), ["ü".repeat(NAME_BYTES_MAX / 2)]);
        drop(end);
        assert!(threads.wait_ended(Instant::now() + Duration::from_secs(20)));
    }
}
