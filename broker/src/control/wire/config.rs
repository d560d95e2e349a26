//! The JSON types of the configuration. Those of a reload are in `reload`.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigSettings {
    /// The configuration file, if there is one.
    pub file: Option<String>,
    /// All keys that have a value, in the order in which `--print-default-config` has them.
    pub settings: Vec<ConfigSetting>,
}

/// One key of the configuration in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigSetting {
    /// Its path; those of a listener or plugin have its name in it.
    pub key: String,
    /// Its value. Texts of the configuration of a plugin are hidden.
    pub value: serde_json::Value,
    /// Where it was set: `default`, a file with a line, a variable or an option.
    pub source: String,
    /// Whether a change of it needs a restart of the broker.
    pub needs_restart: bool,
}
