//! What plugins may request of the broker outside of events, from any thread: log, metrics, commands,
//! threads, mounts, and the way of a deferred verdict to its shard. Called through the host table that
//! each generation is given. Knows nothing of loading: the manager admits generations and ends them.

use std::sync::Arc;

use grapnel_engine::limits::Limits;

use crate::shard::handle::ShardHandle;
use crate::shard::limits::ShellLimits;

pub(super) mod ancestry;
mod answers;
mod behalf;
mod commands;
mod flows;
pub(super) mod generations;
pub(super) mod jobs;
pub(super) mod leaked;
pub(super) mod metrics;
pub(super) mod mounts;
pub(super) mod revocations;
pub(super) mod services;
mod suspended;
mod threads;

/// Whom requests of plugins go to, and within which bounds.
pub(super) struct HostSettings {
    /// Every shard, in order.
    pub shards: Vec<ShardHandle>,
    /// What one plugin may have of the broker.
    pub limits: ShellLimits,
    /// By which the shards share out the clients: [`Setup::keys`](grapnel_engine::shard::Setup::keys).
    pub home_keys: [u64; 4],
    /// Bounds of the messages that plugins publish, and of the changes that come with deferred verdicts.
    pub message_limits: Arc<Limits>,
}
