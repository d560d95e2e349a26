//! The live generations of plugins, from before `load` until their end. A request of a plugin is
//! resolved here by its handle; after the end it gets STALE. Used by services and transactions,
//! from any thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use grapnel_engine::hook::PluginHandle;
use grapnel_plugin_abi::raw::Status;

use super::mounts::Mounts;
use super::threads::Threads;
use crate::plugin::file::manifest::Hook;

/// The state that the broker has for a generation.
pub(in crate::plugin) struct LiveGeneration {
    pub handle: PluginHandle,
    pub name: Arc<str>,
    pub threads: Threads,
    pub mounts: Mounts,
}

/// All live generations, and ended ones that still have a running thread.
#[derive(Default)]
pub(in crate::plugin) struct LiveGenerations {
    generations: RwLock<HashMap<u64, Arc<LiveGeneration>>>,
    left: Mutex<Vec<Arc<LiveGeneration>>>,
}

impl LiveGenerations {
    /// Registers a generation, before its `load`.
    pub(in crate::plugin) fn begin(&self, handle: PluginHandle, name: Arc<str>, hooks: &[Hook]) {
        let generation =
            LiveGeneration { handle, name, threads: Threads::default(), mounts: Mounts::beside(hooks) };
        let generation = Arc::new(generation);
        self.generations.write().unwrap_or_else(PoisonError::into_inner).insert(handle.0, generation);
    }

    /// The generation of a handle.
    ///
    /// # Errors
    /// STALE if it has ended.
    pub(in crate::plugin) fn of(&self, handle: u64) -> Result<Arc<LiveGeneration>, Status> {
        self.generations
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle)
            .cloned()
            .ok_or(Status::STALE)
    }

    /// Requests the threads of a generation to end; the generation stays live. Returns when they
    /// were first requested to end, and how long they may take from then on. `None` if it has
    /// ended.
    pub(in crate::plugin) fn begin_end(&self, handle: PluginHandle) -> Option<(Instant, Duration)> {
        self.of(handle.0).ok().map(|generation| generation.threads.request_end())
    }

    /// Waits for the threads of a generation to end, at most until `until`. Returns whether they
    /// have ended.
    pub(in crate::plugin) fn wait_ended(&self, handle: PluginHandle, until: Instant) -> bool {
        self.of(handle.0).map_or(true, |generation| generation.threads.wait_ended(until))
    }

    /// The longest time that the threads of any live generation may take to end.
    pub(in crate::plugin) fn patience(&self) -> Duration {
        let living = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        living.values().map(|generation| generation.threads.patience()).max().unwrap_or_default()
    }

    /// How much longer the threads of an ending generation may take; `None` if it is not ending, or
    /// has ended.
    pub(in crate::plugin) fn ends_within(&self, handle: PluginHandle) -> Option<Duration> {
        let generation = self.of(handle.0).ok()?;
        let until = generation.threads.ending_since()? + generation.threads.patience();
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Removes a generation, requests its threads to end and joins them. Returns how many have not
    /// ended within the time. May be called again.
    pub(in crate::plugin) fn end(&self, handle: PluginHandle, join: Duration) -> usize {
        let life = self.generations.write().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        let Some(life) = life else { return self.threads_left(handle) };
        let left = life.threads.stop(join);
        if left.is_empty() {
            return 0;
        }
        tracing::error!(
            plugin = &*life.name,
            generation = handle.0 >> 32,
            "the plugin has ended, but {} of its threads have not ended within {} ms: {}; they must return soon after \
             wait_stop has said so",
            left.len(),
            join.as_millis(),
            left.join(", ")
        );
        self.left().push(life);
        left.len()
    }

    /// How many threads of an ended or ending generation still run.
    pub(in crate::plugin) fn threads_left(&self, handle: PluginHandle) -> usize {
        let mut left = self.left();
        left.retain(|generation| generation.threads.running() > 0);
        let left = left.iter().find(|generation| generation.handle == handle).map(Arc::clone);
        let ending = self.of(handle.0).ok().filter(|generation| generation.threads.ending_since().is_some());
        left.or(ending).map_or(0, |generation| generation.threads.running())
    }

    fn left(&self) -> MutexGuard<'_, Vec<Arc<LiveGeneration>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
