//! The rows about plugins for ctl and the log. They contain nothing of a plugin's configuration,
//! which may hold secrets.

use std::path::PathBuf;

use grapnel_engine::hook::FaultPolicy;

use serde::{Deserialize, Serialize};

/// Whether a plugin works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum PluginState {
    /// Loaded and active on every shard.
    Loaded,
    /// Loaded, and not called because it failed too often: where.
    Tripped(String),
    /// Loaded with its configuration and its instances, and in no chain until it is enabled again.
    Disabled,
    /// Wanted by the configuration or the record, and not loaded: why.
    Failed(String),
}

/// Who wants a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The configuration file.
    Configured,
    /// Loaded through ctl; it comes back after a restart.
    Recorded,
    /// Loaded through ctl for this run alone.
    Once,
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Name it goes by here.
    pub name: String,
    /// Loaded or failed.
    #[serde(flatten)]
    pub state: PluginState,
    /// Version the plugin gives itself; empty if it failed.
    pub version: String,
    /// What it says it does.
    pub description: String,
    /// What it was built with.
    pub sdk: String,
    /// Its file, if one was found.
    pub file: Option<PathBuf>,
    /// Who wants it.
    pub origin: Origin,
    /// 1 for the first load under this name, one more with each that is tried after it; 0 if it failed.
    pub generation: u32,
    /// Priority the operator gave to all of its hooks.
    pub priority: Option<i32>,
    /// Its hooks, in its own order.
    pub hooks: Vec<HookInfo>,
    /// Plugins that it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends: Vec<String>,
    /// Whether it says that its library may be unmapped, which is not done.
    #[serde(default)]
    pub closable: bool,
    /// JSON Schema of its configuration, if it has one; only where one plugin is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<serde_json::Value>,
    /// Memory its code and data take.
    pub mapped_bytes: u64,
    /// When it was loaded, milliseconds since 1970.
    pub loaded_at_ms: u64,
    /// What went wrong beside, such as a record that could not be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A hook of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookInfo {
    /// Hook point.
    pub point: String,
    /// The hook's name within the plugin.
    pub name: String,
    /// Priority in force.
    pub priority: i32,
    /// How long a deferred verdict may take, milliseconds; 0 for the broker's default.
    #[serde(default)]
    pub deadline_ms: u32,
    /// What a fault or a missed deadline means: `deny` or `ignore`.
    #[serde(default)]
    pub policy: String,
    /// The topics it is called for; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Whether it is asked for deliveries too, at client.authorize.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deliver: bool,
    /// Whether the operator keeps it out of its chain, in the configuration or by `hooks unmount`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmounted: bool,
}

impl HookInfo {
    /// As the operator names it: `POINT/HOOK`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.point, self.name)
    }
}

/// A plugin that was loaded by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// The plugin.
    #[serde(flatten)]
    pub plugin: PluginInfo,
    /// Where the configuration says what it has, if that was taken: a line of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured_at: Option<String>,
}

/// What became of a new configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// Whether the plugin was reloaded for it; else it took it while it ran.
    pub reloaded: bool,
    /// The plugin with it.
    pub plugin: PluginInfo,
}

/// What an unloaded plugin leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unloaded {
    /// Its name.
    pub unloaded: String,
    /// Memory that its code and data keep until the broker ends; 0 where it had not been loaded.
    pub mapped_bytes: u64,
    /// Threads of it that have not ended although they were asked to.
    #[serde(default)]
    pub threads_left: usize,
    /// Where they bring something to its end: how much longer they may take for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_within_ms: Option<u64>,
}

/// A generation that no chain calls any more, and whose code is still mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Name it went by.
    pub name: String,
    /// Version it gave itself; empty if it never got so far.
    pub version: String,
    /// Which load of that name; 0 if it never was loaded.
    pub generation: u32,
    /// Memory its code and data still take.
    pub mapped_bytes: u64,
    /// Threads of it that have not ended although they were asked to.
    #[serde(default)]
    pub threads_left: usize,
    /// Where they bring something to its end: how much longer they may take for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_within_ms: Option<u64>,
}

/// All plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginList {
    /// Those that are loaded, in order of loading, then those that failed.
    pub plugins: Vec<PluginInfo>,
    /// Generations that are gone but mapped.
    pub retired: Vec<Retired>,
}

/// One place of a compiled chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRow {
    /// Hook point.
    pub point: String,
    /// Place in the chain, from 1; 0 for a point without a link, which `--all` shows.
    pub place: u32,
    /// Plugin; empty where the place is 0.
    pub plugin: String,
    /// The hook's name within the plugin.
    pub hook: String,
    /// Priority in force.
    pub priority: i32,
    /// Generation of the plugin.
    pub generation: u32,
    /// Whether it is in the chain; false where the operator has unmounted it, and the place is 0.
    #[serde(default)]
    pub mounted: bool,
    /// How long a deferred verdict may take, milliseconds.
    #[serde(default)]
    pub deadline_ms: u32,
    /// What a fault or a missed deadline means: `deny` or `ignore`.
    #[serde(default)]
    pub policy: String,
    /// The topics it is called for; empty for all.
    #[serde(default)]
    pub topics: Vec<String>,
    /// What the operator has overridden: `priority`, `deadline_ms`, `fault_policy`, `mounted`.
    #[serde(default)]
    pub overridden: Vec<String>,
    /// Whether its plugin is tripped: it is not called and acts by its policy.
    #[serde(default)]
    pub tripped: bool,
    /// Times it was called, over all shards.
    pub calls: u64,
    /// Times it ended the chain.
    pub stops: u64,
    /// Times it answered later.
    pub deferrals: u64,
    /// Panics, nonsense and missed deadlines.
    pub faults: u64,
}

/// The compiled chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReport {
    /// In the order of the points, and within a point in the order of the calls.
    pub rows: Vec<HookRow>,
    /// Version of the chain tables.
    pub generation: u64,
    /// Shards that did not answer: their counts since the last change of the chains are missing.
    pub unanswered: Vec<u8>,
}

/// A policy in a word.
pub(in crate::plugin) fn policy_name(policy: FaultPolicy) -> &'static str {
    match policy {
        FaultPolicy::Deny => "deny",
        FaultPolicy::Ignore => "ignore",
    }
}
