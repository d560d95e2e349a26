//! Jobs that plugins and shards request and that no shard may wait for. The manager's recompiler
//! executes them on its thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use grapnel_engine::hook::PluginHandle;
use grapnel_engine::id::ShardId;

use super::revocations::Revocations;

/// A job for the recompiler.
pub(in crate::plugin) enum Job {
    /// The hooks of a plugin have changed.
    Compile,
    /// A shard has tripped a plugin.
    Tripped(PluginHandle, ShardId),
    /// A generation ends in the background.
    Retiring,
    /// Subscriptions were revoked; the first ones since the last log line.
    Revoked,
    /// The manager ends.
    Stop,
}

/// The recompiler's queue. Any thread; cheap to clone.
#[derive(Clone)]
pub(in crate::plugin) struct Jobs {
    pub(in crate::plugin) sender: Sender<Job>,
    /// Set while a `Compile` job waits: one job is enough for all changes.
    pub(in crate::plugin) waiting: Arc<AtomicBool>,
    /// Revocations that are not in the log yet.
    pub(in crate::plugin) revoked: Arc<Mutex<Revocations>>,
}

impl Jobs {
    /// Requests that the chains are compiled again. Returns at once.
    pub(in crate::plugin) fn remount(&self) {
        if !self.waiting.swap(true, Ordering::AcqRel) {
            // The recompiler ends with its manager, and then there are no chains left.
            let _ = self.sender.send(Job::Compile);
        }
    }

    /// Requests that a plugin is tripped on all shards, because one shard has tripped it. Returns
    /// at once.
    pub(in crate::plugin) fn tripped(&self, plugin: PluginHandle, shard: ShardId) {
        // As above.
        let _ = self.sender.send(Job::Tripped(plugin, shard));
    }

    /// Requests a log line about revoked subscriptions: refused by this plugin, or, if there is
    /// none, allowed by no plugin. Returns at once.
    pub(in crate::plugin) fn revoked(&self, plugin: Option<Arc<str>>, subscriptions: u64) {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if revoked.add(plugin, subscriptions, Instant::now()) {
            // As above.
            let _ = self.sender.send(Job::Revoked);
        }
    }

    /// Requests that a generation is ended when its threads have ended or its time is over. Returns
    /// at once.
    pub(in crate::plugin) fn retiring(&self) {
        // As above.
        let _ = self.sender.send(Job::Retiring);
    }
}
