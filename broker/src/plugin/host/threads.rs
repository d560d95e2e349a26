//! Threads that the broker starts for a plugin and joins at its end. Plugins start them through the
//! services. At the end of a generation they are asked to stop, and the loader waits for a bounded
//! time, or in the background if a thread has declared work to finish. A thread that has not ended
//! then goes on; the log names it and the list of plugins counts it, since a thread cannot be ended
//! from outside.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::raw::Status;

/// Bytes of a name that are kept.
const NAME_BYTES_MAX: usize = 64;

/// The threads of one generation.
#[derive(Default)]
pub(in crate::plugin) struct Threads {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A thread has ended, or all are to.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Since when they are to end.
    stopping: Option<Instant>,
    started: u64,
    running: Vec<Running>,
}

/// What a thread is for; those of a kind are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum For {
    /// What the plugin has started it for.
    Itself,
    /// A call of a verb.
    Verb,
}

struct Running {
    number: u64,
    of: For,
    name: String,
    /// The body has returned; what is left of the thread is the system's.
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

/// Says that a thread's body is over, however it came to that.
struct Leaving {
    number: u64,
    shared: Arc<Shared>,
}

impl Drop for Leaving {
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
    /// Starts a thread, unless `max` of its kind run already, that may take `patience` to end. What `before` gives on it lives as long
    /// as its body runs. `after` gets what the body gives once the thread does not count any more: whoever learns of it may start
    /// the next one. It must use nothing of the plugin.
    ///
    /// # Errors
    /// INVALID for a name with a zero byte, STALE at the plugin's end, FULL beyond `max`, FAILED where the system has none. The
    /// body is not run then.
    pub(in crate::plugin) fn spawn<G: 'static, T: 'static>(
        &self,
        name: &str,
        (of, max): (For, u64),
        patience: Duration,
        before: impl FnOnce() -> G + Send + 'static,
        body: impl FnOnce() -> T + Send + 'static,
        after: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), Status> {
        if name.contains('\0') {
            return Err(Status::INVALID);
        }
        let name: String = name.chars().take(NAME_BYTES_MAX).collect();
        // Held until the thread is in the list: whoever ends the plugin sees all of them.
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
            let leaving = Leaving { number, shared };
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

    /// Waits until the plugin is to end; whether it is.
    pub(in crate::plugin) fn wait_stop(&self, timeout: Duration) -> bool {
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, timeout, |state| state.stopping.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping.is_some()
    }

    /// Asks all threads to end. When they were first asked, and how long the last of them may take from then on.
    pub(in crate::plugin) fn request_end(&self) -> (Instant, Duration) {
        let mut state = self.shared.state();
        let now = Instant::now();
        let first = *state.stopping.get_or_insert(now);
        self.shared.changed.notify_all();
        (first, state.patience())
    }

    /// How long the last of them may take to end.
    pub(in crate::plugin) fn patience(&self) -> Duration {
        self.shared.state().patience()
    }

    /// Since when they are to end, if they are.
    pub(in crate::plugin) fn ending_since(&self) -> Option<Instant> {
        self.shared.state().stopping
    }

    /// Waits until all have ended, or for the time; whether they have.
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

    /// Asks all threads to end and joins those that do within the time, which began when they were first asked. The names of the
    /// others.
    pub(in crate::plugin) fn stop(&self, timeout: Duration) -> Vec<String> {
        let (asked, _) = self.request_end();
        self.wait_ended(asked + timeout);
        let mut state = self.shared.state();
        let (ended, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.running).into_iter().partition(|running| running.ended);
        state.running = left;
        let names = state.running.iter().map(|running| running.name.clone()).collect();
        drop(state);
        for running in ended {
            // Its body has returned and the SDK has logged a panic in it.
            let _ = running.handle.join();
        }
        names
    }

    /// How many have not ended.
    pub(in crate::plugin) fn running(&self) -> usize {
        self.shared.state().running.iter().filter(|running| !running.ended).count()
    }
}
