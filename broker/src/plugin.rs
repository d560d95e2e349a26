//! The plugin loader: finds, checks, loads, reloads and retires plugins while clients are
//! connected. `file` handles a plugin's file and its code, `host` the requests of plugins, and
//! `manager` the transactions over all shards. Shards get only the chain tables, each between two
//! steps.

pub mod check;
mod error;
mod file;
mod host;
mod manager;
mod report;

use grapnel_engine::hook::{Called, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{BehalfRefused, RefusedAnswer, Revoked};

pub use error::LoadError;
pub use file::lookup::is_name;
pub use host::metrics::{MetricReading, MetricValue};
use host::services::Services;
pub use manager::PluginManager;
pub use manager::access::OpenListener;
pub use manager::overrides::{HookChange, HookError};
pub use manager::settings::{LoadRequest, Settings};
pub use manager::stats::{HookStat, HookStats, Times};
pub use manager::verbs::{
    AnswerCallback, PluginVerbs, StartedCall, VerbError, count_failed_verb, count_invalid_verb, verbs_counted,
};
pub use report::{
    ByHand, Configured, HookInfo, HookReport, HookRow, Origin, PluginInfo, PluginList, PluginState, Retired,
    Unloaded,
};

use crate::fatal;

/// The name of the plugin that a shard is calling. Any thread.
pub fn name_of(called: Called) -> Option<String> {
    match called {
        Called::Plugin(handle) => Services::of_process().name_of(handle).map(|name| name.to_string()),
        Called::Hook(link) => {
            let (plugin, _) = fatal::hook_name(link)?.split_once('/')?;
            Some(plugin.to_owned())
        }
    }
}

/// Reports that a shard no longer calls a plugin, because it failed too often there. Returns at
/// once; called by that shard.
pub fn tripped(plugin: PluginHandle, shard: ShardId) {
    Services::of_process().tripped(plugin, shard);
}

/// Logs that an answer of a plugin was refused as a whole. Called by the shard that got the answer.
pub fn answer_refused(refused: &RefusedAnswer) {
    Services::of_process().answer_refused(refused);
}

/// Logs that subscriptions were revoked because the rules of client.authorize have changed. Returns
/// at once; called by the shard of the subscriptions.
pub fn revoked(revoked: Revoked) {
    Services::of_process().revoked(revoked);
}

/// Logs that a plugin's request on behalf of a client was refused. Called by the shard that refused
/// it.
pub fn behalf_refused(refused: &BehalfRefused) {
    Services::of_process().behalf_refused(refused);
}
