//! Generations whose threads still have work to finish, such as calls of clients that a worker
//! process has begun. No chain names them any more. Their requests to the broker are served until
//! their threads end or their time is over. Begun by transactions, checked by the recompiler, and
//! awaited when the broker stops.

use std::sync::Arc;
use std::time::Instant;

use grapnel_plugin_abi::counted;

use super::loader_state::{LoaderState, Retiring, Staged};

impl LoaderState {
    /// Requests the threads of a plugin to end. Threads that have declared a longer time and have
    /// not ended within `plugin_thread_join_ms` go on in the background.
    pub(in crate::plugin) fn end_threads(&mut self, plugin: &Staged) {
        let (handle, join) = (plugin.handle(), self.services.thread_join());
        let patient = self.services.begin_end(handle).filter(|(_, patience)| *patience > join);
        let late =
            patient.filter(|(requested_at, _)| !self.services.wait_ended(handle, *requested_at + join));
        let Some((requested_at, patience)) = late else {
            self.services.end(handle);
            return;
        };
        tracing::info!(
            plugin = &*plugin.name,
            generation = plugin.generation,
            "{} of it may finish pending work, for at most {} ms",
            counted(self.services.threads_left(&plugin.name, plugin.generation), "thread"),
            patience.saturating_sub(requested_at.elapsed()).as_millis()
        );
        self.retiring.push(Retiring { plugin: Arc::clone(plugin), end_requested_at: requested_at, patience });
        self.services.retiring();
    }

    /// Ends the generations whose threads have ended or whose time is over: joins the threads, and
    /// logs the names of those that have not ended. `unload` follows when the last `Arc` of the
    /// shared part is dropped. Returns whether other generations remain.
    pub(in crate::plugin) fn end_retiring(&mut self) -> bool {
        let (now, services) = (Instant::now(), self.services);
        let ends = |retiring: &mut Retiring| {
            retiring.end_requested_at + retiring.patience <= now
                || services.wait_ended(retiring.plugin.handle(), now)
        };
        for retiring in self.retiring.extract_if(.., ends) {
            services.end_within(retiring.plugin.handle(), retiring.patience);
        }
        !self.retiring.is_empty()
    }

    /// Waits for all retiring generations, for each up to its time.
    pub(in crate::plugin) fn wait_retiring(&mut self) {
        for retiring in std::mem::take(&mut self.retiring) {
            self.services.wait_ended(retiring.plugin.handle(), retiring.end_requested_at + retiring.patience);
            self.services.end_within(retiring.plugin.handle(), retiring.patience);
        }
    }
}
