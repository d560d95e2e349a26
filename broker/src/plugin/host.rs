//! The functions that plugins may call outside of events, from any thread: log, metrics, commands,
//! threads, mounts, and the delivery of a deferred verdict to its shard. Plugins call them through
//! the host table of their generation. Independent of loading: the manager admits generations and
//! ends them.

use std::sync::Arc;

use grapnel_engine::limits::Limits;

use crate::shard::handle::ShardHandle;
use crate::shard::limits::ShellLimits;

mod account;
pub(super) mod ancestry;
mod answers;
mod behalf;
pub(super) mod called_hooks;
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

/// Where requests of plugins go, and their limits.
pub(super) struct HostSettings {
    /// Every shard, in order.
    pub shards: Vec<ShardHandle>,
    /// The limits of what one plugin may use.
    pub limits: ShellLimits,
    /// The keys by which clients are assigned to shards:
    /// [`Setup::keys`](grapnel_engine::shard::Setup::keys).
    pub home_keys: [u64; 4],
    /// Limits of the messages that plugins publish, and of the changes of deferred verdicts.
    pub message_limits: Arc<Limits>,
}
