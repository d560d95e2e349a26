//! Work that plugins and shards request and that no shard may wait for: the recompiler of the manager
//! does it, on its thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use grapnel_engine::hook::PluginHandle;
use grapnel_engine::id::ShardId;

use super::revocations::Revocations;

/// One piece of it.
pub(in crate::plugin) enum Job {
    /// Something has changed about what is in the chains.
    Compile,
    /// A shard has tripped a plugin.
    Tripped(PluginHandle, ShardId),
    /// A generation is to end.
    Retiring,
    /// Subscriptions were revoked, after a while without.
    Revoked,
    /// The manager ends.
    Stop,
}

/// Where jobs are handed in. Any thread; cheap to clone.
#[derive(Clone)]
pub(in crate::plugin) struct Jobs {
    pub(in crate::plugin) sender: Sender<Job>,
    /// One that has not been taken up is enough for all.
    pub(in crate::plugin) waiting: Arc<AtomicBool>,
    /// What the log has not been told yet.
    pub(in crate::plugin) revoked: Arc<Mutex<Revocations>>,
}

impl Jobs {
    /// Has the chains compiled again. Returns at once.
    pub(in crate::plugin) fn remount(&self) {
        if !self.waiting.swap(true, Ordering::AcqRel) {
            // The recompiler has gone with its manager: there are no chains left.
            let _ = self.sender.send(Job::Compile);
        }
    }

    /// Trips a plugin on all shards, because one has done so. Returns at once.
    pub(in crate::plugin) fn tripped(&self, plugin: PluginHandle, shard: ShardId) {
        // As above.
        let _ = self.sender.send(Job::Tripped(plugin, shard));
    }

    /// Has the log told of subscriptions that were revoked: by this plugin, or, where there is none, as nobody allows them.
    /// Returns at once.
    pub(in crate::plugin) fn revoked(&self, plugin: Option<Arc<str>>, subscriptions: u64) {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if revoked.add(plugin, subscriptions, Instant::now()) {
            // As above.
            let _ = self.sender.send(Job::Revoked);
        }
    }

    /// Has a generation ended when its threads have, or its time is over. Returns at once.
    pub(in crate::plugin) fn retiring(&self) {
        // As above.
        let _ = self.sender.send(Job::Retiring);
    }
}
