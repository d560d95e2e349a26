//! What the operator requests for a plugin, by the configuration or by ctl. Used by every
//! transaction.

use super::json_merge::merged;
use crate::config::PluginConfig;
use crate::plugin::report::Origin;

/// What the operator requested for a plugin: enough to load it again.
#[derive(Clone)]
pub(in crate::plugin) struct RequestedPlugin {
    /// Name of the plugin here. `None` if only a path was given and the plugin has not been opened
    /// yet.
    pub name: Option<String>,
    /// Name or path, from which the file is looked up.
    pub source: String,
    /// A JSON object.
    pub config: serde_json::Value,
    pub priority: Option<i32>,
    pub origin: Origin,
    /// Whether the broker does not start without it.
    pub required: bool,
    /// Loaded, but in no chain.
    pub disabled: bool,
}

impl RequestedPlugin {
    /// What the configuration requests for a plugin.
    pub(in crate::plugin) fn configured(plugin: &PluginConfig, disabled: bool) -> RequestedPlugin {
        RequestedPlugin {
            name: Some(plugin.name.clone()),
            source: plugin
                .path
                .as_ref()
                .map_or_else(|| plugin.name.clone(), |path| path.display().to_string()),
            config: plugin.config.clone(),
            priority: plugin.priority,
            origin: Origin::Configured,
            required: plugin.required.unwrap_or(false),
            disabled,
        }
    }

    /// The same request; values that it leaves out come from `table`, the plugin's part of the
    /// configuration.
    pub(in crate::plugin) fn over(self, table: &PluginConfig) -> RequestedPlugin {
        let config = match self.config {
            serde_json::Value::Null => table.config.clone(),
            said => merged(table.config.clone(), said),
        };
        RequestedPlugin { config, priority: self.priority.or(table.priority), ..self }
    }
}
