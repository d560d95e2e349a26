//! Generations whose threads have work to finish, such as calls of clients that a worker process
//! has begun. No chain names them any more; their requests to the broker are served until their
//! threads end or their time is over. Begun by transactions, watched by the recompiler
//! (`attendant`), and awaited when the broker stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::services;
use super::transaction::{Staged, Workshop};

/// A generation on its way out.
pub(super) struct Retiring {
    plugin: Staged,
    /// Since when its threads are to end, and how long they may take from then on.
    asked: Instant,
    patience: Duration,
}

impl Retiring {
    /// Joins its threads, or names in the log those that have not ended. Its own end is next, with the last that holds it.
    fn end(self) {
        services::end_within(self.plugin.handle(), self.patience);
    }
}

impl Workshop {
    /// Asks the threads of a plugin to end. Where those that take their time have not ended within `plugin_thread_join_ms`, they go on
    /// in the background.
    pub(super) fn end_threads(&mut self, plugin: &Staged) {
        let (handle, join) = (plugin.handle(), services::thread_join());
        let patient = services::begin_end(handle).filter(|(_, patience)| *patience > join);
        let late = patient.filter(|(asked, _)| !services::wait_ended(handle, *asked + join));
        let Some((asked, patience)) = late else {
            services::end(handle);
            return;
        };
        tracing::info!(
            plugin = &*plugin.name,
            generation = plugin.generation,
            "{} of its threads bring to its end what they have begun, for at most {} ms more",
            services::threads_left(&plugin.name, plugin.generation),
            patience.saturating_sub(asked.elapsed()).as_millis()
        );
        self.retiring.push(Retiring { plugin: Arc::clone(plugin), asked, patience });
        services::retiring();
    }

    /// Ends those whose threads have ended or whose time is over; whether there are others.
    pub(super) fn end_retiring(&mut self) -> bool {
        let now = Instant::now();
        let ends = |retiring: &mut Retiring| {
            retiring.asked + retiring.patience <= now || services::wait_ended(retiring.plugin.handle(), now)
        };
        self.retiring.extract_if(.., ends).for_each(Retiring::end);
        !self.retiring.is_empty()
    }

    /// Waits for all of them, each as long as it may take.
    pub(super) fn wait_retiring(&mut self) {
        for retiring in std::mem::take(&mut self.retiring) {
            services::wait_ended(retiring.plugin.handle(), retiring.asked + retiring.patience);
            retiring.end();
        }
    }
}
