//! The rows about plugins for ctl and the log. They contain nothing of a plugin's configuration,
//! which may hold secrets.

use std::path::PathBuf;

use grapnel_engine::hook::FaultPolicy;

use serde::{Deserialize, Serialize};

/// The state of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum PluginState {
    /// Loaded and active on every shard.
    Loaded,
    /// Loaded, but not called because it failed too often. The text says on which shard.
    Tripped(String),
    /// Loaded with its configuration and its instances, but in no chain until it is enabled again.
    Disabled,
    /// Requested by the configuration or the record, but not loaded. The text says why.
    Failed(String),
}

/// Where the request to load a plugin comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The configuration file.
    Configured,
    /// Loaded through ctl; it is loaded again after a restart.
    Recorded,
    /// Loaded through ctl, until the broker stops.
    Once,
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Name of the plugin here.
    pub name: String,
    /// Its state.
    #[serde(flatten)]
    pub state: PluginState,
    /// Version of its manifest; empty if it failed.
    pub version: String,
    /// Description of its manifest.
    pub description: String,
    /// The SDK that it was built with.
    pub sdk: String,
    /// Path of its file, if a file was found.
    pub file: Option<PathBuf>,
    /// Where the request to load it comes from.
    pub origin: Origin,
    /// Whether the broker does not start without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// 1 for the first load under this name; each further attempt adds 1. 0 if it failed.
    pub generation: u32,
    /// Priority that the operator set for all of its hooks.
    pub priority: Option<i32>,
    /// Its hooks, in the order of its list.
    pub hooks: Vec<HookInfo>,
    /// Plugins that it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends: Vec<String>,
    /// Whether its manifest says that its library may be unmapped. The broker does not unmap it.
    #[serde(default)]
    pub closable: bool,
    /// JSON Schema of its configuration, if it has one; only if a single plugin was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<serde_json::Value>,
    /// Bytes of memory that its code and data take.
    pub mapped_bytes: u64,
    /// When it was loaded, milliseconds since 1970.
    pub loaded_at_ms: u64,
    /// Problems that did not prevent loading, such as a record that could not be written.
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
    /// Maximum time of a deferred verdict, milliseconds; 0 for the broker's default.
    #[serde(default)]
    pub deadline_ms: u32,
    /// The result of a fault or a missed deadline: `deny` or `ignore`.
    #[serde(default)]
    pub policy: String,
    /// The topics it is called for; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Whether it is called for deliveries too, at client.authorize.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deliver: bool,
    /// Whether the operator has unmounted it, in the configuration or by `hooks unmount`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmounted: bool,
}

impl HookInfo {
    /// The name that the operator uses for it: `POINT/HOOK`.
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
    /// The file and line of the configuration whose values were used, if any were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured_at: Option<String>,
}

/// The result of a new configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// Whether the plugin was reloaded for it; otherwise the plugin took it while running.
    pub reloaded: bool,
    /// The plugin with the new configuration.
    pub plugin: PluginInfo,
}

/// What remains of an unloaded plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unloaded {
    /// Its name.
    pub unloaded: String,
    /// Bytes of memory that its code and data take until the broker ends; 0 if it was not loaded.
    pub mapped_bytes: u64,
    /// How many of its threads have not ended although they were requested to.
    #[serde(default)]
    pub threads_left: usize,
    /// If these threads still finish their work: how much longer they may take, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_within_ms: Option<u64>,
}

/// A generation that no chain calls any more, and whose code is still mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Name of the plugin here.
    pub name: String,
    /// Version of its manifest; empty if the manifest was not read.
    pub version: String,
    /// Number of the load of that name; 0 if it was never loaded.
    pub generation: u32,
    /// Bytes of memory that its code and data still take.
    pub mapped_bytes: u64,
    /// How many of its threads have not ended although they were requested to.
    #[serde(default)]
    pub threads_left: usize,
    /// If these threads still finish their work: how much longer they may take, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_within_ms: Option<u64>,
}

/// All plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginList {
    /// The loaded plugins in order of loading, then those that failed.
    pub plugins: Vec<PluginInfo>,
    /// Retired generations that are still mapped.
    pub retired: Vec<Retired>,
}

/// One link of a compiled chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRow {
    /// Hook point.
    pub point: String,
    /// Position in the chain, from 1; 0 for a point without a link, which `--all` lists.
    pub place: u32,
    /// Name of the plugin; empty for a point without a link.
    pub plugin: String,
    /// The hook's name within the plugin.
    pub hook: String,
    /// Priority in force.
    pub priority: i32,
    /// Generation of the plugin.
    pub generation: u32,
    /// Whether it is in the chain; false if the operator has unmounted it, and `place` is then 0.
    #[serde(default)]
    pub mounted: bool,
    /// Maximum time of a deferred verdict, milliseconds.
    #[serde(default)]
    pub deadline_ms: u32,
    /// The result of a fault or a missed deadline: `deny` or `ignore`.
    #[serde(default)]
    pub policy: String,
    /// The topics it is called for; empty for all.
    #[serde(default)]
    pub topics: Vec<String>,
    /// What the operator has overridden: `priority`, `deadline_ms`, `fault_policy`, `mounted`.
    #[serde(default)]
    pub overridden: Vec<String>,
    /// Whether its plugin is tripped: it is not called, and its policy decides.
    #[serde(default)]
    pub tripped: bool,
    /// Times it was called, over all shards.
    pub calls: u64,
    /// Times it ended the chain.
    pub stops: u64,
    /// Times it deferred its verdict.
    pub deferrals: u64,
    /// Panics, invalid answers and missed deadlines.
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

/// The name of a policy.
pub(in crate::plugin) fn policy_name(policy: FaultPolicy) -> &'static str {
    match policy {
        FaultPolicy::Deny => "deny",
        FaultPolicy::Ignore => "ignore",
    }
}
